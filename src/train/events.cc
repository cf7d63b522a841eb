#include "msplora/train/events.h"

#include <fmt/format.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>

#include "core/strict_json.h"
#include "msplora/core/file.h"
#include "msplora/core/log.h"
#include "msplora/core/paths.h"
#include "msplora/core/progress.h"
#include "msplora/train/tensorboard.h"

namespace msplora {
namespace {

class ConsoleSink : public EventSink {
 public:
  explicit ConsoleSink(std::FILE* stream) : stream_(stream) {}

  void on_start(const RunInfo& info) override {
    total_ = info.total_steps;
    progress_.emplace(info.method, info.total_steps, stream_);
    progress_->start_at(info.first_step);
    const std::string what =
        fmt::format("training {} parameters ({})", info.trainable_parameters, info.method);
    progress_->line(info.first_step < info.total_steps
                        ? fmt::format("{}, steps {} to {}", what, info.first_step + 1, info.total_steps)
                        : fmt::format("{}: all {} steps are done", what, info.total_steps));
  }

  void on_step(const StepReport& report) override { progress_->update(report.step, describe(report)); }

  void on_log(const StepReport& report) override {
    if (progress_->is_terminal()) return;
    const double left = report.step > 0 ? report.seconds / report.step * (total_ - report.step) : 0.0;
    progress_->line(fmt::format("{}step {}/{}  epoch {:.2f}  {}  grad {:.3g}  left {}", clock_prefix(),
                                report.step, total_, report.epoch, describe(report), report.grad_norm,
                                format_duration(left)));
  }

  void on_evaluation(int64_t step, double epoch, const Evaluation& evaluation, bool is_best) override {
    progress_->line(fmt::format("{}evaluation at step {} (epoch {:.2f}): {}{}", clock_prefix(), step, epoch,
                                format_metrics(evaluation), is_best ? "  best" : ""));
  }

  void on_message(const std::string& text) override {
    if (progress_) {
      progress_->line(text);
    } else {
      show(stream_, log_line(LogLevel::kInfo, text) + "\n");
    }
  }

  void on_end() override { progress_.reset(); }

 private:
  // A log without times of its own gets the time of day; a terminal has someone who looks at it.
  std::string clock_prefix() const {
    return progress_->is_terminal() || log_format() == LogFormat::kJson ? "" : clock_time() + " ";
  }
  static std::string describe(const StepReport& report) {
    return fmt::format("loss {:.4f}  lr {:.2e}  {} tokens/s", report.loss, report.lr,
                       format_count(report.tokens_per_second));
  }

  std::FILE* stream_;
  int64_t total_ = 0;
  std::optional<Progress> progress_;
};

nlohmann::ordered_json number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
}

class JsonlSink : public EventSink {
 public:
  explicit JsonlSink(std::filesystem::path path) : path_(std::move(path)) {}
  ~JsonlSink() override {
    if (file_ != nullptr) std::fclose(file_);
  }

  void on_start(const RunInfo& info) override {
    std::string kept;
    if (info.resumed && path_exists(path_)) kept = lines_until(info.first_step);
    write_file_atomically(path_, kept);
    file_ = std::fopen(path_.c_str(), "ab");
    if (file_ == nullptr) fail("open");
  }

  void on_log(const StepReport& report) override {
    write({{"kind", "train"},
           {"time", utc_time()},
           {"step", report.step},
           {"epoch", report.epoch},
           {"loss", number(report.loss)},
           {"lr", report.lr},
           {"grad_norm", number(report.grad_norm)},
           {"tokens", report.tokens},
           {"tokens_per_second", number(report.tokens_per_second)},
           {"seconds", report.seconds}});
  }

  void on_evaluation(int64_t step, double epoch, const Evaluation& evaluation, bool is_best) override {
    nlohmann::ordered_json line = {
        {"kind", "evaluation"}, {"time", utc_time()}, {"step", step}, {"epoch", epoch}};
    for (const auto& [name, value] : evaluation.metrics) line[name] = number(value);
    line["examples"] = evaluation.examples;
    line["evaluation_seconds"] = evaluation.seconds;
    line["best"] = is_best;
    write(line);
  }

 private:
  std::string lines_until(int64_t last_step) const {
    std::istringstream lines(read_file(path_));
    std::string kept;
    for (std::string line; std::getline(lines, line);) {
      const auto json = detail::try_strict_json(line);
      if (!json || !json->is_object() || !json->contains("step")) continue;
      const auto& step = json->at("step");
      if (step.is_number_integer() && step.get<int64_t>() <= last_step) kept += line + "\n";
    }
    return kept;
  }

  void write(const nlohmann::ordered_json& line) {
    const std::string text = line.dump() + "\n";
    if (std::fwrite(text.data(), 1, text.size(), file_) != text.size() || std::fflush(file_) != 0)
      fail("write");
  }

  [[noreturn]] void fail(const char* action) const {
    throw Error(ErrorCode::kIo, path_.string(), fmt::format("cannot {}: {}", action, std::strerror(errno)));
  }

  std::filesystem::path path_;
  std::FILE* file_ = nullptr;
};

class TensorBoardSink : public EventSink {
 public:
  explicit TensorBoardSink(std::filesystem::path directory) : directory_(std::move(directory)) {}

  void on_start(const RunInfo& info) override {
    if (!info.resumed) TensorBoardWriter::remove_earlier(directory_);
    writer_.emplace(directory_, info.resumed ? info.first_step : -1);
  }

  void on_log(const StepReport& report) override {
    writer_->scalar("train/loss", report.loss, report.step);
    writer_->scalar("train/lr", report.lr, report.step);
    writer_->scalar("train/grad_norm", report.grad_norm, report.step);
    writer_->scalar("train/tokens_per_second", report.tokens_per_second, report.step);
    writer_->flush();
  }

  void on_evaluation(int64_t step, double epoch, const Evaluation& evaluation, bool is_best) override {
    for (const auto& [name, value] : evaluation.metrics) writer_->scalar("evaluation/" + name, value, step);
    writer_->flush();
  }

 private:
  std::filesystem::path directory_;
  std::optional<TensorBoardWriter> writer_;
};

}  // namespace

std::unique_ptr<EventSink> make_console_sink(std::FILE* stream) {
  return std::make_unique<ConsoleSink>(stream);
}

std::unique_ptr<EventSink> make_jsonl_sink(const std::filesystem::path& path) {
  return std::make_unique<JsonlSink>(path);
}

std::unique_ptr<EventSink> make_tensorboard_sink(const std::filesystem::path& directory) {
  return std::make_unique<TensorBoardSink>(directory);
}

}  // namespace msplora
