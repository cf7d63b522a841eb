#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data_arguments.h"
#include "model_arguments.h"
#include "msplora/core/file.h"
#include "msplora/core/input_file.h"
#include "msplora/core/interrupt.h"
#include "msplora/core/log.h"
#include "msplora/data/row_json.h"
#include "msplora/tasks/evaluator.h"
#include "msplora/tasks/prediction.h"
#include "msplora/train/runtime.h"
#include "program.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

// Texts encoded and run together: enough to fill batches of similar lengths, little enough to stream.
constexpr size_t kChunk = 1024;

struct PredictArguments {
  ModelArguments model;
  DataArguments data;
  std::string output;
  std::string output_format = "auto";
  std::string keep, keep_prefix;
  bool logits = false;
};

/// Which fields of the input are written again.
class KeptColumns {
 public:
  KeptColumns(const std::string& argument, std::string prefix)
      : is_all_(argument == "all"), prefix_(std::move(prefix)) {
    if (is_all_) return;
    for (std::string& name : split_names(argument)) {
      if (std::find(names_.begin(), names_.end(), name) == names_.end()) names_.push_back(std::move(name));
    }
  }
  bool any() const { return is_all_ || !names_.empty(); }
  /// What a kept column is called in the results.
  std::string written(const std::string& name) const { return prefix_ + name; }

  /// The columns to keep of a table with these. Throws Error{kData} with the nearest for one that is missing.
  std::vector<std::string> of(const std::vector<std::string>& columns, const std::string& where) const {
    if (is_all_) return columns;
    for (const std::string& name : names_) {
      if (std::find(columns.begin(), columns.end(), name) != columns.end()) continue;
      throw Error(ErrorCode::kData, where,
                  fmt::format("no column `{}` (--keep); found {}", name, shortened(columns, 20)),
                  did_you_mean(name, columns));
    }
    return names_;
  }

  /// The kept ones among the named values of an example, by the names that are written.
  Json select(const Json& fields, const std::string& where) const {
    if (!any()) return Json::object();
    std::vector<std::string> columns;
    for (const auto& [name, value] : fields.items()) columns.push_back(name);
    Json kept = Json::object();
    for (const std::string& name : of(columns, where)) kept[written(name)] = fields.at(name);
    return kept;
  }

 private:
  bool is_all_;
  std::string prefix_;
  std::vector<std::string> names_;
};

/// Form of the output: --output-format, else --json, else the extension of --output, else that of the first
/// input.
PredictionFormat output_format(const PredictArguments& arguments, bool wants_json, FileFormat input) {
  std::string name = arguments.output_format;
  if (name == "auto" && wants_json) name = "jsonl";
  if (name == "auto") {
    const std::string extension = std::filesystem::path(arguments.output).extension().string();
    for (const char* known : {"tsv", "csv", "jsonl"}) {
      if (extension == std::string(".") + known) name = known;
    }
  }
  if (name == "csv" || (name == "auto" && input == FileFormat::kCsv)) return PredictionFormat::kCsv;
  if (name == "jsonl" || (name == "auto" && input == FileFormat::kJsonl)) return PredictionFormat::kJsonl;
  return PredictionFormat::kTsv;
}

/// Predicts examples as they come and writes the results in the same order.
class Predictor {
 public:
  Predictor(const PredictArguments& arguments, const CommonOptions& common, std::ostream& out)
      : arguments_(arguments),
        wants_json_(common.json),
        kept_(arguments.keep, arguments.keep_prefix),
        tuned_(open_tuned(arguments.model, common)),
        task_(tuned_.task(arguments.data.max_length)),
        out_(out) {}

  DataConfig columns() const { return merged_data_config(tuned_.facts.data, arguments_.data); }
  const KeptColumns& kept() const { return kept_; }
  LabelKind labels() const { return tuned_.label_kind(); }

