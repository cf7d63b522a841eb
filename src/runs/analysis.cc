#include "msplora/runs/analysis.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <c10/core/GradMode.h>

#include "msplora/adapters/files.h"
#include "msplora/adapters/planning.h"
#include "msplora/analysis/analyze.h"
#include "msplora/analysis/export.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/core/paths.h"
#include "msplora/gguf/file.h"
#include "msplora/runs/adapter_place.h"
#include "msplora/runs/model_files.h"
#include "msplora/runs/run_directory.h"
#include "msplora/tasks/facts.h"
#include "msplora/tasks/target.h"
#include "msplora/tasks/task.h"
#include "msplora/train/checkpoint.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

/// The last parts of a path, one more where the last is the place of an adapter in its run.
std::string tail_of(fs::path path, int parts) {
  path = absolute_path(path).lexically_normal();
  if (path.filename().empty()) path = path.parent_path();
  if (path.filename() == kPeftDirectory || path.filename() == kNativeDirectory) ++parts;
  fs::path tail;
  for (; parts > 0 && path.has_filename(); --parts, path = path.parent_path())
    tail = tail.empty() ? path.filename() : path.filename() / tail;
  return tail.string();
}

/// Short names, each once: as many last parts of all paths as tell them apart.
std::vector<std::string> names_of(const std::vector<fs::path>& inputs) {
  constexpr int kMostParts = 4;
  std::vector<std::string> names;
  for (int parts = 1; parts <= kMostParts; ++parts) {
    names.clear();
    for (const fs::path& input : inputs) names.push_back(tail_of(input, parts));
    if (std::set<std::string>(names.begin(), names.end()).size() == names.size()) return names;
  }
  std::set<std::string> taken;
  for (std::string& name : names) {
    const std::string plain = name;
    for (int copy = 2; !taken.insert(name).second; ++copy) name = fmt::format("{} ({})", plain, copy);
  }
  return names;
}

bool has_config(const fs::path& base) {
  std::error_code ignored;
  return is_gguf_path(base) || fs::is_regular_file(base / "config.json", ignored);
}

bool has_weights(const fs::path& base) {
  if (is_gguf_path(base)) return true;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(base, ignored)) {
    if (entry.path().extension() == ".safetensors") return true;
  }
  return false;
}

/// The model as the adapter's task has it.
ModelLoadOptions options_for(const fs::path& adapter, const AdapterFacts& facts) {
  ModelLoadOptions load;
  std::optional<TaskFacts> task = load_task_facts(adapter);
  if (!task) task = facts_of_language_model(facts.task_type);
  if (task) load.task = task_kind(task->type).head;
  load.num_labels = facts.head_outputs;
  return load;
}

/// An adapter and what it needs to live; members are destroyed in reverse order.
struct OpenedAdapter {
  std::unique_ptr<Model> trained_model, base_model;  // null without weights; the first only where it differs
  std::unique_ptr<Adapter> adapter;
  std::optional<analysis::BaseWeights> base;
  std::vector<std::string> notes;
};

OpenedAdapter open_with_weights(const AdapterPlace& input, const AdapterFacts& facts, const fs::path& base) {
  OpenedAdapter opened;
  const ModelLoadOptions load = options_for(input.adapter, facts);
  opened.base_model = load_model(base, load);
  Model* model = opened.base_model.get();
  if (trains_whole_base(facts.config)) {
    opened.trained_model = load_model(base, load);
    model = opened.trained_model.get();
  }
  opened.adapter = load_adapter(input.adapter, target_of(*model, base.string()));
  opened.adapter->detach();
  opened.base = analysis::BaseWeights{base.string(), opened.base_model->sites()};
  return opened;
}

OpenedAdapter open_without_weights(const AdapterPlace& input, const AdapterFacts& facts,
                                   const fs::path& base) {
  OpenedAdapter opened;
  AdapterTarget target;
  if (has_config(base)) {
    target = target_of_config(load_model_config(base), options_for(input.adapter, facts).task, base.string());
  } else {
    target = target_of_files(input.adapter);
  }
  opened.adapter = load_adapter_without_base(input.adapter, std::move(target));
  return opened;
}

