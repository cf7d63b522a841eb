#include "models/registry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/models/shapes.h"

namespace msplora {
namespace {

const std::vector<Architecture>& architectures() {
  static const std::vector<Architecture> all = {bert_architecture(),
                                                roberta_architecture(),
                                                llama_architecture("llama", "Llama"),
                                                llama_architecture("mistral", "Mistral"),
                                                llama_architecture("qwen2", "Qwen2"),
                                                llama_architecture("qwen3", "Qwen3")};
  return all;
}

std::string task_name(ModelTask task) {
  switch (task) {
    case ModelTask::kSequenceClassification:
      return "sequence classification";
    case ModelTask::kMaskedLm:
      return "masked language modelling";
    case ModelTask::kCausalLm:
      return "causal language modelling";
  }
  return "?";
}

const Architecture& find_architecture(const ModelConfig& config, ModelTask task, std::string_view where) {
  for (const Architecture& architecture : architectures()) {
    if (architecture.model_type != config.model_type) continue;
    if (std::find(architecture.tasks.begin(), architecture.tasks.end(), task) == architecture.tasks.end()) {
      throw Error(ErrorCode::kModel, std::string(where),
                  fmt::format("model_type `{}` cannot be used for {}", config.model_type, task_name(task)));
    }
    return architecture;
  }
  const std::vector<std::string> known = supported_model_types();
  std::string hint = did_you_mean(config.model_type, known);
  throw Error(
      ErrorCode::kModel, fmt::format("{}: model_type", where),
      fmt::format("`{}` is not supported; supported are {}", config.model_type, fmt::join(known, ", ")),
      hint);
}

ModelConfig with_labels(ModelConfig config, const ModelLoadOptions& options) {
  if (options.num_labels <= 0) return config;
  if (static_cast<int64_t>(config.id2label.size()) != options.num_labels) config.id2label.clear();
  config.num_labels = options.num_labels;
  config.label_problems.clear();  // what the file says of labels counts no more
  return config;
}

/// The class of a checkpoint whose head belongs to another task; empty where it is a classifier of sequences,
/// and where config.json does not say. Its tensors may have the very names and shapes of a classifier's.
std::string class_of_foreign_head(const ModelConfig& config, const ModelLoadOptions& options,
                                  const std::string& head_prefix, const Checkpoint* checkpoint) {
  if (options.task != ModelTask::kSequenceClassification || checkpoint == nullptr) return {};
  for (const std::string& name : config.architectures) {
    if (name.ends_with("ForSequenceClassification")) return {};
  }
  const auto names = checkpoint->names();
  const bool has_head = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return name.starts_with(head_prefix) || name.starts_with("qa_outputs.");
  });
  return has_head && !config.architectures.empty() ? config.architectures.front() : std::string();
}

std::unique_ptr<Model> build(const ModelConfig& read, const ModelLoadOptions& options,
                             const Checkpoint* checkpoint, const std::string& where, ModelLoadReport* report,
                             bool shapes_alone = false) {
  const Architecture& architecture = find_architecture(read, options.task, where);
  ModelConfig config = with_labels(read, options);
  config.architectures = {architecture.class_name(options.task)};
  ParameterStore store(checkpoint, options, config.initializer_range, architecture.base_prefix);
  const std::string foreign = class_of_foreign_head(read, options, architecture.head_prefix, checkpoint);
  store.set_head(architecture.head_prefix, !foreign.empty());
  if (shapes_alone) store.use_shapes_alone();
  ModelConfig built = config;
  if (options.dropout) {
    built.hidden_dropout_prob = built.attention_probs_dropout_prob = *options.dropout;
    built.classifier_dropout = *options.dropout;
  }
  std::unique_ptr<Model> model = architecture.build(built, options, store);
  model->mutable_config() = config;  // the dropout of a run is no property of the model that is saved
  store.finish(where, architecture.ignorable(options.task), report);
  if (report != nullptr) report->foreign_head = foreign;
  return model;
}

}  // namespace

std::vector<std::string> supported_model_types() {
  std::vector<std::string> types;
  for (const Architecture& architecture : architectures()) types.push_back(architecture.model_type);
  return types;
}

bool supports_task(const std::string& model_type, ModelTask task) {
  for (const Architecture& architecture : architectures()) {
    const auto& tasks = architecture.tasks;
    if (architecture.model_type == model_type)
      return std::find(tasks.begin(), tasks.end(), task) != tasks.end();
  }
  return false;
}

std::string ModelLoadReport::replaced_head() const {
  if (!foreign_head.empty()) return fmt::format("the base's head is that of a {}", foreign_head);
  if (replaced_rows > 0) return fmt::format("the base's head has {} outputs", replaced_rows);
  return {};
}

namespace {

std::unique_ptr<Model> build_from(const std::filesystem::path& directory, const ModelLoadOptions& options,
                                  ModelLoadReport* report, bool shapes_alone) {
  const ModelConfig config = load_model_config(directory);
  const std::string where = (directory / "config.json").string();
  find_architecture(config, options.task, where);  // before a checkpoint is looked for
  if (options.task == ModelTask::kSequenceClassification && options.num_labels <= 0)
    require_labels(config, where);
  const Checkpoint checkpoint = Checkpoint::open(directory);
  return build(config, options, &checkpoint, directory.string(), report, shapes_alone);
}

}  // namespace

std::unique_ptr<Model> load_model(const std::filesystem::path& directory, const ModelLoadOptions& options,
                                  ModelLoadReport* report) {
  return build_from(directory, options, report, /*shapes_alone=*/false);
}

ModelLoadReport plan_load(const std::filesystem::path& directory, const ModelLoadOptions& options) {
  ModelLoadReport report;
  build_from(directory, options, &report, /*shapes_alone=*/true);
  return report;
}

std::unique_ptr<Model> create_model(const ModelConfig& config, const ModelLoadOptions& options) {
  return build(config, options, nullptr, "model", nullptr);
}

std::vector<NamedTensor> parameters_of_shape(const ModelConfig& config, ModelTask task) {
  ModelLoadOptions options;
  options.task = task;
  const Architecture& architecture = find_architecture(config, task, "model");
  ParameterStore store(nullptr, options, config.initializer_range, architecture.base_prefix);
  store.use_shapes_alone();
  return architecture.build(config, options, store)->parameters();
}

void save_model(Model& model, const std::filesystem::path& directory, at::ScalarType dtype) {
  ModelConfig config = model.config();
  config.torch_dtype = dtype == at::kBFloat16 ? "bfloat16" : dtype == at::kHalf ? "float16" : "float32";
  std::vector<NamedTensor> tensors;
  for (const NamedTensor& parameter : model.parameters())
    tensors.push_back({parameter.name, parameter.tensor.detach().to(dtype)});
  std::filesystem::create_directories(directory);
  write_safetensors(directory / "model.safetensors", tensors, {{"format", "pt"}});
  write_file_atomically(directory / "config.json", model_config_to_json(config).dump(2) + "\n");
}

}  // namespace msplora
