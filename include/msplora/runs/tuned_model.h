#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/adapters/merge.h"
#include "msplora/data/label_map.h"
#include "msplora/gguf/types.h"
#include "msplora/models/model.h"
#include "msplora/tasks/evaluator.h"
#include "msplora/tasks/facts.h"
#include "msplora/tasks/prediction.h"
#include "msplora/tasks/task.h"
#include "msplora/tokenizers/tokenizer.h"

namespace msplora {

/// How a trained model is opened.
struct TunedOptions {
  std::vector<std::string> labels;  // class names in the order of their numbers, where nothing names them,
                                    // and for files that hold numbers
  std::string task = "";            // of a language model whose files name none: causal_lm or sft
  std::string dtype = "float32";    // of activations and frozen weights
  at::Device device = at::kCPU;
};

/// A model ready to predict, be evaluated, merged or exported. Several threads may predict with and evaluate
/// one at a time; ablate_levels and whatever else changes the adapter or the model needs it alone.
struct TunedModel {
  TaskFacts facts;
  std::optional<LabelMap> labels;  // unset where the task has no classes
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;  // of instruction tuning; null where there is none
  ModelLoadReport report;
  std::unique_ptr<Model> model;
  std::unique_ptr<Adapter> adapter;  // null without one

  /// The task of the facts, for texts of up to max_length tokens (0: as in training); without metrics those
  /// that the task has.
  std::unique_ptr<Task> task(int64_t max_length = 0, std::vector<std::string> metrics = {}) const;
  /// What the label column of the task holds.
  LabelKind label_kind() const { return task_kind(facts.type).labels; }
};

/// Loads model and adapter ("": none); class names, columns and lengths come from the task.json beside the
/// adapter (without one, beside the model). Where there is none, a model whose adapter says nothing else
/// either is what its config.json says, a language model or a classifier; class names, where the base's own
/// head is used, are those of config.json, else numbers. Throws Error{kModel} when neither brings a trained
/// head, or when task.json belongs to another one, Error{kUsage} for options.task where the files name the
/// task.
TunedModel open_tuned(const std::filesystem::path& model, const std::filesystem::path& adapter = {},
                      const TunedOptions& options = {});

/// What the model says of one row: {"text": ...}, and {"text_pair": ...} where the task reads pairs
/// (facts.data.text_pair, or the GLUE task's). Throws Error{kUsage} for rows of another kind.
Prediction predict(TunedModel& tuned, const std::map<std::string, std::string>& row);

/// A labelled file as the task of a model sees it.
struct TaskRows {
  std::unique_ptr<Task> task;
  EncodedDataset encoded;
};
/// Reads one as `columns` say (usually tuned.facts.data). `notes` gets what people should know of the
/// reading: texts that were cut, a delimiter that was recognised.
TaskRows read_task_rows(const TunedModel& tuned, const std::filesystem::path& file, const DataConfig& columns,
                        int64_t max_length = 0, std::vector<std::string>* notes = nullptr);

/// Evaluates on a labelled file, read as `columns` say (usually tuned.facts.data). `notes` as above.
Evaluation evaluate(TunedModel& tuned, const std::filesystem::path& file, const DataConfig& columns,
                    int64_t max_length = 0, int64_t batch_tokens = 4096,
                    const EvaluationProgress& progress = {}, std::vector<std::string>* notes = nullptr);

/// A score with one level of the adapter left out.
struct LevelAblation {
  std::string level;
  Evaluation evaluation;
};
/// Leaves out each level of the adapter in turn and calls `score`; the adapter is whole again afterwards,
/// also when something is thrown. Throws Error{kUsage} where there is no adapter, or one without levels.
std::vector<LevelAblation> ablate_levels(TunedModel& tuned, const std::function<Evaluation()>& score);

/// What merging into files did.
struct MergedFiles {
  int64_t sites = 0;
  std::string type;            // of the files: "bfloat16", in GGUF "BF16"
  LogitDifference difference;  // between the files, read back, and model with adapter
};
/// Adds the adapter, if there is one, to the weights and writes a model directory with tokenizer and
/// task.json. `save_dtype` "auto" takes the type that most of the base is stored in. What counts is what lies
/// on the disk: it is read back and compared with the adapted model, which is given up before, for room.
MergedFiles merge_into(TunedModel tuned, const std::filesystem::path& base,
                       const std::filesystem::path& output, const std::string& save_dtype);
/// The same as one GGUF file for llama.cpp, with tokenizer and chat template; language models alone. `type`:
/// of the matrices, see parse_gguf_type(); "auto": what most of the base is stored in, where that is written,
/// else f16. The base may be a directory or a GGUF file. Throws Error{kUsage} naming what GGUF has no form
/// for; nothing is left then.
MergedFiles merge_into_gguf(TunedModel tuned, const std::filesystem::path& base,
                            const std::filesystem::path& output, const std::string& type);
/// Types that are written: f32, f16, bf16 and q8_0.
std::vector<std::string> gguf_type_names();
/// One of them. Throws Error{kUsage} with the nearest.
GgufType parse_gguf_type(const std::string& name);

}  // namespace msplora
