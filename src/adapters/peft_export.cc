// Writes any adapter whose update is a sum of low-rank terms as an adapter of PEFT's LoRA.
#include <ATen/ops/cat.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "adapters/files_detail.h"
#include "adapters/peft_config.h"
#include "adapters/peft_names.h"
#include "adapters/regex.h"
#include "adapters/stored_tensors.h"
#include "adapters/target_modules.h"
#include "msplora/adapters/files.h"
#include "msplora/core/error.h"
#include "msplora/io/safetensors.h"

namespace msplora {
namespace {

using nlohmann::json;

/// One adapted module in PEFT's terms.
struct ExportedSite {
  std::string path;
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
  const bool is_lora = adapter.keeps_lora_options();
  for (size_t i = 0; i < adapter.sites().size(); ++i) {
    const std::vector<LowRankTerm> terms = adapter.terms(i);
    if (terms.empty()) continue;
    ExportedSite site;
    site.path = adapter.sites()[i].path;
    std::vector<at::Tensor> downs, ups;
    for (const LowRankTerm& term : terms) {
      downs.push_back(term.down);
      ups.push_back(is_lora ? term.up : term.up * term.scaling);
    }
    site.down = downs.size() == 1 ? downs[0] : at::cat(downs, 0);
    site.up = ups.size() == 1 ? ups[0] : at::cat(ups, 1);
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

/// The options that select exactly the exported modules: the adapter's own where they do, else full paths.
AdapterConfig selecting_config(const Adapter& adapter, const std::vector<ExportedSite>& sites) {
  std::set<std::string> wanted;
  for (const ExportedSite& site : sites) wanted.insert(site.path);
  const auto selects = [&](const AdapterConfig& config) {
    if (!config.exclude_modules.empty() && config.exclude_modules_regex)
      return false;  // PEFT has one of the two
    ErrorList errors;
    std::set<std::string> found;
    for (const Site& site :
         detail::match_targets(config, adapter.target().sites, adapter.target().head_modules,
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

json peft_config(const Adapter& adapter, const std::vector<ExportedSite>& sites) {
  const bool is_lora = adapter.keeps_lora_options();
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
  const AdapterConfig select = selecting_config(adapter, sites);
  std::vector<std::string> saved = adapter.target().head_modules;
  for (const std::string& name : adapter.config().modules_to_save) {
    if (std::find(saved.begin(), saved.end(), name) == saved.end()) saved.push_back(name);
  }
  json layers = nullptr;
  if (!select.layers_to_transform.empty()) layers = select.layers_to_transform;
  return {{"peft_type", "LORA"},
          {"task_type", peft_task_type(adapter.target())},
          {"base_model_name_or_path", adapter.target().base_name},
          {"revision", nullptr},
          {"inference_mode", true},
          {"r", rank},
          {"lora_alpha", detail::peft_number(alpha)},
          {"lora_dropout", common_dropout(adapter)},
          {"use_rslora", is_lora && adapter.config().use_rslora},
          {"use_dora", is_lora && adapter.config().use_dora},
          {"target_modules",
           select.target_modules_regex ? json(*select.target_modules_regex) : json(select.target_modules)},
          {"exclude_modules", select.exclude_modules_regex ? json(*select.exclude_modules_regex)
                                                           : or_null(select.exclude_modules)},
          {"layers_to_transform", layers},
          {"layers_pattern", or_null(select.layers_pattern)},
          {"rank_pattern", rank_pattern},
          {"alpha_pattern", alpha_pattern},
          {"bias", adapter.config().bias},
          {"lora_bias", false},
          {"fan_in_fan_out", false},
          {"modules_to_save", or_null(saved)},
          // Anything else may make PEFT change base weights on load.
          {"init_lora_weights", true}};
}

std::vector<NamedTensor> peft_tensors(const Adapter& adapter, const std::vector<ExportedSite>& sites) {
  std::vector<NamedTensor> tensors;
  std::set<std::string> wrapped;
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    tensors.push_back(
        {fmt::format("{}{}", detail::kPeftPrefix, name), tensor.detach().to(at::kCPU).contiguous()});
  };
  for (const ExportedSite& site : sites) {
    wrapped.insert(fmt::format("{}.bias", site.path));
    add(site.path + ".lora_A.weight", site.down);
    add(site.path + ".lora_B.weight", site.up);
  }
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
  }
  return tensors;
}

}  // namespace

void save_peft_adapter(const Adapter& adapter, const std::filesystem::path& directory) {
  const c10::NoGradGuard no_grad;
  const std::string refusal = adapter.lora_form_refusal();
  const std::vector<ExportedSite> sites =
      refusal.empty() ? export_sites(adapter) : std::vector<ExportedSite>();
  if (sites.empty()) {
    throw Error(ErrorCode::kUsage, directory.string(),
                "the adapter cannot be written in PEFT's LoRA form: " +
                    (refusal.empty() ? "no module has a low-rank update" : refusal),
                "the native form holds every method");
  }
  detail::make_directory(directory);
  write_safetensors(directory / detail::kPeftTensors, peft_tensors(adapter, sites), {{"format", "pt"}});
  detail::write_json(directory / detail::kPeftConfig, peft_config(adapter, sites));
}

}  // namespace msplora
