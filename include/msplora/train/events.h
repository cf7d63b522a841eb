#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/tasks/evaluation.h"

namespace msplora {

/// Known when training starts.
struct RunInfo {
  std::string method;
  int64_t total_steps = 0;
  int64_t first_step = 0;  // above 0 in a resumed run
  bool resumed = false;
  int64_t trainable_parameters = 0;
};

/// One optimizer step, or the mean over the steps since the last log line.
struct StepReport {
  int64_t step = 0;    // steps done
  double epoch = 0.0;  // passes over the data done
  double loss = 0.0;   // mean per target
  double lr = 0.0;     // of the step just done
  double grad_norm = 0.0;
  int64_t tokens = 0;  // since the run began
  double tokens_per_second = 0.0;
  double seconds = 0.0;  // since the run began
};

/// Receives what happens during training. Calls come from the training thread, in order. on_end() is the last
/// one, also where something is thrown, be it by a sink.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void on_start(const RunInfo& /*info*/) {}
  virtual void on_step(const StepReport& /*report*/) {}
  virtual void on_log(const StepReport& /*report*/) {}
  virtual void on_evaluation(int64_t /*step*/, double /*epoch*/, const Evaluation& /*evaluation*/,
                             bool /*is_best*/) {}
  virtual void on_message(const std::string& /*text*/) {}
  virtual void on_end() {}
};

/// A progress bar on a terminal, plain lines elsewhere.
std::unique_ptr<EventSink> make_console_sink(std::FILE* stream = stderr);

/// metrics.jsonl: one JSON object per log line ("kind": "train") and evaluation ("kind": "evaluation"),
/// flushed one by one. A resumed run continues the file after dropping lines of later steps and a broken last
/// one.
std::unique_ptr<EventSink> make_jsonl_sink(const std::filesystem::path& path);

/// TensorBoard scalars train/* and evaluation/*. A fresh run takes event files of earlier ones away.
std::unique_ptr<EventSink> make_tensorboard_sink(const std::filesystem::path& directory);

}  // namespace msplora
