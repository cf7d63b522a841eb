// Reads adapters in PEFT's form, LoRA and its other tuners that are methods here, ours or made elsewhere.
#include <ATen/ops/equal.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/files_detail.h"
#include "adapters/initial_factors.h"
#include "adapters/peft_config.h"
#include "adapters/peft_names.h"
#include "adapters/peft_saved.h"
#include "adapters/regex.h"
#include "adapters/registry.h"
#include "adapters/stored_tensors.h"
#include "msplora/core/error.h"
#include "msplora/io/safetensors.h"

namespace msplora::detail {
namespace {

namespace fs = std::filesystem;

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Module paths that have a tensor of an update in the file.
std::vector<std::string> adapted_paths(const std::map<std::string, StoredTensor>& stored,
                                       const std::string& mark) {
  std::set<std::string> paths;
  for (const auto& [name, tensor] : stored) {
    if (const size_t at = name.rfind(mark); at != std::string::npos) paths.insert(name.substr(0, at));
  }
  return {paths.begin(), paths.end()};
}

bool same_values(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && at::equal(a.to(at::kDouble), b.to(at::kDouble));
}

std::map<std::string, StoredTensor> read_tensors(const fs::path& path, const PeftForm& form) {
  const auto file = SafetensorsFile::open(path);
  std::map<std::string, StoredTensor> stored;
  std::vector<std::string> refused;
  for (const auto& [key, info] : file->tensors()) {
    const PeftKey parsed = parse_peft_key(key, form);
    if (!parsed.refusal.empty()) {
      refused.push_back(fmt::format("{}: {}", key, parsed.refusal));
    } else if (!parsed.name.empty()) {
      const auto [at, is_new] = stored.emplace(parsed.name, StoredTensor{key, file->tensor(key)});
      // With bias: all PEFT stores the biases of a head under two names.
      if (!is_new && !same_values(at->second.tensor, file->tensor(key)))
        refused.push_back(
            fmt::format("{}: has other values than {}, which names the same tensor", key, at->second.key));
    }
  }
  if (!refused.empty()) {
    throw Error(ErrorCode::kModel, path.string(),
                fmt::format("tensors that are not part of a {} adapter", form.type) +
                    list_entries("refused", refused));
  }
  return stored;
}

/// PEFT tries patterns in the order of the file, our options in sorted order. Where that differs, every site
/// gets a pattern of its own.
template <typename T>
void keep_order(const std::vector<std::pair<std::string, T>>& ordered, const std::vector<Site>& sites,
                std::map<std::string, T>& pattern, T fallback, const char* key, const std::string& where) {
  if (ordered.size() < 2) return;
  try {
    std::map<std::string, T> exact;
    bool differs = false;
    for (const Site& site : sites) {
      const T value = pattern_value(ordered, site.path, fallback);
      differs = differs || value != pattern_value(pattern, site.path, fallback);
      if (value != fallback) exact[fmt::format("^{}", escape_regex(site.path))] = value;
    }
    if (differs) pattern = std::move(exact);
  } catch (const std::invalid_argument& error) {
    throw Error(ErrorCode::kFormat, fmt::format("{}: {}", where, key), error.what());
  }
}

void check_task(const PeftConfig& peft, const AdapterTarget& target, const std::string& where) {
  if (peft.task_type.empty() || target.task_type.empty() || peft.task_type == target.task_type) return;
  throw Error(ErrorCode::kModel, where + ": task_type",
              fmt::format("the adapter was made for {}, the model is loaded for {}", peft.task_type,
                          target.task_type));
}

/// A file without any tensor of a head was made beside the head of its base: that one stays.
void use_head_of_base(const AdapterTarget& target, std::map<std::string, StoredTensor>& stored) {
  std::vector<const Parameter*> head;
  for (const Parameter& parameter : target.parameters) {
    if (!lies_in(parameter.name, target.head_modules)) continue;
    if (stored.count(parameter.name) > 0) return;
    head.push_back(&parameter);
  }
  for (const Parameter* parameter : head) {
    stored.emplace(parameter->name, StoredTensor{parameter->name, parameter->values().detach().clone()});
  }
}

/// PEFT saves the modules of a tied matrix one by one; a module that it does not save keeps the base's
/// values. Where that leaves two matrices, they are tied no more.
void check_ties(const PeftConfig& peft, const AdapterTarget& target, const fs::path& path,
                std::map<std::string, StoredTensor>& stored) {
  for (const TiedName& tie : target.ties) {
    const auto alias = stored.find(tie.name), own = stored.find(tie.parameter);
    const bool has_alias = alias != stored.end(), has_own = own != stored.end();
    if (!has_alias && (!has_own || peft.keeps_ties)) continue;
    const auto base = std::find_if(target.parameters.begin(), target.parameters.end(),
                                   [&](const Parameter& p) { return p.name == tie.parameter; });
    if (base == target.parameters.end()) continue;
    if (same_values(has_alias ? alias->second.tensor : base->values(),
                    has_own ? own->second.tensor : base->values())) {
      if (has_alias) stored.erase(alias);
      continue;
    }
    throw Error(ErrorCode::kModel, path.string(),
                fmt::format("{} and {} are one matrix of the base, of which the adapter makes two", tie.name,
                            tie.parameter),
                "train it with ensure_weight_tying, or merge it in PEFT into a model whose config.json says "
                "tie_word_embeddings: false");
  }
}

/// PEFT copies the base's matrix of an adapted output layer or table of words into the file. A copy of this
/// base's says nothing; other values would make the adapter one of another base.
void drop_copies_of_base(const AdapterTarget& target, const fs::path& path,
                         std::map<std::string, StoredTensor>& stored) {
  for (auto entry = stored.begin(); entry != stored.end();) {
    const auto& [name, copy] = *entry;
    const auto tie = std::find_if(target.ties.begin(), target.ties.end(),
                                  [&, &name = name](const TiedName& tied) { return tied.name == name; });
    const std::string& parameter = tie == target.ties.end() ? name : tie->parameter;
    const auto base = std::find_if(target.parameters.begin(), target.parameters.end(),
                                   [&](const Parameter& p) { return p.name == parameter; });
    if (!copy.key.ends_with(".base_layer.weight") || base == target.parameters.end()) {
      ++entry;
      continue;
    }
    const at::Tensor own = base->values(), given = copy.tensor;
    // Either may have been rounded to the other's type.
    if (!same_values(own, given.to(own.scalar_type())) && !same_values(own.to(given.scalar_type()), given)) {
      throw Error(
          ErrorCode::kModel, path.string(),
          fmt::format("{} has other values than {} of the base: the adapter belongs to a changed base",
                      copy.key, parameter),
          "merge it in PEFT, or use the base that it was trained on");
    }
    entry = stored.erase(entry);
  }
}

/// Modules that hold nothing but another name of a matrix.
void drop_tied_modules(const AdapterTarget& target, std::vector<std::string>& modules) {
  for (const TiedName& tie : target.ties) {
    const std::string module = tie.name.substr(0, tie.name.rfind('.'));
    std::erase_if(modules, [&](const std::string& name) { return name == module; });
  }
}

fs::path tensor_file(const fs::path& directory) {
  const fs::path path = directory / kPeftTensors;
  std::error_code ignored;
  if (!fs::exists(path, ignored) && fs::exists(directory / "adapter_model.bin", ignored)) {
    throw Error(ErrorCode::kFormat, (directory / "adapter_model.bin").string(),
                "pickled PyTorch files are not read: they can run code",
                "load the adapter in PEFT and save_pretrained it with safe_serialization=True");
  }
  return path;
}

}  // namespace

namespace {

/// Both files of an adapter.
struct PeftFiles {
  PeftConfig peft;
  std::map<std::string, StoredTensor> stored;
};

PeftFiles read_peft_files(const fs::path& directory) {
  const fs::path tensor_path = tensor_file(directory);
  PeftFiles files{read_peft_config(directory / kPeftConfig), {}};
  files.stored = read_tensors(tensor_path, *files.peft.form);
  // null means PEFT's own choice for the architecture; the tensors say what it was.
  if (!files.peft.has_targets)
    files.peft.config.target_modules = adapted_paths(files.stored, files.peft.form->mark);
  return files;
}

}  // namespace

AdapterFacts peft_facts(const fs::path& directory) {
  const PeftFiles files = read_peft_files(directory);
  AdapterFacts facts;
  facts.config = files.peft.config;
  facts.task_type = files.peft.task_type;
  facts.base_name = files.peft.base_name;
  for (const auto& [name, entry] : files.stored) facts.shapes[name] = entry.tensor.sizes().vec();
  return facts;
}

std::unique_ptr<Adapter> load_peft_adapter(const fs::path& directory, AdapterTarget target,
                                           const AdapterConfig* training) {
  const fs::path config_path = directory / kPeftConfig, tensor_path = directory / kPeftTensors;
  auto [peft, stored] = read_peft_files(directory);
  check_task(peft, target, config_path.string());
  AdapterConfig& config = peft.config;
  if (training != nullptr) take_training_options(*training, config);
  keep_order(peft.rank_pattern, target.sites, config.rank_pattern, config.rank, "rank_pattern",
             config_path.string());
  keep_order(peft.alpha_pattern, target.sites, config.alpha_pattern, config.alpha, "alpha_pattern",
             config_path.string());
  drop_copies_of_base(target, tensor_path, stored);
  check_ties(peft, target, tensor_path, stored);
  drop_tied_modules(target, config.modules_to_save);
  config.modules_to_save = names_from_peft(config.modules_to_save, target.parameters);
  use_head_of_base(target, stored);

  std::set<std::string> site_paths, word_paths;
  for (const Site& site : target.sites) {
    site_paths.insert(site.path);
    if (site.role == LinearRole::kWords) word_paths.insert(site.path);
  }
  AdapterBuilder builder{ErrorCode::kModel, config_path.string(), Strictness::kLenient};
  // PiSSA and OLoRA take a part out of the base when the adapter is put on, as PEFT does.
  builder.values_follow = !is_weight_init(config.init);
  builder.place = [&config_path, &peft = peft](const std::string& option) {
    return fmt::format("{}: {}", config_path.string(), peft_key(peft, option));
  };
  builder.remedy = made_for(peft.base_name);
  auto adapter = builder.build(config, std::move(target), /*seed=*/0);
  std::vector<NamedTensor> shared = adapter->state().tensors;
  std::erase_if(shared, [&, &peft = peft, &stored = stored](const NamedTensor& entry) {
    const auto& names = peft.form->shared;
    return std::find(names.begin(), names.end(), entry.name) == names.end() || !stored.contains(entry.name);
  });
  fill_trainable(*adapter, shared, stored, tensor_path, [&](const std::string& name) {
    for (const auto* spellings : {&kPeftDown, &kPeftUp}) {
      const std::string usual = (*spellings)[0];
      const std::string owner = name.substr(0, name.size() - std::min(name.size(), usual.size()));
      if (ends_with(name, usual) && word_paths.contains(owner))
        return fmt::format("{}{}{}", kPeftPrefix, owner, (*spellings)[1]);
    }
    const std::string path = name.substr(0, name.rfind('.'));
    const bool is_site_bias = config.bias != "none" && ends_with(name, ".bias") && site_paths.count(path) > 0;
    return fmt::format("{}{}", kPeftPrefix, is_site_bias ? fmt::format("{}.base_layer.bias", path) : name);
  });
  AdapterBuilder::set_recorded_base(*adapter, peft.base_name);
  return adapter;
}

}  // namespace msplora::detail
