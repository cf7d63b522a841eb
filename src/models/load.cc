#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "models/parameter_store.h"
#include "models/registry.h"
#include "models/transformer.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/core/paths.h"
#include "msplora/gguf/file.h"
#include "msplora/io/gguf_weights.h"
#include "msplora/io/safetensors.h"
#include "msplora/models/gguf.h"
#include "msplora/models/model.h"
#include "msplora/nn/device.h"
#include "msplora/nn/dtype.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

constexpr at::ScalarType kComputeTypes[] = {at::kFloat, at::kBFloat16, at::kDouble};
constexpr at::ScalarType kStoredTypes[] = {at::kFloat, at::kBFloat16, at::kHalf, at::kDouble};

/// Empty where `dtype` is one of those.
std::string type_problem(std::span<const at::ScalarType> known, at::ScalarType dtype) {
  if (std::find(known.begin(), known.end(), dtype) != known.end()) return {};
  std::vector<std::string> names;
  for (const at::ScalarType type : known) names.push_back(dtype_name(type));
  return fmt::format("expected one of {}, found {}", fmt::join(names, ", "), dtype_name(dtype));
}

/// What no model can be made with, whatever its files say.
void check_options(const ModelLoadOptions& options) {
  ErrorList errors;
  if (options.num_labels < 0) {
    errors.add("num_labels", fmt::format("expected at least 1, found {}", options.num_labels),
               "0 takes what config.json says");
  }
  if (const std::string problem = type_problem(kComputeTypes, options.compute_dtype); !problem.empty())
    errors.add("compute_dtype", problem);
  // Written so that NaN is refused.
  if (options.dropout && !(*options.dropout >= 0.0 && *options.dropout < 1.0)) {
    errors.add("dropout", fmt::format("expected at least 0 and below 1, found {}", *options.dropout),
               "without a value config.json counts");
  }
  if (const std::string problem = device_problem(options.device); !problem.empty())
    errors.add("device", problem, "cpu is always there");
  errors.throw_if_any(ErrorCode::kUsage, "ModelLoadOptions");
}

ModelConfig with_labels(ModelConfig config, const ModelLoadOptions& options) {
  if (options.num_labels == 0) return config;
  if (static_cast<int64_t>(config.id2label.size()) != options.num_labels) config.id2label.clear();
  config.num_labels = options.num_labels;
  config.label_problems.clear();  // what the file says of labels counts no more
  return config;
}

/// The head's modules as prefixes of names; `with_base`: with those that checkpoints of the base may hold
/// (the pooler), which are not another task's.
std::vector<std::string> head_prefixes(const HeadSpec& head, bool with_base) {
  std::vector<std::string> prefixes;
  for (const HeadStage& stage : head.stages) {
    if (stage.trained_if_absent && !with_base) continue;
    for (const std::string& module : stage.modules) prefixes.push_back(module + ".");
  }
  if (!head.decoder.empty()) prefixes.push_back(head.decoder + ".");
  return prefixes;
}

/// What a checkpoint may hold beside the model: heads of other tasks, the copy of a tied decoder, and what no
/// task uses. Each also without the base's prefix.
std::vector<std::string> ignorable_prefixes(const ModelConfig& config, const Architecture& architecture) {
  std::vector<std::string> prefixes = architecture.ignored;
  prefixes.emplace_back("qa_outputs.");
  if (architecture.head.is_tied) prefixes.push_back(architecture.head.decoder + ".");
  for (const ModelTask other : find_family(config.model_type)->tasks) {
    if (other == architecture.task) continue;
    for (const std::string& prefix : head_prefixes(describe(config, other).head, true))
      prefixes.push_back(prefix);
  }
  for (size_t i = 0, n = prefixes.size(); i < n; ++i) {
    if (prefixes[i].starts_with(architecture.base_prefix))
      prefixes.push_back(prefixes[i].substr(architecture.base_prefix.size()));
  }
  return prefixes;
}

/// The class of a checkpoint whose head belongs to another task; empty where it is a classifier of sequences,
/// and where config.json does not say. Its tensors may have the very names and shapes of a classifier's.
std::string class_of_foreign_head(const ModelConfig& config, const Architecture& architecture,
                                  const WeightSource* source) {
  if (architecture.task != ModelTask::kSequenceClassification || source == nullptr) return {};
  for (const std::string& name : config.architectures) {
    if (name.ends_with("ForSequenceClassification")) return {};
  }
  std::vector<std::string> prefixes = head_prefixes(architecture.head, false);
  prefixes.emplace_back("qa_outputs.");
  const auto names = source->names();
  const bool has_head = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return std::any_of(prefixes.begin(), prefixes.end(),
                       [&](const std::string& prefix) { return name.starts_with(prefix); });
  });
  return has_head && !config.architectures.empty() ? config.architectures.front() : std::string();
}