  /// A new input, whose columns are these. The first one decides what the output looks like.
  void begin(const std::string& path, FileFormat format, char delimiter,
             const std::vector<std::string>& columns) {
    path_ = path;
    std::vector<std::string> names;
    if (kept_.any()) names = kept_.of(columns, path);
    for (std::string& name : names) name = kept_.written(name);
    if (!writer_) {
      PredictionLayout layout;
      layout.format = output_format(arguments_, wants_json_, format);
      layout.delimiter = delimiter == ';' || delimiter == '|' ? delimiter : ',';
      layout.columns = task_->prediction_columns(arguments_.logits);
      layout.kept = names;
      is_table_ = layout.format != PredictionFormat::kJsonl;
      names_ = names;
      writer_ = std::make_unique<PredictionWriter>(out_, std::move(layout));
    } else if (is_table_ && names != names_) {
      throw Error(ErrorCode::kData, path,
                  fmt::format("its columns are {}, those of the first file {}", shortened(names, 20),
                              shortened(names_, 20)),
                  "name the columns that all files have with --keep, or write --output-format jsonl");
    }
  }

  /// `fields` holds the values of its columns by name.
  void add(Example example, const Json& fields) {
    if (kept_.any()) fields_.push_back(kept_.select(fields, file_and_line(path_, example.line)));
    waiting_.push_back(std::move(example));
    if (waiting_.size() == kChunk) flush();
  }

  void flush() {
    if (waiting_.empty()) return;
    const Dataset data(path_, std::move(waiting_), /*has_labels=*/false);
    waiting_.clear();
    const auto where = [&data](size_t row) { return data.where(row); };
    const EncodedDataset encoded = task_->encode(data);
    truncated_ += encoded.summary.truncated_examples;
    unknown_.token = encoded.summary.unknown.token;
    unknown_.count += encoded.summary.unknown.count;
    unknown_.of += encoded.summary.unknown.of;
    writer_->write(msplora::predict(*task_, *tuned_.model, all_of(encoded.examples, where),
                                    arguments_.data.batch_tokens, arguments_.logits),
                   fields_, where);
    fields_.clear();
    out_ << std::flush;
    if (!out_) {
      const std::string where = arguments_.output.empty() ? "standard output" : arguments_.output;
      throw Error(ErrorCode::kIo, where, "cannot write", "is the disk full?");
    }
    if (interrupt_requested()) throw Error(ErrorCode::kInterrupted, "predict", "stopped");
  }

  void report_losses() const {
    if (truncated_ > 0) {
      log_warning(fmt::format("{} texts were longer than {} tokens and were cut", truncated_,
                              task_->settings().max_length));
    }
    if (const std::string note = unknown_.note(); !note.empty()) log_warning(note);
  }

 private:
  const PredictArguments& arguments_;
  bool wants_json_;
  KeptColumns kept_;
  TunedModel tuned_;
  std::unique_ptr<Task> task_;
  std::ostream& out_;
  std::unique_ptr<PredictionWriter> writer_;
  std::vector<std::string> names_;  // kept columns of the first input
  bool is_table_ = true;
  std::filesystem::path path_;
  std::vector<Example> waiting_;
  std::vector<Json> fields_;
  int64_t truncated_ = 0;
  UnknownTokens unknown_;
};

/// One text a line; of a task with pairs, two texts with a tab between them.
void predict_lines(std::istream& in, const std::string& name, Predictor& predictor) {
  const bool wants_pair = predictor.columns().text_pair.has_value();
  std::vector<std::string> columns = {"text"};
  if (wants_pair) columns.push_back("text_pair");
  predictor.begin(name, FileFormat::kTsv, '\t', columns);
  std::string line;
  bool is_empty = true;
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
    Json fields = {{"text", example.text}};
    if (wants_pair) fields["text_pair"] = example.text_pair = line.substr(tab + 1);
    predictor.add(std::move(example), fields);
    is_empty = false;
  }
  if (is_empty) throw Error(ErrorCode::kData, name, "the file is empty; expected at least one text");
}

bool is_plain_text(const std::string& file, const std::string& format) {
  if (format == "lines") return true;
  return (format.empty() || format == "auto") && (file == "-" || unpacked_name(file).extension() == ".txt");
}

/// What names columns has no effect on lines: most likely the input is a table.
void refuse_columns(const DataArguments& data) {
  for (const auto& [option, value] :
       {std::pair("--text", data.text), {"--header", data.header}, {"--delimiter", data.delimiter}}) {
    if (value.empty()) continue;
    throw Error(ErrorCode::kUsage, option, "standard input is read as one text a line, which has no columns",
                "say with --format tsv, csv or jsonl what it is");
  }
}

