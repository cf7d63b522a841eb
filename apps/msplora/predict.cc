#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "data_arguments.h"
#include "msplora/core/interrupt.h"
#include "msplora/core/log.h"
#include "msplora/eval/evaluator.h"
#include "msplora/train/runtime.h"
#include "program.h"
#include "session.h"

namespace msplora {
namespace {

// Texts encoded and run together: enough to fill batches of similar lengths, little enough to stream.
constexpr size_t kChunk = 1024;

struct PredictArguments {
  ModelArguments model;
  DataArguments data;
  std::string output;
  std::string output_format = "tsv";
};

/// Predicts examples as they come and writes the results in the same order.
class Predictor {
 public:
  Predictor(const PredictArguments& arguments, const CommonOptions& common, std::ostream& out)
      : arguments_(arguments),
        session_(open_session(arguments.model, common)),
        tokenizer_(load_tokenizer(arguments.model.model, session_.model->config())),
        format_(common.json || arguments.output_format == "jsonl" ? PredictionFormat::kJsonl
                                                                  : PredictionFormat::kTsv),
        out_(out) {
    max_length_ = session_.facts.max_length;
    if (arguments.data.max_length > 0) {
      max_length_ = effective_max_length(arguments.data.max_length, session_.model->config());
    }
  }

  DataConfig columns() const { return merged_data_config(session_.facts.data, arguments_.data); }

  void add(Example example, const std::filesystem::path& path) {
    path_ = path;
    waiting_.push_back(std::move(example));
    if (waiting_.size() == kChunk) flush();
  }

  void flush() {
    if (waiting_.empty()) return;
    const Dataset data(path_, std::move(waiting_), /*has_labels=*/false);
    waiting_.clear();
    const EncodedDataset encoded =
        encode_dataset(data, parse_task_type(session_.facts.type), nullptr, *tokenizer_, max_length_);
    truncated_ += encoded.summary.truncated_examples;
    const at::Tensor logits = predict_logits(*session_.model, encoded.examples, arguments_.data.batch_tokens);
    std::ostringstream text;
    write_predictions(text, logits, session_.facts.labels, format_);
    std::string lines = std::move(text).str();
    const bool has_header = format_ == PredictionFormat::kTsv;
    if (has_header && has_written_) lines.erase(0, lines.find('\n') + 1);
    has_written_ = true;
    out_ << lines << std::flush;
    if (!out_) {
      const std::string where = arguments_.output.empty() ? "standard output" : arguments_.output;
      throw Error(ErrorCode::kIo, where, "cannot write", "is the disk full?");
    }
    if (interrupt_requested()) throw Error(ErrorCode::kInterrupted, "predict", "stopped");
  }

  void report_truncation() const {
    if (truncated_ > 0) {
      log_warning(fmt::format("{} texts were longer than {} tokens and were cut", truncated_, max_length_));
    }
  }

 private:
  const PredictArguments& arguments_;
  Session session_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  PredictionFormat format_;
  std::ostream& out_;
  int64_t max_length_ = 0;
  std::filesystem::path path_;
  std::vector<Example> waiting_;
  bool has_written_ = false;
  int64_t truncated_ = 0;
};

/// One text a line; of a task with pairs, two texts with a tab between them.
void predict_lines(std::istream& in, const std::string& name, Predictor& predictor) {
  const bool wants_pair = predictor.columns().text_pair.has_value();
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    const size_t bad = find_invalid_utf8(line);
    if (bad != std::string::npos) {
      throw Error(ErrorCode::kData, file_and_line(name, number),
                  fmt::format("byte {} is not UTF-8", bad + 1));
    }
    Example example;
    example.line = number;
    const size_t tab = wants_pair ? line.find('\t') : std::string::npos;
    if (wants_pair && tab == std::string::npos) {
      throw Error(ErrorCode::kData, file_and_line(name, number),
                  "expected two texts with a tab between them");
    }
    example.text = line.substr(0, tab);
    example.has_pair = wants_pair;
    if (wants_pair) example.text_pair = line.substr(tab + 1);
    predictor.add(std::move(example), name);
  }
}

bool is_plain_text(const std::string& file, const std::string& format) {
  if (file == "-" || format == "lines") return true;
  return (format.empty() || format == "auto") && std::filesystem::path(file).extension() == ".txt";
}

void predict_file(const std::string& file, const PredictArguments& arguments, Predictor& predictor) {
  if (file == "-") return predict_lines(std::cin, "standard input", predictor);
  if (is_plain_text(file, arguments.data.format)) {
    std::ifstream in(file, std::ios::binary);
    if (!in) throw Error(ErrorCode::kIo, file, "cannot open", "does the file exist?");
    return predict_lines(in, file, predictor);
  }
  const DataConfig config = predictor.columns();
  TableSpec spec = table_spec(config, file);
  spec.label_optional = true;
  const Dataset data = read_table(file, spec);
  for (const Example& example : data.examples()) predictor.add(example, file);
}

void predict(const PredictArguments& arguments, const CommonOptions& common) {
  use_threads(common.threads);
  std::ofstream file;
  if (!arguments.output.empty()) {
    file.open(arguments.output, std::ios::binary);
    if (!file)
      throw Error(ErrorCode::kIo, arguments.output, "cannot create the file", "does its directory exist?");
  }
  Predictor predictor(arguments, common, arguments.output.empty() ? std::cout : file);
  const std::vector<std::string> inputs =
      arguments.data.files.empty() ? std::vector<std::string>{"-"} : arguments.data.files;
  for (const std::string& input : inputs) {
    predict_file(input, arguments, predictor);
    predictor.flush();
  }
  predictor.report_truncation();
}

}  // namespace

Command add_predict(CLI::App& program, CommonOptions& common) {
  CLI::App* command = program.add_subcommand("predict", "Label texts");
  auto arguments = std::make_shared<PredictArguments>();
  add_model_arguments(*command, arguments->model, /*adapter_required=*/false);
  command
      ->add_option(
          "--data", arguments->data.files,
          "Tables (.tsv, .csv, .jsonl) or text files, one text a line (.txt); default: standard input")
      ->type_name("FILE...");
  command->add_option("--format", arguments->data.format, "Form of the files; `lines` is one text a line")
      ->check(CLI::IsMember({"auto", "lines", "tsv", "csv", "jsonl"}));
  command->add_option("--output", arguments->output, "File to write; default: standard output")
      ->type_name("FILE");
  command->add_option("--output-format", arguments->output_format, "tsv: label and probability of each class")
      ->check(CLI::IsMember({"tsv", "jsonl"}));
  add_data_arguments(*command, arguments->data, /*with_labels=*/false);
  add_common(*command, common);
  return {command, [arguments, &common] { predict(*arguments, common); }};
}

}  // namespace msplora
