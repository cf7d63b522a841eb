#include "msplora/runs/tuned_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "msplora/adapters/files.h"
#include "msplora/core/error.h"
#include "msplora/core/log.h"
#include "msplora/data/glue.h"
#include "msplora/runs/model_files.h"
#include "msplora/tasks/target.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

bool has_classes(const TaskFacts& facts) {
  return task_kind(facts.type).labels == LabelKind::kClass;
}

/// Of the head; 0: a language model's.
int64_t outputs_of(const TaskFacts& facts) {
  if (has_classes(facts)) return static_cast<int64_t>(facts.labels.size());
  return task_kind(facts.type).labels == LabelKind::kNumber ? 1 : 0;
}

std::vector<std::string> numbers_below(int64_t count) {
  std::vector<std::string> names;
  for (int64_t i = 0; i < count; ++i) names.push_back(std::to_string(i));
  return names;
}

/// Class names of the base's own head, numbers where config.json has none.
std::vector<std::string> labels_of_base(const ModelConfig& config) {
  std::vector<std::string> names = numbers_below(config.num_labels);
  if (class_names(config).empty()) return names;
  for (const auto& [index, name] : config.id2label) {
    if (index >= 0 && index < config.num_labels) names[static_cast<size_t>(index)] = name;
  }
  return names;
}

/// Puts the names that were given, or of data.labels in training, on the classes.
void name_classes(const std::vector<std::string>& given, bool has_names, TunedModel& tuned) {
  TaskFacts& facts = tuned.facts;
  if (!has_classes(facts)) {
    if (!given.empty())
      throw Error(ErrorCode::kUsage, "--labels", fmt::format("a {} has no classes", facts.type),
                  "leave it out");
    return;
  }
  if (!given.empty()) facts.data.labels = given;
  tuned.labels = LabelMap::from_list(facts.labels);
  if (!facts.data.labels.empty()) {
    tuned.labels =
        tuned.labels->with_numbers(facts.data.labels, given.empty() ? "task.json: labels" : "--labels");
  } else if (!has_names) {
    log_info(fmt::format("the {} classes have no names; give them with --labels NAME,NAME,...",
                         facts.labels.size()));
  }
  facts.labels = tuned.labels->names();
}

[[noreturn]] void refuse_facts(const TaskFacts& facts, int64_t outputs_of_head, const fs::path& described) {
  const std::string says = has_classes(facts) ? fmt::format("names {} classes", facts.labels.size())
                                              : fmt::format("is of task {}", facts.type);
  throw Error(ErrorCode::kModel, (described / "task.json").string(),
              fmt::format("{}, the head has {} outputs", says, outputs_of_head),
              "it belongs to another model: delete it, or copy it again from the run");
}

void check_outputs(const TaskFacts& facts, const ModelConfig& base, const fs::path& described) {
  const int64_t outputs = outputs_of(facts);
  if (outputs != 0 && outputs != base.num_labels) refuse_facts(facts, base.num_labels, described);
}

void choose_task(const std::string& task, const fs::path& described, bool has_task_file,
                 std::optional<TaskFacts>& facts) {
  if (has_task_file && facts->type != task)
    throw Error(ErrorCode::kUsage, "task", fmt::format("expected none, found `{}`", task),
                fmt::format("task.json in {} says {}", described.string(), facts->type));
  if (!facts)
    throw Error(ErrorCode::kUsage, "task", fmt::format("`{}` is for language models", task),
                "this one is no causal language model");
  facts->type = task;
}

bool reads_pairs(const TaskFacts& facts) {
  if (facts.data.text_pair) return true;
  return facts.data.glue_task && glue_task(*facts.data.glue_task).labelled.text_pair >= 0;
}

}  // namespace

std::unique_ptr<Task> TunedModel::task(int64_t max_length, std::vector<std::string> metrics) const {
  TaskSettings settings;
  settings.labels = labels;
  settings.tokenizer = tokenizer;
  settings.max_length = max_length > 0 ? effective_max_length(max_length, model->config()) : facts.max_length;
  settings.metrics = std::move(metrics);
  settings.chat = facts.data.chat;
  settings.chat_template = chat_template;
  return make_task(facts.type, std::move(settings));
}