/// What stands in the columns of an example, by name.
Json fields_of(const Dataset& data, const Example& example) {
  if (example.fields.empty()) return Json::object();
  if (data.delimiter() == 0)
    return parse_row(example.fields.front(), file_and_line(data.path(), example.line));
  Json fields = Json::object();
  for (size_t i = 0; i < example.fields.size(); ++i) fields[data.columns()[i]] = example.fields[i];
  return fields;
}

void predict_file(const std::string& file, const PredictArguments& arguments, Predictor& predictor) {
  const bool is_stdin = file == "-";
  if (is_plain_text(file, arguments.data.format)) {
    if (is_stdin) {
      refuse_columns(arguments.data);
      return predict_lines(std::cin, "standard input", predictor);
    }
    InputFile in(file);
    return predict_lines(in, file, predictor);
  }
  const DataConfig config = predictor.columns();
  const std::string path = is_stdin ? "/dev/stdin" : file;
  TableSpec spec = table_spec(config, path, predictor.labels());
  spec.label_optional = spec.label_ignored = true;
  spec.keep_fields = predictor.kept().any();
  const Dataset data = read_table(path, spec);
  say_delimiter(data);
  predictor.begin(path, spec.format, data.delimiter(), data.columns());
  for (const Example& example : data.examples()) predictor.add(example, fields_of(data, example));
}

void predict_all(const PredictArguments& arguments, const CommonOptions& common, std::ostream& out) {
  Predictor predictor(arguments, common, out);
  const std::vector<std::string> inputs =
      arguments.data.files.empty() ? std::vector<std::string>{"-"} : arguments.data.files;
  for (const std::string& input : inputs) {
    predict_file(input, arguments, predictor);
    predictor.flush();
  }
  predictor.report_losses();
}

void predict(const PredictArguments& arguments, const CommonOptions& common) {
  use_threads(common.threads);
  if (arguments.output.empty()) return predict_all(arguments, common, std::cout);
  refuse_packed_name(arguments.output, "--output");
  std::vector<std::filesystem::path> inputs = {arguments.model.model};
  if (!arguments.model.adapter.empty()) inputs.emplace_back(arguments.model.adapter);
  inputs.insert(inputs.end(), arguments.data.files.begin(), arguments.data.files.end());
  refuse_input_as_output(arguments.output, inputs);
  write_file_atomically(arguments.output, [&](std::ostream& out) { predict_all(arguments, common, out); });
}

}  // namespace

Command add_predict(CLI::App& program, CommonOptions& common) {
  CLI::App* command = program.add_subcommand("predict", "Label texts");
  auto arguments = std::make_shared<PredictArguments>();
  add_model_arguments(*command, arguments->model, /*adapter_required=*/false);
  command
      ->add_option(
          "--data", arguments->data.files,
          "Tables (.tsv, .csv, .jsonl) or text files, one text a line (.txt); default, and `-`: standard "
          "input, one text a line unless --format says otherwise")
      ->type_name("FILE...");
  command->add_option("--format", arguments->data.format, "Form of the files; `lines` is one text a line")
      ->check(CLI::IsMember({"auto", "lines", "tsv", "csv", "jsonl"}));
  command->add_option("--output", arguments->output, "File to write; default: standard output")
      ->type_name("FILE");
  command
      ->add_option(
          "--output-format", arguments->output_format,
          "Form of the results: label and probability of each class; `auto` goes by the extension of "
          "--output, else by that of the input")
      ->check(CLI::IsMember({"auto", "tsv", "csv", "jsonl"}));
  command->add_option("--keep", arguments->keep, "Columns of the input to write before the results, or `all`")
      ->type_name("COLUMN,COLUMN,...");
  command
      ->add_option("--keep-prefix", arguments->keep_prefix,
                   "Put before the names of kept columns, which must differ from those of the results")
      ->type_name("TEXT");
  command->add_flag("--logits", arguments->logits, "Write the model's outputs before softmax too");
  add_data_arguments(*command, arguments->data, /*with_labels=*/false);
  add_common(*command, common);
  return {command,
          [arguments, &common] {
            find_files(arguments->model);
            predict(*arguments, common);
          },
          kLessMemoryInEvaluation};
}

}  // namespace msplora
