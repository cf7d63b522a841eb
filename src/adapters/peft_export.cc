// Writes any adapter whose update is a sum of low-rank terms as an adapter of PEFT's LoRA, and those for
// which PEFT has a tuner of its own in its form.
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "adapters/base_parameters.h"
#include "adapters/files_detail.h"
#include "adapters/method.h"
#include "adapters/peft_config.h"
#include "adapters/peft_names.h"
#include "adapters/peft_saved.h"
#include "adapters/regex.h"
#include "adapters/stored_tensors.h"
#include "adapters/target_modules.h"
#include "msplora/adapters/files.h"
#include "msplora/core/error.h"
#include "msplora/core/paths.h"
#include "msplora/io/safetensors.h"
#include "nn/low_rank_terms.h"

namespace msplora {
namespace {

using nlohmann::json;

/// One adapted module in PEFT's terms.
struct ExportedSite {
  std::string path;
  bool is_words = false;
  at::Tensor down, up;
  int64_t rank = 0;
  double alpha = 0.0;
};

/// alpha of a LoRA whose rank has grown `terms` times, so that its scaling stays the same.
double lora_alpha(const AdapterConfig& config, double alpha, size_t terms) {
  const auto growth = static_cast<double>(terms);
  return alpha * (config.use_rslora ? std::sqrt(growth) : growth);
}

/// What keeps LoRA's options keeps its alpha and its tensors bit for bit; where a part of the weight is
/// subtracted (PiSSA, OLoRA), it becomes one of twice the rank and the same scaling. Other methods are
/// concatenated, scalings folded into `up`.
std::vector<ExportedSite> export_sites(const Adapter& adapter) {
  std::vector<ExportedSite> exported;
  const bool is_lora = detail::method_of(adapter).peft.keeps_lora_options;
  for (size_t i = 0; i < adapter.sites().size(); ++i) {
    std::vector<LowRankTerm> terms = adapter.terms(i);
    if (terms.empty()) continue;
    ExportedSite site;
    site.path = adapter.sites()[i].path;
    site.is_words = adapter.sites()[i].role == LinearRole::kWords;
    if (is_lora) {
      for (LowRankTerm& term : terms) term.scaling = 1.0;
    }
    const detail::Stacked stacked = detail::stack(terms, {});
    site.down = stacked.down;
    site.up = stacked.up;
    site.rank = site.down.size(0);
    site.alpha = static_cast<double>(site.rank);
    if (is_lora) {
      const AdapterConfig& config = adapter.config();
      const double alpha = detail::pattern_value(config.alpha_pattern, site.path, config.alpha);
      site.alpha = lora_alpha(config, alpha, terms.size());
    }
    exported.push_back(std::move(site));
  }
  return exported;
}

int64_t most_common_rank(const std::vector<ExportedSite>& sites) {
  std::map<int64_t, int64_t> counts;
  for (const ExportedSite& site : sites) ++counts[site.rank];
  const auto most = std::max_element(counts.begin(), counts.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return most->first;
}

/// The options that select exactly these modules: the adapter's own where they do, else full paths.
AdapterConfig selecting_config(const Adapter& adapter, const std::set<std::string>& wanted) {
  const auto selects = [&](AdapterConfig config) {
    if (!config.exclude_modules.empty() && config.exclude_modules_regex)
      return false;  // PEFT has one of the two
    // Older versions of PEFT do not keep target_modules out of heads and modules_to_save.
    config.modules_to_save.clear();
    ErrorList errors;
    std::set<std::string> found;
    for (const Site& site : detail::match_targets(config, adapter.target().sites, /*heads=*/{},
                                                  detail::Strictness::kLenient, errors)) {
      found.insert(site.path);
    }
    return errors.empty() && found == wanted;
  };
  AdapterConfig config = adapter.config();
  if (detail::is_all_linear(config)) {
    // Spelled out, since PEFT's idea of all linear layers depends on the model class it is put on.
    std::set<std::string> names;
    for (const Site& site : adapter.sites()) names.insert(site.module);
    config.target_modules.assign(names.begin(), names.end());
  }
  if (selects(config)) return config;
  config.target_modules.assign(wanted.begin(), wanted.end());
  config.target_modules_regex.reset();
  config.exclude_modules.clear();
  config.exclude_modules_regex.reset();
  config.layers_to_transform.clear();
  config.layers_pattern.clear();
  return config;
}

json or_null(const std::vector<std::string>& names) {
  return names.empty() ? json(nullptr) : json(names);
}

json peft_task_type(const AdapterTarget& target) {
  const std::string& task = target.task_type;
  // PEFT wants the head's tensors with SEQ_CLS.
  if (task == "SEQ_CLS" && target.head_modules.empty()) return nullptr;
  for (const char* known :
       {"SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"}) {
    if (task == known) return task;
  }
  return nullptr;
}

double common_dropout(const Adapter& adapter) {
  const AdapterConfig& config = adapter.config();
  if (config.dropouts.empty()) return config.dropout;
  const bool equal = std::all_of(config.dropouts.begin(), config.dropouts.end(),
                                 [&](double p) { return p == config.dropouts.front(); });
  return equal ? config.dropouts.front() : 0.0;
}

/// Other names of what is trained: for PEFT a tied matrix that one module saves is no longer tied, so that
/// its file needs both.
std::vector<TiedName> trained_ties(const Adapter& adapter) {
  std::vector<TiedName> ties;
  for (const TiedName& tie : adapter.target().ties) {
    for (const TrainableTensor& entry : adapter.trainable()) {
      if (entry.name == tie.parameter) ties.push_back(tie);
    }
  }
  return ties;
}

std::vector<std::string> modules_to_save(const Adapter& adapter) {
  const AdapterTarget& target = adapter.target();
  std::vector<std::string> saved = target.head_modules;
  const auto add = [&](const std::string& name) {
    if (std::find(saved.begin(), saved.end(), name) == saved.end()) saved.push_back(name);
  };
  for (const std::string& name : adapter.config().modules_to_save) add(name);
  std::vector<Parameter> parameters = target.parameters;
  for (const TiedName& tie : trained_ties(adapter)) {
    if (!detail::lies_in(tie.name, saved)) add(tie.name.substr(0, tie.name.rfind('.')));
    parameters.emplace_back(tie.name, at::Tensor());
  }
  return detail::names_for_peft(saved, parameters);
}

/// What every tuner's file says.
json common_config(const Adapter& adapter, const AdapterConfig& select) {
  return {{"task_type", peft_task_type(adapter.target())},
          {"base_model_name_or_path", adapter.target().base_name},
          {"inference_mode", true},
          {"target_modules",
           select.target_modules_regex ? json(*select.target_modules_regex) : json(select.target_modules)},
          {"bias", adapter.config().bias},
          {"modules_to_save", or_null(modules_to_save(adapter))}};
}

/// Older versions of PEFT refuse a file with a key that they do not know, null or not; so what says no more
/// than the default is left out.
void drop_defaults(json& config) {
  for (auto entry = config.begin(); entry != config.end();) {
    const json& value = entry.value();
    const bool is_default = value.is_null() || value == json(false) || (value.is_object() && value.empty());
    entry = is_default ? config.erase(entry) : std::next(entry);
  }
}

json lora_config(const Adapter& adapter, const std::vector<ExportedSite>& sites,
                 const std::set<std::string>& paths) {
  const bool is_lora = detail::method_of(adapter).peft.keeps_lora_options;
  const size_t terms = adapter.terms(0).size();
  const int64_t rank =
      is_lora ? adapter.config().rank * static_cast<int64_t>(terms) : most_common_rank(sites);
  const double alpha =
      is_lora ? lora_alpha(adapter.config(), adapter.config().alpha, terms) : static_cast<double>(rank);
  json rank_pattern = json::object(), alpha_pattern = json::object();
  for (const ExportedSite& site : sites) {
    // Anchored full paths cannot overlap, whatever order a reader tries them in.
    const std::string pattern = fmt::format("^{}", detail::escape_regex(site.path));
    if (site.rank != rank) rank_pattern[pattern] = site.rank;
    if (site.alpha != alpha) alpha_pattern[pattern] = detail::peft_number(site.alpha);
  }
  const AdapterConfig select = selecting_config(adapter, paths);
  json layers = nullptr;
  if (!select.layers_to_transform.empty()) layers = select.layers_to_transform;
  json config = common_config(adapter, select);
  config.update({{"peft_type", "LORA"},
                 {"r", rank},
                 {"lora_alpha", detail::peft_number(alpha)},
                 {"lora_dropout", common_dropout(adapter)},
                 {"use_rslora", is_lora && adapter.config().use_rslora},
                 {"use_dora", is_lora && adapter.config().use_dora},
                 // PEFT's word for layers that files of models hold as [in, out] (Conv1D).
                 {"fan_in_fan_out", std::any_of(adapter.sites().begin(), adapter.sites().end(),
                                                [](const Site& site) { return site.is_transposed; })},
                 {"exclude_modules", select.exclude_modules_regex ? json(*select.exclude_modules_regex)
                                                                  : or_null(select.exclude_modules)},
                 {"layers_to_transform", layers},
                 {"layers_pattern", or_null(select.layers_pattern)},
                 {"rank_pattern", rank_pattern},
                 {"alpha_pattern", alpha_pattern},
                 // Anything else may make PEFT change base weights on load.
                 {"init_lora_weights", true}});
  drop_defaults(config);
  return config;
}

/// Other tuners have target_modules alone to select with.
json tuner_config(const Adapter& adapter, const detail::PeftTuner& tuner) {
  AdapterConfig select = adapter.config();
  const bool selects_more =
      !select.exclude_modules.empty() || select.exclude_modules_regex || !select.layers_to_transform.empty();
  if (selects_more || detail::is_all_linear(select)) {
    select.target_modules_regex.reset();
    select.target_modules.clear();
    for (const Site& site : adapter.sites()) select.target_modules.push_back(site.path);
  }
  json config = common_config(adapter, select);
  const std::string& type = detail::method_of(adapter).peft.type;
  config["peft_type"] = type;
  if (config["bias"] == "lora_only") config["bias"] = detail::peft_bias_word(type);
  drop_defaults(config);
  config.update(tuner.options);
  return config;
}

/// The tensors of the modules, then those of the base that are trained as well, under PEFT's names.
std::vector<NamedTensor> peft_tensors(const Adapter& adapter, const std::vector<NamedTensor>& of_modules,
                                      const std::set<std::string>& paths) {
  std::vector<NamedTensor> tensors;
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    tensors.push_back(
        {fmt::format("{}{}", detail::kPeftPrefix, name), tensor.detach().to(at::kCPU).contiguous()});
  };
  for (const NamedTensor& entry : of_modules) add(entry.name, entry.tensor);
  std::set<std::string> wrapped;
  for (const std::string& path : paths) wrapped.insert(fmt::format("{}.bias", path));
  for (const TrainableTensor& entry : adapter.trainable()) {
    if (entry.group == ParameterGroup::kAdapter) {
      if (detail::matches_suffix(entry.name, "lora_magnitude_vector")) add(entry.name, entry.tensor);
      continue;
    }
    // PEFT moves the layer it wraps, and its bias with it, into base_layer.
    const bool is_wrapped = wrapped.count(entry.name) > 0;
    add(is_wrapped ? fmt::format("{}base_layer.bias", entry.name.substr(0, entry.name.size() - 4))
                   : entry.name,
        entry.tensor);
    for (const TiedName& tie : adapter.target().ties) {
      if (entry.name == tie.parameter) add(tie.name, entry.tensor);
    }
  }
  return tensors;
}

void write_files(const std::filesystem::path& directory, const std::vector<NamedTensor>& tensors,
                 const json& config) {
  make_directories(directory);
  write_safetensors(directory / detail::kPeftTensors, tensors, {{"format", "pt"}});
  detail::write_json(directory / detail::kPeftConfig, config);
}

[[noreturn]] void refuse(const std::filesystem::path& directory, const std::string& reason) {
  throw Error(ErrorCode::kUsage, directory.string(),
              "the adapter cannot be written in PEFT's form: " + reason,
              "the native form holds every method");
}

void save_as_lora(const Adapter& adapter, const std::filesystem::path& directory) {
  const std::vector<ExportedSite> sites = export_sites(adapter);
  if (sites.empty()) refuse(directory, "no module has a low-rank update");
  std::vector<NamedTensor> tensors;
  std::set<std::string> paths;
  for (const ExportedSite& site : sites) {
    tensors.push_back({site.path + detail::kPeftDown[site.is_words ? 1 : 0], site.down});
    tensors.push_back({site.path + detail::kPeftUp[site.is_words ? 1 : 0], site.up});
    paths.insert(site.path);
  }
  write_files(directory, peft_tensors(adapter, tensors, paths), lora_config(adapter, sites, paths));
}

std::string no_lora_form(const Adapter& adapter) {
  const auto& why = detail::method_of(adapter).peft.no_lora_form;
  return why ? why(adapter) : std::string();
}

}  // namespace

std::string peft_form_refusal(const Adapter& adapter) {
  if (const std::string reason = detail::no_files(adapter); !reason.empty()) return reason;
  const c10::NoGradGuard no_grad;
  const detail::PeftForm& form = detail::method_of(adapter).peft;
  const std::string no_lora = no_lora_form(adapter);
  return no_lora.empty() || !form.write ? no_lora : form.write(adapter).refusal;
}

void save_peft_adapter(const Adapter& adapter, const std::filesystem::path& directory) {
  const c10::NoGradGuard no_grad;
  if (const std::string reason = peft_form_refusal(adapter); !reason.empty()) refuse(directory, reason);
  if (no_lora_form(adapter).empty()) return save_as_lora(adapter, directory);
  const detail::PeftTuner tuner = detail::method_of(adapter).peft.write(adapter);
  std::set<std::string> paths;
  for (const Site& site : adapter.sites()) paths.insert(site.path);
  std::vector<NamedTensor> tensors = peft_tensors(adapter, tuner.tensors, paths);
  for (const NamedTensor& entry : tuner.shared)
    tensors.push_back(
        {detail::kPeftSharedPrefix + entry.name, entry.tensor.detach().to(at::kCPU).contiguous()});
  write_files(directory, tensors, tuner_config(adapter, tuner));
}

}  // namespace msplora
