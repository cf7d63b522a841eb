#include "msplora/data/glue.h"
#include "msplora/core/paths.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "text_util.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

using Columns = GlueTask::Columns;

// Positions as in the files of gluebenchmark.com; class order as in the Hugging Face data set `glue`, so that
// models trained on either agree.
std::vector<GlueTask> make_tasks() {
  const auto classes = LabelKind::kClass;
  const std::vector<GlueTask::File> dev = {{"validation", "dev.tsv"}}, test = {{"test", "test.tsv"}};
  const std::vector<std::string> binary = {"0", "1"}, entailment = {"entailment", "not_entailment"};
  const std::vector<std::string> accuracy = {"accuracy"}, accuracy_f1 = {"accuracy", "f1"};
  const Columns single_test{1, -1, -1, true}, pair_test{1, 2, -1, true}, nli{1, 2, 3, true};
  std::vector<GlueTask> tasks = {
      {"cola", "CoLA", classes, {3, -1, 1, false}, single_test, false, dev, test, binary, {"matthews"}},
      {"sst2", "SST-2", classes, {0, -1, 1, true}, single_test, false, dev, test, binary, accuracy},
      {"mrpc", "MRPC", classes, {3, 4, 0, true}, {3, 4, -1, true}, false, dev, test, binary, accuracy_f1},
      {"stsb",
       "STS-B",
       LabelKind::kNumber,
       {7, 8, 9, true},
       {7, 8, -1, true},
       false,
       dev,
       test,
       {},
       {"pearson", "spearman"}},
      {"qqp", "QQP", classes, {3, 4, 5, true}, pair_test, false, dev, test, binary, accuracy_f1},
      {"mnli",
       "MNLI",
       classes,
       {8, 9, 10, true},
       {8, 9, -1, true},
       true,
       {{"validation_matched", "dev_matched.tsv"}, {"validation_mismatched", "dev_mismatched.tsv"}},
       {{"test_matched", "test_matched.tsv"}, {"test_mismatched", "test_mismatched.tsv"}},
       {"entailment", "neutral", "contradiction"},
       accuracy},
      {"qnli", "QNLI", classes, nli, pair_test, false, dev, test, entailment, accuracy},
      {"rte", "RTE", classes, nli, pair_test, false, dev, test, entailment, accuracy},
      {"wnli", "WNLI", classes, nli, pair_test, false, dev, test, binary, accuracy},
  };
  return tasks;
}

const std::vector<GlueTask>& tasks() {
  static const std::vector<GlueTask> all = make_tasks();
  return all;
}

std::optional<Example> take_row(const GlueTask& task, const Columns& columns, const Record& record,
                                size_t header_width) {
  const auto width = static_cast<int>(record.fields.size());
  const bool labelled = columns.label >= 0;
  if (labelled && task.label_is_last && record.fields.size() != header_width) return std::nullopt;
  const int label = labelled && task.label_is_last ? width - 1 : columns.label;
  if (width <= std::max({columns.text, columns.text_pair, columns.label})) return std::nullopt;
  Example example;
  example.line = record.line;
  example.text = record.fields[static_cast<size_t>(columns.text)];
  if (columns.text_pair >= 0) {
    example.text_pair = record.fields[static_cast<size_t>(columns.text_pair)];
    example.has_pair = true;
  }
  if (labelled) {
    example.label = std::string(trim(record.fields[static_cast<size_t>(label)]));
    // MultiNLI writes "-" where its annotators did not agree.
    if (example.label.empty() || example.label == "-") return std::nullopt;
  }
  return example;
}

// A file of another task (or a headerless one) would pass for data; the header's names tell.
void check_header(const GlueTask& task, const Columns& columns, const fs::path& path, const Record& record) {
  static const std::set<std::string> known = {"sentence",  "sentence1", "sentence2", "question",
                                              "question1", "question2", "#1 String", "#2 String"};
  const auto width = static_cast<int>(record.fields.size());
  for (const int position : {columns.text, columns.text_pair}) {
    if (position < 0) continue;
    if (position < width && known.count(record.fields[static_cast<size_t>(position)]) > 0) continue;
    throw Error(
        ErrorCode::kData, file_and_line(path, record.line),
        fmt::format("expected the header of GLUE task `{}` with a text in field {} (counted from 0), found "
                    "\"{}\"",
                    task.name, position, record.beginning),
        "for files laid out otherwise, use data.train with data.text and data.label");
  }
}

fs::path require_file(const fs::path& path, const GlueTask& task) {
  if (path_exists(path)) return path;
  const fs::path inner = path.parent_path() / task.folder / path.filename();
  throw Error(
      ErrorCode::kIo, path.string(), fmt::format("no such file in the folder of GLUE task `{}`", task.name),
      path_exists(inner) ? fmt::format("set data.dir to {}", inner.parent_path().string()) : std::string());
}