std::unique_ptr<Model> build(const ModelConfig& read, const ModelLoadOptions& options,
                             const WeightSource* source, const std::string& where, ModelLoadReport* report,
                             bool shapes_alone = false) {
  check_options(options);
  require_supported(read);
  ModelConfig config = with_labels(read, options);
  // The dropout of a run is no property of the model that is saved.
  const Architecture architecture = describe(config, options.task, options.dropout);
  config.architectures = {class_name(*find_family(config.model_type), options.task)};
  // Tensors made in this mode could never be trained.
  const c10::InferenceMode no_inference(false);
  ParameterStore store(source, options, architecture);
  const std::string foreign = class_of_foreign_head(read, architecture, source);
  if (!foreign.empty()) store.set_foreign_head(head_prefixes(architecture.head, false));
  if (shapes_alone) store.use_shapes_alone();
  auto model = std::make_unique<Transformer>(config, architecture, options, store);
  store.finish(where, ignorable_prefixes(config, architecture), report);
  if (report != nullptr) report->foreign_head = foreign;
  return model;
}

std::unique_ptr<Model> build_from(const fs::path& directory, const ModelLoadOptions& options,
                                  ModelLoadReport* report, bool shapes_alone) {
  check_options(options);
  const ModelConfig config = load_model_config(directory);
  require_supported(config);
  describe(config, options.task);  // before a checkpoint is looked for
  if (options.task == ModelTask::kSequenceClassification && options.num_labels == 0) require_labels(config);
  const auto source = open_weights(directory, config);
  return build(config, options, source.get(), directory.string(), report, shapes_alone);
}

}  // namespace

std::unique_ptr<WeightSource> open_weights(const fs::path& path, const ModelConfig& config) {
  if (is_gguf_path(path)) return std::make_unique<GgufWeights>(GgufFile::open(path), gguf_names(config));
  return std::make_unique<Checkpoint>(Checkpoint::open(path));
}

std::string ModelLoadReport::replaced_head() const {
  if (!foreign_head.empty()) return fmt::format("the base's head is that of a {}", foreign_head);
  if (replaced_rows > 0) return fmt::format("the base's head has {} outputs", replaced_rows);
  return {};
}

std::unique_ptr<Model> load_model(const fs::path& directory, const ModelLoadOptions& options,
                                  ModelLoadReport* report) {
  return build_from(directory, options, report, /*shapes_alone=*/false);
}

ModelLoadReport plan_load(const fs::path& directory, const ModelLoadOptions& options) {
  ModelLoadReport report;
  build_from(directory, options, &report, /*shapes_alone=*/true);
  return report;
}

std::unique_ptr<Model> create_model(const ModelConfig& config, const ModelLoadOptions& options) {
  return build(config, options, nullptr, "model", nullptr);
}

std::vector<Parameter> parameters_of_shape(const ModelConfig& config, ModelTask task) {
  ModelLoadOptions options;
  options.task = task;
  return build(config, options, nullptr, "model", nullptr, /*shapes_alone=*/true)->parameters();
}

std::vector<Site> sites_of_shape(const Architecture& architecture) {
  std::vector<Site> sites;
  for (const PlacedLinear& linear : linears_of(architecture)) {
    sites.push_back({linear.path, linear.path.substr(linear.path.rfind('.') + 1), linear.layer,
                     linear.spec.in, linear.spec.out, nullptr, linear.spec.has_bias, linear.spec.role,
                     linear.spec.is_transposed});
  }
  return sites;
}

std::vector<Site> sites_of_shape(const ModelConfig& config, ModelTask task) {
  return sites_of_shape(describe(config, task));
}

void save_model(Model& model, const fs::path& directory, at::ScalarType dtype) {
  if (const std::string problem = type_problem(kStoredTypes, dtype); !problem.empty())
    throw Error(ErrorCode::kUsage, "dtype", problem);
  for (const Site& site : model.sites()) {
    if (site.linear->update == nullptr) continue;
    throw Error(ErrorCode::kUsage, site.path, "carries an adapter, which the model's files would be without",
                "merge it first (merge_adapter), or detach it to save the base");
  }
  prepare_output_directory(directory, /*overwrite=*/true);
  ModelConfig config = model.config();
  config.torch_dtype = dtype_name(dtype);
  std::set<std::string> transposed;
  for (const PlacedLinear& linear : linears_of(model.architecture())) {
    if (linear.spec.is_transposed) transposed.insert(linear.path + ".weight");
  }
  std::vector<NamedTensor> tensors;
  for (const Parameter& parameter : model.parameters()) {
    const at::Tensor stored = parameter.values().detach().to(dtype);
    tensors.push_back({parameter.name, transposed.contains(parameter.name) ? stored.t() : stored});
  }
  write_safetensors(directory / "model.safetensors", tensors, {{"format", "pt"}});
  write_file_atomically(directory / "config.json", model_config_to_json(config).dump(2) + "\n");
}

}  // namespace msplora