OpenedAdapter open_adapter(const AdapterPlace& input, const AnalysisRequest& request) {
  const AdapterFacts facts = load_adapter_facts(input.adapter);
  const fs::path base = !request.base.empty() ? request.base : fs::path(facts.base_name);
  if (!request.base.empty() && !has_config(base)) {
    throw Error(ErrorCode::kIo, base.string(), "holds no model: there is no config.json",
                "the directory of the base");
  }
  if (request.uses_base && has_config(base) && has_weights(base))
    return open_with_weights(input, facts, base);
  OpenedAdapter opened = open_without_weights(input, facts, base);
  opened.notes.push_back(
      !request.uses_base
          ? "the base was not looked at: numbers that need its weights are left out"
          : fmt::format("the weights of the base ({}) are not at hand: numbers that need them are left out",
                        base.empty() ? "which the adapter does not name" : base.string()));
  return opened;
}

/// The adapter with the values of a checkpoint.
std::unique_ptr<Adapter> adapter_at(const Adapter& final_adapter, const CheckpointStore& store,
                                    int64_t step) {
  AdapterTarget target;
  target.model_type = final_adapter.target().model_type;
  target.num_layers = final_adapter.target().num_layers;
  target.heads = final_adapter.target().heads;
  target.sites = final_adapter.target().sites;
  for (Site& site : target.sites) site.linear = nullptr;
  auto adapter = empty_adapter(final_adapter.config(), std::move(target));
  const bool has_facts = !final_adapter.state().facts.is_null();
  const TrainingCheckpoint whole = has_facts ? store.load(step) : TrainingCheckpoint();
  const std::vector<NamedTensor> stored = has_facts ? whole.trainable : store.load_trainable(step);
  std::map<std::string, at::Tensor> values;
  for (const NamedTensor& entry : stored) values[entry.name] = entry.tensor;
  const c10::NoGradGuard no_grad;
  const auto fill = [&](const std::string& name, at::Tensor tensor) {
    const auto found = values.find(name);
    if (found == values.end() || found->second.sizes() != tensor.sizes()) {
      throw Error(
          ErrorCode::kFormat, store.path(step).string(),
          fmt::format("{} is missing or has another shape: the checkpoint is of another adapter", name));
    }
    tensor.copy_(found->second);
  };
  for (const TrainableTensor& entry : adapter->trainable()) fill(entry.name, entry.tensor.detach());
  for (const NamedTensor& entry : adapter->state().tensors) fill(entry.name, entry.tensor);
  if (!whole.adapter_state.is_null()) adapter->restore(whole.adapter_state, RestorePhase::kValues);
  return adapter;
}

analysis::Curves curves_of_run(const AdapterPlace& input, const Adapter& adapter,
                               const analysis::Options& options) {
  if (input.run.empty()) {
    throw Error(ErrorCode::kUsage, input.adapter.string(),
                "is an adapter by itself, which has no checkpoints",
                "name the directory of the run that made it");
  }
  if (adapter.sites().empty()) {
    throw Error(ErrorCode::kUsage, input.adapter.string(),
                fmt::format("method `{}` has no low-rank update whose curves could be drawn",
                            adapter.config().method),
                "leave out --checkpoints");
  }
  const CheckpointStore store(input.run);
  const std::vector<int64_t> steps = store.steps();
  if (steps.empty()) {
    throw Error(ErrorCode::kUsage, input.run.string(), "the run has kept no checkpoints",
                "train with train.keep_checkpoints and train.save_every");
  }
  return analysis::curves_of(
      steps, [&](int64_t step) { return adapter_at(adapter, store, step); }, options);
}

}  // namespace

analysis::Report analyze_adapters(const AnalysisRequest& request,
                                  const std::function<void(const std::string&)>& say) {
  analysis::Report report;
  report.options = request.options;
  const std::vector<std::string> names = names_of(request.inputs);
  for (size_t i = 0; i < request.inputs.size(); ++i) {
    const AdapterPlace input = find_adapter(request.inputs[i]);
    OpenedAdapter opened = open_adapter(input, request);
    if (say) say(fmt::format("{}: {}", names[i], input.adapter.string()));
    analysis::AdapterAnalysis found =
        analysis::analyze(*opened.adapter, names[i], opened.base ? &*opened.base : nullptr, request.options);
    found.path = input.adapter.string();
    found.notes.insert(found.notes.begin(), opened.notes.begin(), opened.notes.end());
    if (request.checkpoints) found.curves = curves_of_run(input, *opened.adapter, request.options);
    report.adapters.push_back(std::move(found));
  }
  report.findings = analysis::findings_of(report.adapters);
  return report;
}

void write_csv_tables(const analysis::Report& report, const fs::path& directory) {
  make_directories(directory);
  for (const auto& [name, text] : analysis::to_csv(report)) write_file_atomically(directory / name, text);
}

}  // namespace msplora
