#include "msplora/data/dataset.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "msplora/core/random.h"
#include "msplora/data/conversations.h"
#include "msplora/data/glue.h"
#include "msplora/data/notes.h"
#include "text_util.h"

namespace msplora {
namespace fs = std::filesystem;

Dataset::Dataset(fs::path path, std::vector<Example> examples, bool has_labels)
    : paths_{std::move(path)}, examples_(std::move(examples)), has_labels_(has_labels) {
  for (size_t i = 0; i < examples_.size(); ++i) {
    const size_t bytes = examples_[i].text.size() + examples_[i].text_pair.size();
    if (bytes > kMostRowBytes) check_row_size(bytes, where(i));
  }
}

void check_row_size(size_t bytes, const std::string& where) {
  if (bytes <= kMostRowBytes) return;
  throw Error(ErrorCode::kData, where,
              fmt::format("a row of {:.1f} MiB; rows have at most {} MiB",
                          static_cast<double>(bytes) / (1 << 20), kMostRowBytes >> 20),
              "split its text into several rows");
}

std::map<std::string, int64_t> Dataset::label_counts() const {
  std::map<std::string, int64_t> counts;
  if (!has_labels_) return counts;
  for (const Example& example : examples_) ++counts[example.label];
  return counts;
}

Dataset Dataset::subset(const std::vector<uint32_t>& indices) const {
  std::vector<Example> chosen;
  chosen.reserve(indices.size());
  for (const uint32_t index : indices) chosen.push_back(examples_.at(index));
  Dataset result(paths_.front(), std::move(chosen), has_labels_);
  result.paths_ = paths_;
  result.weights_ = weights_;
  result.columns_ = columns_;
  result.notes_ = notes_;
  return result;
}

Dataset Dataset::joined(std::vector<Dataset> parts, const DataFiles& files) {
  std::vector<Example> all;
  Dataset result(parts.front().path(), {}, parts.front().has_labels());
  result.columns_ = parts.front().columns_;
  result.delimiter_ = parts.front().delimiter_;
  result.paths_.clear();
  result.weights_.clear();
  for (size_t k = 0; k < parts.size(); ++k) {
    if (parts[k].has_labels() != result.has_labels()) {
      throw Error(ErrorCode::kData, parts[k].path().string(),
                  fmt::format("has {}labels, unlike {}", parts[k].has_labels() ? "" : "no ",
                              parts.front().path().string()));
    }
    for (Example& example : parts[k].examples_) {
      example.file = static_cast<uint32_t>(k);
      all.push_back(std::move(example));
    }
    result.paths_.push_back(parts[k].path());
    result.weights_.push_back(files.files[k].weight);
    result.notes_.insert(result.notes_.end(), parts[k].notes_.begin(), parts[k].notes_.end());
  }
  result.examples_ = std::move(all);
  return result;
}

DrawWeights Dataset::draw_weights() const {
  DrawWeights draws;
  if (std::all_of(weights_.begin(), weights_.end(), [](double weight) { return weight == 1.0; }))
    return draws;
  draws.weights = weights_;
  for (const Example& example : examples_) draws.groups.push_back(example.file);
  return draws;
}

TableSpec table_spec(const DataConfig& config, const fs::path& file, LabelKind labels) {
  TableSpec spec;
  spec.format = resolve_format(file, config.format);
  spec.header = config.header;
  spec.delimiter = config.delimiter;
  spec.text = config.text;
  spec.text_pair = config.text_pair;
  spec.label_optional = labels == LabelKind::kNone || labels == LabelKind::kConversation;
  if (!spec.label_optional) spec.label = config.label;
  return spec;
}

double regression_target(const Dataset& data, size_t index) {
  const std::string& label = data[index].label;
  if (const std::optional<double> value = parse_double(label)) return *value;
  throw Error(ErrorCode::kData, data.where(index),
              fmt::format("expected a finite number as target, found `{}`", label),
              "for class names, set the task to classification");
}

namespace {

// How many examples of each class to take, `total` in all: shares rounded down, the rest to the largest
// remainders; one example of each class is left.
std::map<std::string, size_t> shares_of(const std::map<std::string, int64_t>& counts, size_t total,
                                        size_t all) {
  struct Remainder {
    double size;
    std::string name;
  };
  std::map<std::string, size_t> shares;
  std::vector<Remainder> remainders;
  size_t taken = 0;
  for (const auto& [name, count] : counts) {
    const double exact = static_cast<double>(total) * static_cast<double>(count) / static_cast<double>(all);
    const auto whole = std::min(static_cast<size_t>(exact), static_cast<size_t>(count) - 1);
    shares[name] = whole;
    taken += whole;
    remainders.push_back({exact - static_cast<double>(whole), name});
  }
  std::stable_sort(remainders.begin(), remainders.end(),
                   [](const Remainder& a, const Remainder& b) { return a.size > b.size; });
  for (bool found = true; taken < total && found;) {
    found = false;
    for (const Remainder& remainder : remainders) {
      if (taken == total || shares[remainder.name] + 1 >= static_cast<size_t>(counts.at(remainder.name)))
        continue;
      ++shares[remainder.name];
      ++taken;
      found = true;
    }
  }
  return shares;
}

// Moves the examples to take to the front of the (shuffled) order; returns how many they are.
size_t choose_by_class(const Dataset& data, size_t total, std::vector<uint32_t>& order) {
  std::map<std::string, size_t> shares = shares_of(data.label_counts(), total, data.size());
  const auto middle = std::stable_partition(order.begin(), order.end(), [&](uint32_t index) {
    size_t& left = shares[data[index].label];
    return left > 0 ? left-- > 0 : false;
  });
  return static_cast<size_t>(middle - order.begin());
}

}  // namespace

std::pair<Dataset, Dataset> split_dataset(const Dataset& data, double fraction, uint64_t seed,
                                          bool by_class) {
  if (data.size() < 2) {
    throw Error(ErrorCode::kData, data.path().string(),
                fmt::format("cannot split {} example(s) into training and validation", data.size()));
  }
  std::vector<uint32_t> order(data.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<uint32_t>(i);
  RandomStream(seed, "validation split").shuffle(order);
  const auto wanted = static_cast<size_t>(std::llround(fraction * static_cast<double>(data.size())));
  size_t count = std::clamp<size_t>(wanted, 1, data.size() - 1);
  if (by_class && data.label_counts().size() == data.size()) {
    throw Error(
        ErrorCode::kData, data.path().string(),
        fmt::format("every class has one example ({} in all), so none can be set aside for validation",
                    data.size()),
        "name a file in data.validation, or leave out data.validation_fraction");
  }
  if (by_class) count = choose_by_class(data, count, order);
  const auto middle = order.begin() + static_cast<std::ptrdiff_t>(count);
  std::vector<uint32_t> taken(order.begin(), middle), rest(middle, order.end());
  std::sort(taken.begin(), taken.end());
  std::sort(rest.begin(), rest.end());
  return {data.subset(rest), data.subset(taken)};
}

namespace {

void check_config(const DataConfig& config, LabelKind labels, const TaskParts& parts) {
  ErrorList problems;
  if (config.glue_task) {
    const GlueTask& task = glue_task(*config.glue_task);
    if (!config.dir) {
      problems.add("data.dir",
                   fmt::format("expected the folder of GLUE task `{}`, which holds train.tsv", task.name));
    }
    if (config.train || config.validation || config.test) {
      problems.add("data.glue_task",
                   "a GLUE task brings its own files; train, validation and test must not be given",
                   "remove either data.glue_task or the files");
    }
    if (config.validation_fraction > 0) {
      problems.add("data.validation_fraction", "a GLUE task has its own validation file", "remove it");
    }
    if (config.group) problems.add("data.group", "the files of GLUE tasks have no groups", "remove it");
    if (task.labels_are != labels) {
      problems.add("data.glue_task",
                   fmt::format("`{}` is a {} task", task.name,
                               task.labels_are == LabelKind::kNumber ? "regression" : "classification"),
                   "change the task type");
    }
  } else {
    if (config.dir)
      problems.add("data.dir", "only used with data.glue_task", "set data.glue_task, or give the files");
    if (parts.train && !config.train)
      problems.add("data.train", "expected a file of training examples, found none");
    for (const auto& [key, files] :
         {std::pair("data.validation", &config.validation), {"data.test", &config.test}}) {
      if (*files && (*files)->has_weights())
        problems.add(key, "every example is evaluated once; weights are for data.train",
                     "remove the weights");
    }
    if (config.validation && config.validation_fraction > 0) {
      problems.add("data.validation_fraction", "there is a validation file; nothing is split off",
                   "remove one of them");
    }
  }
  if (labels == LabelKind::kConversation && config.glue_task)
    problems.add("data.glue_task", "its rows are no instructions", "remove it, or change the task type");
  if (labels != LabelKind::kClass && !config.labels.empty()) {
    problems.add("data.labels", "the task has no classes", "remove data.labels");
  }
  if (std::set<std::string>(config.labels.begin(), config.labels.end()).size() != config.labels.size()) {
    problems.add("data.labels", "a class is named twice");
  }
  problems.throw_if_any(ErrorCode::kConfig, "data");
}

/// Classes whose share of the examples set aside is none: those of one example, and rare ones.
void note_unseen_classes(const Dataset& rest, const Dataset& taken, std::vector<std::string>& notes) {
  constexpr size_t kShown = 10;
  const std::map<std::string, int64_t> kept = rest.label_counts(), seen = taken.label_counts();
  std::vector<std::string> unseen, shown;
  for (const auto& [name, count] : kept) {
    if (!seen.contains(name)) unseen.push_back(name);
  }
  if (unseen.empty()) return;
  for (size_t i = 0; i < std::min(unseen.size(), kShown); ++i)
    shown.push_back(fmt::format("`{}`", beginning_of(unseen[i])));
  notes.push_back(
      fmt::format("{} of {} classes have too few examples for one to be set aside for validation, where they "
                  "do not count: {}{}",
                  unseen.size(), kept.size(), fmt::join(shown, ", "),
                  unseen.size() > kShown ? fmt::format(" and {} more", unseen.size() - kShown) : ""));
}

/// A column that is text and label teaches the model to read it off.
void note_shared_columns(const DataConfig& config, std::vector<std::string>& notes) {
  for (const auto& [key, column] :
       {std::pair("data.text", std::optional(config.text)), {"data.text_pair", config.text_pair}}) {
    if (column == config.label)
      notes.push_back(fmt::format("{} and data.label are the same column, `{}`", key, config.label));
  }
}

TaskData load_glue_data(const DataConfig& config, LabelKind labels, const TaskParts& parts) {
  TaskData result = load_glue(glue_task(*config.glue_task), *config.dir, parts);
  if (!config.labels.empty()) result.labels = config.labels;
  if (labels == LabelKind::kClass) result.class_counts = result.train.label_counts();
  result.notes = text_notes(result);
  return result;
}

}  // namespace

Dataset read_rows(const DataConfig& config, LabelKind labels, const std::filesystem::path& file,
                  bool label_optional, bool with_group) {
  if (labels == LabelKind::kConversation) {
    // A model with a template of its own reads all instructions as messages.
    return read_conversations(file, config.chat, /*alpaca_as_messages=*/config.chat.chat_template != "alpaca",
                              config.delimiter);
  }
  TableSpec spec = table_spec(config, file, labels);
  spec.label_optional |= label_optional;
  if (with_group) spec.group = config.group;
  return read_table(file, spec);
}

Dataset read_rows(const DataConfig& config, LabelKind labels, const DataFiles& files, bool label_optional,
                  bool with_group) {
  if (files.files.size() == 1 && !files.has_weights())
    return read_rows(config, labels, std::filesystem::path(files.files.front().path), label_optional,
                     with_group);
  std::vector<Dataset> parts;
  std::vector<std::string> counts;
  for (const WeightedFile& file : files.files) {
    parts.push_back(read_rows(config, labels, std::filesystem::path(file.path), label_optional, with_group));
    counts.push_back(fmt::format("{} {}", file.path, parts.back().size()));
    if (file.weight != 1.0) counts.back() += fmt::format(" (weight {})", file.weight);
  }
  Dataset all = Dataset::joined(std::move(parts), files);
  all.add_note(fmt::format("{} rows: {}", all.size(), fmt::join(counts, ", ")));
  return all;
}

TaskData load_task_data(const DataConfig& config, LabelKind labels, uint64_t seed, const TaskParts& parts) {
  check_config(config, labels, parts);
  if (config.glue_task) return load_glue_data(config, labels, parts);
  TaskData result;
  result.labels = config.labels;
  // The split needs the training file even when only the validation part is asked for.
  const bool split = !config.validation && config.validation_fraction > 0 && config.train;
  if (parts.train || (parts.validation && split)) {
    result.train = read_rows(config, labels, *config.train, false, /*with_group=*/true);
    if (labels == LabelKind::kClass || labels == LabelKind::kNumber)
      note_shared_columns(config, result.notes);
    if (labels == LabelKind::kClass) {
      result.class_counts = result.train.label_counts();
      for (std::string& note : class_notes(config.train->text(), result.class_counts, !config.labels.empty()))
        result.notes.push_back(std::move(note));
    }
  }
  if (parts.validation && config.validation) {
    result.validation.push_back({"validation", read_rows(config, labels, *config.validation, false)});
  }
  if (split) {
    auto [rest, taken] = split_dataset(result.train, config.validation_fraction, seed,
                                       /*by_class=*/labels == LabelKind::kClass);
    if (labels == LabelKind::kClass) note_unseen_classes(rest, taken, result.notes);
    taken.add_note(fmt::format("{}: {} of {} examples set aside for validation (seed {})",
                               config.train->text(), taken.size(), result.train.size(), seed));
    if (parts.validation) result.validation.push_back({"validation", std::move(taken)});
    result.train = std::move(rest);
  }
  if (parts.test && config.test)
    result.test.push_back({"test", read_rows(config, labels, *config.test, true)});
  for (std::string& note : text_notes(result)) result.notes.push_back(std::move(note));
  if (!parts.train) result.train = Dataset();
  return result;
}

}  // namespace msplora
