#include "msplora/runs/run.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "msplora/adapters/files.h"
#include "msplora/adapters/planning.h"
#include "msplora/runs/model_files.h"
#include "msplora/tasks/target.h"
#include "runs/layer_ranks.h"
#include "runs/opening.h"

namespace msplora {
namespace {

/// The modules that a GGUF adapter is for. Its file names llama.cpp's tensors, and only a model's shape says
/// which modules these are.
void take_modules_of_file(Run& run, ModelTask head) {
  AdapterConfig& wanted = run.recipe.adapter;
  if (wanted.init_from.empty() || adapter_form(wanted.init_from) != AdapterForm::kGguf) return;
  const auto adapter =
      load_adapter_without_base(wanted.init_from, target_of_config(run.config, head, run.recipe.model.path));
  const std::vector<std::string>& own = adapter->config().target_modules;
  const auto names = [](const std::vector<std::string>& list) { return std::set(list.begin(), list.end()); };
  if (!wanted.target_modules.empty() && names(wanted.target_modules) != names(own)) {
    throw Error(
        ErrorCode::kConfig, "adapter.target_modules",
        fmt::format("[{}], but the adapter in {} is for {} modules: {} ...",
                    fmt::join(wanted.target_modules, ", "), wanted.init_from, own.size(), own.front()),
        "leave it out: the run takes over the settings of adapter.init_from");
  }
  wanted.target_modules = own;
}

/// Target modules, ranks and the other adapter options against the shapes that config.json gives.
void check_adapter(Run& run, ModelTask head, ErrorList& errors) {
  attempt(errors, [&] { take_modules_of_file(run, head); });
  run.recipe.adapter = with_default_targets(run.recipe.adapter, run.config.model_type);
  attempt(errors, [&] {
    // A classifier's head is trained whole, whatever it consists of.
    const Architecture shape =
        describe(run.config, head == ModelTask::kSequenceClassification ? ModelTask::kNone : head);
    run.planned = count_parameters(
        run.recipe.adapter, sites_of_shape(shape), shape.num_layers(), attention_heads(run.config),
        head == ModelTask::kSequenceClassification ? kDefaultHeadModules : trained_modules(shape.head),
        parameters_of_shape(run.config, head));
  });
}

/// The head of the adapter that the run goes on from.
void check_head(const AdapterConfig& adapter, int64_t num_labels, ErrorList& errors) {
  if (adapter.init_from.empty()) return;
  attempt(errors, [&] {
    const int64_t outputs = load_adapter_facts(adapter.init_from).head_outputs;
    if (outputs == 0 || outputs == num_labels) return;
    errors.add("adapter.init_from: " + adapter.init_from,
               fmt::format("its head has {} outputs, the data have {} classes", outputs, num_labels),
               "name the adapter's classes in data.labels");
  });
}

void check_data(Run& run, bool has_model, ErrorList& errors) {
  const Recipe& recipe = run.recipe;
  attempt(errors, [&] {
    if (has_model && run.tokenizer) {
      run.data = read_run_data(recipe, run.config, run.tokenizer);
      return;
    }
    // Without a tokenizer the files can still be read.
    const TaskParts parts{true, true, recipe.data.test.has_value()};
    load_task_data(recipe.data, task_kind(recipe.task.type).labels, static_cast<uint64_t>(recipe.train.seed),
                   parts);
  });
}

}  // namespace

std::optional<ModelConfig> check_model(const ModelOptions& model, std::shared_ptr<const Tokenizer>& tokenizer,
                                       ErrorList& errors) {
  std::optional<ModelConfig> config;
  if (!attempt(errors, [&] { config = load_supported_config(model.path); })) return std::nullopt;
  attempt(errors, [&] { tokenizer = load_tokenizer(model.path, *config); });
  return config;
}

Run check_run(const Recipe& recipe, ErrorList& errors, bool with_adapter) {
  Run run;
  run.recipe = recipe;
  run.threads = detail::use_compute_options(recipe.train, errors);
  const TaskKind& kind = task_kind(recipe.task.type);
  std::optional<ModelConfig> config;
  if (!recipe.model.path.empty()) config = check_model(recipe.model, run.tokenizer, errors);
  if (config) run.config = *config;
  const bool fits = !config || supports_task(config->model_type, kind.head);
  if (!fits) {
    errors.add("task.type",
               fmt::format("models of type {} have no head for `{}`", config->model_type, recipe.task.type));
  }
  if (config && fits && with_adapter) check_adapter(run, kind.head, errors);
  check_data(run, config.has_value(), errors);
  if (config && fits && !recipe.model.random_init) {
    attempt(errors, [&] {
      ModelLoadOptions options;
      options.task = kind.head;
      options.num_labels = run.data.task ? run.data.task->num_outputs() : config->num_labels;
      run.report = plan_load(recipe.model.path, options);
    });
  }
  if (run.data.task) {
    check_head(recipe.adapter, run.data.task->num_outputs(), errors);
    check_options(run, errors);
  }
  return run;
}

Run check_run(const Recipe& recipe, ErrorList& errors) {
  return check_run(recipe, errors, /*with_adapter=*/true);
}

int detail::use_compute_options(const TrainOptions& train, ErrorList& errors) {
  attempt(errors, [&] { kernels::set_matmul_precision(kernels::precision_named(train.matmul_precision)); });
  return use_threads(train.threads);
}

void detail::open_model_of(Run& run) {
  const Recipe& recipe = run.recipe;
  run.model =
      open_model(recipe.model, run.config,
                 load_options(recipe.model, recipe.train, run.data.kind->head, run.data.task->num_outputs()),
                 &run.report);
}

Run open_run(const Recipe& recipe, const OpenOptions& options) {
  return detail::opened(options, [&] {
    Run run = detail::checked_run(recipe, options);
    detail::open_model_of(run);
    run.ranks = settle_layer_ranks(run.recipe, *run.model, run.data.train.all(), options.resume);
    run.adapter = create_adapter(run.recipe.adapter, target_of(*run.model, recipe.model.path),
                                 static_cast<uint64_t>(recipe.train.seed));
    return run;
  });
}

}  // namespace msplora
