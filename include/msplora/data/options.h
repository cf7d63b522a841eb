#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "msplora/core/options.h"

namespace msplora {

struct OptionNode;

/// A file of examples, and how often each of them comes up in an epoch.
struct WeightedFile {
  static constexpr double kMostWeight = 1000;  // more is a slip; an epoch of it would not end

  std::string path = {};
  double weight = 1.0;

  bool operator==(const WeightedFile&) const = default;
};

/// The value of an option: one file or several. In a recipe a path, a group of `path` and `weight`, or a list
/// of these.
struct DataFiles {
  static constexpr const char* kOptionType = "file, or list of files and of {path, weight}";

  std::vector<WeightedFile> files;

  DataFiles() = default;
  DataFiles(std::string path) : files{{std::move(path), 1.0}} {}
  DataFiles(const char* path) : DataFiles(std::string(path)) {}
  bool operator==(const DataFiles&) const = default;

  bool has_weights() const;  // another one than 1
  std::string text() const;  // for people: "a.csv, b.csv (weight 2)"

  /// "" or what is wrong.
  std::string read(const OptionNode& node);
  /// Whether it is such a value.
  bool read(const nlohmann::json& json);
  template <class Json>
  friend void to_json(Json& json, const DataFiles& files) {
    const auto entry = [](const WeightedFile& file) {
      if (file.weight == 1.0) return Json(file.path);
      Json both;
      both["path"] = file.path;
      both["weight"] = file.weight;
      return both;
    };
    if (files.files.size() == 1) {
      json = entry(files.files.front());
      return;
    }
    json = Json::array();
    for (const WeightedFile& file : files.files) json.push_back(entry(file));
  }
};

/// What `data.chat.template` may be, with the names of ChatTemplate::names().
const char* chat_template_help();

/// How instruction data are read and learned, as written under `data.chat:` in a recipe.
struct ChatDataOptions {
  static constexpr char kModelsTemplate[] = "auto";

  std::string layout = "auto";
  std::string chat_template = kModelsTemplate;
  std::string loss_on = "auto";
  std::string too_long = "cut";

  /// Whether conversations are written as the model's own files say; else `chat_template` says how.
  bool uses_models_template() const { return chat_template == kModelsTemplate; }

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor(
        "layout", layout,
        "Keys of the rows: `messages`; `sharegpt` (conversations of from and value); `alpaca` (instruction, "
        "input, output); `prompt_completion`; `text`. `auto` goes by the keys and says so",
        one_of({"auto", "messages", "sharegpt", "alpaca", "prompt_completion", "text"}));
    visitor("template", chat_template, chat_template_help());
    visitor(
        "loss_on", loss_on,
        "What is learned: `assistant` all that the assistant says, `last` its last message, `completion`, "
        "`all`. `auto`: of conversations what the assistant says, else the completion, else all",
        one_of({"auto", "all", "completion", "assistant", "last"}));
    visitor("too_long", too_long,
            "What becomes of rows beyond data.max_length: `cut` at the end, `cut_start`, or `drop`",
            one_of({"cut", "cut_start", "drop"}));
  }
};

/// Where labelled text comes from, as written under `data:` in a recipe. Either files (`train`, `validation`,
/// `test`) with a column mapping, or a GLUE task (`glue_task` with `dir`), whose layout is known.
struct DataConfig {
  std::optional<DataFiles> train;
  std::optional<DataFiles> validation;
  std::optional<DataFiles> test;
  std::string format = "auto";
  std::string header = "auto";
  std::string delimiter = "auto";
  std::string text = "text";
  std::optional<std::string> text_pair;
  std::string label = "label";
  std::optional<std::string> group;
  std::optional<std::string> glue_task;
  std::optional<std::string> dir;
  std::vector<std::string> labels;
  int64_t max_length = 128;
  double validation_fraction = 0.0;
  bool shuffle = true;
  bool bucket = true;
  int64_t bucket_batches = 50;
  ChatDataOptions chat;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor(
        "train", train,
        "Training examples: a file, or a list of files and of {path, weight}. Each example of a file comes "
        "up `weight` times in an epoch; of a broken number the rest is drawn, every example in its turn");
    visitor("validation", validation, "File or files of examples to evaluate on during training");
    visitor("test", test, "File or files of examples to evaluate on after training; labels may be absent");
    visitor("format", format,
            "Form of the files; `auto` goes by the extension (.tsv, .csv, .jsonl; also packed, as .csv.gz)",
            one_of({"auto", "tsv", "csv", "jsonl"}));
    visitor("header", header,
            "Whether the first row of a TSV or CSV file names the columns; `auto` decides and says why",
            one_of({"auto", "yes", "no"}));
    visitor(
        "delimiter", delimiter,
        "What stands between the fields of a CSV file; `auto` recognises `,`, `;`, `tab` and `|` and says "
        "so. Another one than `tab` makes a TSV file a CSV file",
        one_of({"auto", ",", ";", "tab", "|"}));
    visitor("text", text, "Column of the text: a name, or a position counted from 0");
    visitor("text_pair", text_pair, "Column of the second text of a pair");
    visitor("label", label, "Column of the label (classification) or number (regression)");
    visitor("group", group,
            "Column of what a training example belongs to (a writer, a site, a domain); `federate` can make "
            "clients of it");
    visitor("glue_task", glue_task, "GLUE task; its files, columns, labels and metrics are known",
            one_of({"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}));
    visitor("dir", dir, "Official folder of the GLUE task, such as glue_data/SST-2");
    visitor("labels", labels,
            "Class names in the order of their indices, which files may hold in place of the names; empty: "
            "sorted from the training data");
    visitor("max_length", max_length,
            "Longest sequence in tokens, special tokens included; the rest is cut off", at_least(1));
    visitor("validation_fraction", validation_fraction,
            "Share of the training examples set aside, by seed and class by class, when there is no "
            "validation file",
            probability_below_one());
    visitor("shuffle", shuffle, "New order of the training examples in each epoch");
    visitor("bucket", bucket, "Batches of similar lengths (examples are sorted inside a shuffled window)");
    visitor("bucket_batches", bucket_batches, "Size of that window in batches; at most an eighth of the data",
            at_least(1));
    visitor("chat", chat, "Instruction data, for task.type sft");
  }
};

/// Where plain text for pretraining comes from, as written under `data:` of a pretraining recipe. Masking is
/// that of encoders.
struct PretrainDataConfig {
  std::vector<std::string> train;
  std::vector<std::string> validation;
  int64_t max_length = 128;
  double mask_probability = 0.15;
  bool whole_word = false;
  bool first_token = false;
  std::optional<std::string> cache_dir;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("train", train, "Text files to train on, one sequence a line");
    visitor("validation", validation, "Text files to evaluate on");
    visitor("max_length", max_length,
            "Longest sequence in tokens, special tokens included; longer lines are split", at_least(3));
    visitor("mask_probability", mask_probability, "Encoders: share of the tokens to predict",
            open_unit_interval());
    visitor("whole_word", whole_word, "Encoders: mask all pieces of a word together");
    visitor(
        "first_token", first_token,
        "Encoders: let the first token predict a random token of its text, so that it becomes a summary for "
        "heads");
    visitor("cache_dir", cache_dir, "Directory that keeps the encoded text between runs");
  }

 private:
  static OptionRange open_unit_interval() { return {{}, 0.0, 1.0, true, true}; }
};

}  // namespace msplora