bool is_original_mrpc(const GlueTask& task, const fs::path& dir) {
  return task.name == "mrpc" && !path_exists(dir / "train.tsv") &&
         path_exists(dir / "msr_paraphrase_train.txt");
}

}  // namespace

const GlueTask& glue_task(std::string_view name) {
  for (const GlueTask& task : tasks()) {
    if (task.name == name) return task;
  }
  throw Error(ErrorCode::kConfig, "data.glue_task",
              fmt::format("expected one of {}, found `{}`", fmt::join(glue_task_names(), ", "), name),
              did_you_mean(name, glue_task_names()));
}

std::vector<std::string> glue_task_names() {
  std::vector<std::string> names;
  for (const GlueTask& task : tasks()) names.push_back(task.name);
  return names;
}

Dataset read_glue_file(const GlueTask& task, const fs::path& path, bool labelled) {
  const Columns& columns = labelled ? task.labelled : task.unlabelled;
  const std::unique_ptr<RecordReader> reader = RecordReader::open(path, FileFormat::kTsv);
  Record record;
  std::vector<std::string> header;
  if (columns.header && reader->next(record)) {
    check_header(task, columns, path, record);
    header = record.fields;
  }
  std::vector<Example> examples;
  size_t left_out = 0;
  int64_t first_left_out = 0;
  while (reader->next(record)) {
    if (std::optional<Example> example = take_row(task, columns, record, header.size())) {
      examples.push_back(std::move(*example));
    } else if (left_out++ == 0) {
      first_left_out = record.line;
    }
  }
  if (examples.empty()) {
    throw Error(ErrorCode::kData, path.string(),
                fmt::format("no examples of GLUE task `{}` found", task.name));
  }
  Dataset data(path, std::move(examples), labelled);
  data.set_columns(std::move(header));
  if (left_out > 0) {
    data.add_note(fmt::format("{}: {} incomplete rows left out, the first in line {}", path.string(),
                              left_out, first_left_out));
  }
  return data;
}

Dataset read_mrpc_original(const fs::path& dir, bool dev) {
  std::set<std::pair<std::string, std::string>> dev_ids;
  {
    const auto reader = RecordReader::open(dir / "dev_ids.tsv", FileFormat::kTsv);
    Record record;
    while (reader->next(record)) {
      if (record.fields.size() >= 2) dev_ids.emplace(record.fields[0], record.fields[1]);
    }
  }
  const fs::path path = dir / "msr_paraphrase_train.txt";
  const GlueTask& task = glue_task("mrpc");
  const Dataset all = read_glue_file(task, path, true);
  // Ids stand in fields 1 and 2, which the examples do not keep: a second pass pairs them by line.
  std::set<int64_t> dev_lines;
  const auto reader = RecordReader::open(path, FileFormat::kTsv);
  Record record;
  while (reader->next(record)) {
    if (record.fields.size() >= 3 && dev_ids.count({record.fields[1], record.fields[2]}) > 0)
      dev_lines.insert(record.line);
  }
  std::vector<uint32_t> chosen;
  for (size_t i = 0; i < all.size(); ++i) {
    if ((dev_lines.count(all[i].line) > 0) == dev) chosen.push_back(static_cast<uint32_t>(i));
  }
  if (chosen.empty()) {
    throw Error(ErrorCode::kData, (dir / "dev_ids.tsv").string(),
                fmt::format("its ids leave no {} examples in {}", dev ? "dev" : "training", path.string()));
  }
  return all.subset(chosen);
}

TaskData load_glue(const GlueTask& task, const fs::path& dir, const TaskParts& parts) {
  TaskData result;
  result.labels = task.labels;
  result.metrics = task.metrics;
  if (!directory_exists(dir)) throw Error(ErrorCode::kIo, dir.string(), "expected the folder of a GLUE task");
  const bool original = is_original_mrpc(task, dir);
  if (parts.train) {
    result.train = original ? read_mrpc_original(dir, false)
                            : read_glue_file(task, require_file(dir / "train.tsv", task), true);
  }
  if (parts.validation) {
    for (const auto& [part, file] : task.validation) {
      Dataset data = original ? read_mrpc_original(dir, true)
                              : read_glue_file(task, require_file(dir / file, task), true);
      result.validation.push_back({part, std::move(data)});
    }
  }
  if (parts.test) {
    for (const auto& [part, file] : task.test) {
      const fs::path path = original ? dir / "msr_paraphrase_test.txt" : dir / file;
      result.test.push_back({part, read_glue_file(task, require_file(path, task), false)});
    }
  }
  return result;
}

}  // namespace msplora