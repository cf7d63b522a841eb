#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "msplora/data/dataset.h"
#include "msplora/data/encode.h"
#include "msplora/data/label_map.h"
#include "msplora/models/model.h"
#include "msplora/tasks/evaluator.h"
#include "msplora/tasks/facts.h"
#include "msplora/tasks/task.h"
#include "msplora/tokenizers/tokenizer.h"
#include "msplora/train/recipe.h"

namespace msplora {

/// One encoded part of the data.
struct EncodedPart {
  std::string name;  // "train", "validation", "test"
  Dataset data;
  std::vector<TokenizedExample> examples;
  EncodeSummary summary;

  /// Its examples, with their places in the file. The part must outlive them, where it is.
  Examples all() const {
    Examples all = all_of(examples, [this](size_t i) { return data.where(i); });
    all.draws = data.draw_weights();
    return all;
  }
};

/// Parts by their names, for evaluation.
std::vector<NamedExamples> named(const std::vector<EncodedPart>& parts);

/// The text of a recipe, read and encoded, and the task that was made for it.
struct RunData {
  const TaskKind* kind = nullptr;
  std::unique_ptr<Task> task;
  std::optional<LabelMap> labels;  // unset where the task has no classes
  int64_t max_length = 0;
  bool is_shortened = false;  // max_length was lowered to what the model takes
  EncodedPart train;
  std::vector<EncodedPart> validation;
  std::vector<EncodedPart> test;
  std::vector<std::string> notes;  // of the data as a whole
};

/// Reads every part that the recipe names and chooses the class names: data.labels, else the task's, else
/// the sorted labels of the whole training file.
RunData read_run_data(const Recipe& recipe, const ModelConfig& config,
                      const std::shared_ptr<const Tokenizer>& tokenizer);

/// What is written beside an adapter of a run on these data.
TaskFacts facts_of(const Recipe& recipe, const RunData& data);

}  // namespace msplora