TunedModel open_tuned(const fs::path& path, const fs::path& adapter, const TunedOptions& options) {
  TunedModel tuned;
  const ModelConfig config = load_supported_config(path);
  ModelLoadOptions load;
  load.compute_dtype = parse_dtype(options.dtype);
  load.device = options.device;
  // A merged model has its task.json beside it, as an adapter has.
  const bool has_adapter = !adapter.empty();
  const fs::path& described = has_adapter ? adapter : path;
  std::optional<TaskFacts> facts = load_task_facts(described);
  const bool has_task_file = facts.has_value();
  const AdapterFacts own = has_adapter ? load_adapter_facts(adapter) : AdapterFacts();
  const bool says_nothing = own.task_type.empty() && own.head_outputs == 0;
  if (!facts)
    facts = facts_of_language_model(says_nothing && is_language_model(config) ? "CAUSAL_LM" : own.task_type);
  if (!options.task.empty()) choose_task(options.task, described, has_task_file, facts);
  if (facts) load.task = task_kind(facts->type).head;
  bool has_own_head = false;
  if (has_adapter) {
    has_own_head = own.head_outputs > 0;
    if (has_own_head && facts && outputs_of(*facts) != own.head_outputs)
      refuse_facts(*facts, own.head_outputs, described);
    load.num_labels = facts && has_own_head ? outputs_of(*facts) : own.head_outputs;
  }
  tuned.model = load_model(path, load, &tuned.report);
  const ModelConfig& base = tuned.model->config();
  bool has_names = true;
  if (facts) {
    tuned.facts = *facts;
    check_outputs(*facts, base, described);
  } else {
    tuned.facts.type = base.num_labels == 1 ? "regression" : "classification";
    // The names of the base are those of the head it was saved with, not of one that was trained later.
    has_names = !has_own_head && !class_names(base).empty();
    if (has_classes(tuned.facts))
      tuned.facts.labels = has_own_head ? numbers_below(base.num_labels) : labels_of_base(base);
  }
  name_classes(options.labels, has_names, tuned);
  tuned.facts.max_length = effective_max_length(tuned.facts.max_length, config);
  if (!has_own_head && !tuned.report.fresh.empty()) {
    throw Error(ErrorCode::kModel, path.string(),
                fmt::format("has no trained head: {} would be random", fmt::join(tuned.report.fresh, ", ")),
                has_adapter ? "the adapter brings none either; it needs the model whose head it was used with"
                            : "name the adapter that was trained on it with --adapter");
  }
  tuned.tokenizer = load_tokenizer(path, config);
  if (task_kind(tuned.facts.type).labels == LabelKind::kConversation)
    tuned.chat_template = chat_template_of(tuned.facts.data.chat, path);
  if (has_adapter) tuned.adapter = load_adapter(adapter, target_of(*tuned.model, path.string()));
  return tuned;
}

Prediction predict(TunedModel& tuned, const std::map<std::string, std::string>& row) {
  Example example;
  example.line = 1;
  for (const auto& [name, value] : row) {
    if (name == "text") {
      example.text = value;
    } else if (name == "text_pair") {
      example.text_pair = value;
      example.has_pair = true;
    } else {
      throw Error(ErrorCode::kUsage, "predict", fmt::format("expected text and text_pair, found `{}`", name),
                  did_you_mean(name, {"text", "text_pair"}));
    }
  }
  if (!row.contains("text")) throw Error(ErrorCode::kUsage, "predict", "the row has no `text`");
  if (example.has_pair != reads_pairs(tuned.facts)) {
    throw Error(
        ErrorCode::kUsage, "predict: text_pair",
        example.has_pair
            ? fmt::format("the model's {} reads single texts", tuned.facts.type)
            : fmt::format("the model's {} reads pairs of texts, and the row has one", tuned.facts.type),
        example.has_pair
            ? "leave it out; where task.json is missing, facts.data.text_pair says that pairs are read"
            : "give both");
  }
  const auto task = tuned.task();
  const EncodedDataset encoded = task->encode(Dataset("row", {std::move(example)}, /*has_labels=*/false));
  return predict(*task, *tuned.model, all_of(encoded.examples)).front();
}

TaskRows read_task_rows(const TunedModel& tuned, const fs::path& file, const DataConfig& columns,
                        int64_t max_length, std::vector<std::string>* notes) {
  std::vector<std::string> metrics;
  Dataset data;
  if (columns.glue_task) {
    const GlueTask& glue = glue_task(*columns.glue_task);
    metrics = glue.metrics;
    data = read_glue_file(glue, file, /*labelled=*/true);
  } else {
    data = read_rows(columns, tuned.label_kind(), file);
    if (notes != nullptr && !data.delimiter_note().empty()) notes->push_back(data.delimiter_note());
  }
  TaskRows rows{tuned.task(max_length, std::move(metrics)), {}};
  rows.encoded = rows.task->encode(data);
  const EncodeSummary& summary = rows.encoded.summary;
  if (notes != nullptr && (summary.truncated_examples > 0 || !summary.unknown.note().empty()))
    notes->push_back(fmt::format("{}: {}", file.string(), summary.text()));
  return rows;
}

Evaluation evaluate(TunedModel& tuned, const fs::path& file, const DataConfig& columns, int64_t max_length,
                    int64_t batch_tokens, const EvaluationProgress& progress,
                    std::vector<std::string>* notes) {
  const TaskRows rows = read_task_rows(tuned, file, columns, max_length, notes);
  return Evaluator(*rows.task, *tuned.model, all_of(rows.encoded.examples), batch_tokens).run(progress);
}

std::vector<LevelAblation> ablate_levels(TunedModel& tuned, const std::function<Evaluation()>& score) {
  if (tuned.adapter == nullptr) throw Error(ErrorCode::kUsage, "ablate", "there is no adapter");
  Adapter& adapter = *tuned.adapter;
  const std::vector<std::string> levels = adapter.level_names();
  if (levels.size() < 2) {
    throw Error(ErrorCode::kUsage, "ablate",
                fmt::format("an adapter of method `{}` in this form has no levels to leave out",
                            adapter.config().method),
                "the native form of an msplora adapter has them (RUN/adapter-native); PEFT's joins them");
  }
  struct WholeAgain {
    Adapter& adapter;
    ~WholeAgain() { adapter.attach(); }
  } const whole_again{adapter};
  std::vector<LevelAblation> ablations;
  for (size_t level = 0; level < levels.size(); ++level) {
    adapter.attach_without(level);
    ablations.push_back({levels[level], score()});
  }
  return ablations;
}

}  // namespace msplora
