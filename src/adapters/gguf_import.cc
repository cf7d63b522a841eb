// Reads LoRA adapters of GGUF files: pairs NAME.lora_a and NAME.lora_b for tensors of the base, scaled by one
// alpha for all and the rank of each.
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "adapters/files_detail.h"
#include "adapters/regex.h"
#include "adapters/registry.h"
#include "adapters/stored_tensors.h"
#include "msplora/core/error.h"
#include "msplora/gguf/file.h"
#include "msplora/io/gguf_weights.h"
#include "msplora/models/gguf.h"

namespace msplora::detail {
namespace {

namespace fs = std::filesystem;

struct GgufPair {
  const GgufTensor* a = nullptr;  // [rank, in]; of the table of words [in, rank], whose rows are looked up
  const GgufTensor* b = nullptr;  // [out, rank]
  bool is_words = false;
  int64_t rank() const { return a->extents[is_words ? 0 : 1]; }
  int64_t in() const { return a->extents[is_words ? 1 : 0]; }
};

struct GgufAdapter {
  std::shared_ptr<const GgufFile> file;
  std::string architecture;
  double alpha = 0.0;                     // 0: pairs are scaled already
  std::map<std::string, GgufPair> pairs;  // by the name of the base's tensor
};

void check_kind(const GgufFile& file, const char* key, const std::string& expected, const std::string& hint) {
  const std::string_view found = file.need(file.text(key), key);
  if (found != expected) {
    throw Error(ErrorCode::kModel, file.path().string() + ": " + key,
                fmt::format("expected `{}`, found `{}`", expected, found), hint);
  }
}

bool is_complete(const GgufPair& pair) {
  if (pair.a == nullptr || pair.b == nullptr || pair.a->dimensions != 2 || pair.b->dimensions != 2)
    return false;
  return gguf_type_info(pair.a->type).is_real && gguf_type_info(pair.b->type).is_real &&
         pair.rank() == pair.b->extents[0] && pair.rank() > 0;
}

GgufAdapter read_gguf_adapter(const fs::path& path) {
  GgufAdapter adapter;
  adapter.file = GgufFile::open(path);
  const GgufFile& file = *adapter.file;
  check_kind(file, gguf_key::kType, "adapter",
             "this is a model: give it as the model, and the adapter as this");
  check_kind(file, gguf_key::kAdapterType, "lora", "");
  adapter.architecture = file.need(file.text(gguf_key::kArchitecture), gguf_key::kArchitecture);
  adapter.alpha = file.number(gguf_key::kAdapterAlpha).value_or(0.0);
  if (!(adapter.alpha >= 0.0)) file.fail(gguf_key::kAdapterAlpha, "expected a number of at least 0");
  std::vector<std::string> foreign, broken;
  for (const GgufTensor& tensor : file.tensors()) {
    const std::string name(tensor.name);
    const std::string base = name.substr(0, name.rfind('.'));
    if (name.ends_with(".lora_a")) {
      adapter.pairs[base].a = &tensor;
    } else if (name.ends_with(".lora_b")) {
      adapter.pairs[base].b = &tensor;
    } else if (!name.ends_with("_norm.weight")) {  // llama.cpp leaves these out as well
      foreign.push_back(name);
    }
  }
  for (auto& [name, pair] : adapter.pairs) {
    pair.is_words = name == "token_embd.weight";
    if (!is_complete(pair)) broken.push_back(name);
  }
  if (!foreign.empty() || !broken.empty()) {
    throw Error(ErrorCode::kModel, path.string(),
                "not a LoRA adapter that can be read" + list_entries("no part of an update", foreign) +
                    list_entries("without a pair of matrices of one rank", broken));
  }
  if (adapter.pairs.empty()) throw Error(ErrorCode::kModel, path.string(), "the adapter has no updates");
  return adapter;
}

at::Tensor values_of(const GgufTensor& tensor, int64_t interleaved_heads) {
  const GgufTypeInfo& info = gguf_type_info(tensor.type);
  at::Tensor values = at::empty(tensor.shape(), at::kFloat);
  dequantise(tensor.type, tensor.data, tensor.elements() / info.elements, values.data_ptr<float>());
  if (interleaved_heads == 0) return values;
  return rows_in_order(values, interleaved_rows(values.size(0), interleaved_heads));
}

// Patterns of one site each, so that every rank is that of its pair.
std::string pattern_of(const std::string& path) {
  return "^" + escape_regex(path);
}

AdapterConfig config_of(const GgufAdapter& adapter) {
  AdapterConfig config;
  config.method = "lora";
  config.rank = adapter.pairs.begin()->second.rank();
  config.alpha = adapter.alpha > 0 ? adapter.alpha : static_cast<double>(config.rank);
  return config;
}

struct Matched {
  AdapterConfig config;
  std::map<std::string, StoredTensor> stored;
};

// The pairs as tensors of the model's layers.
Matched match(const GgufAdapter& adapter, const AdapterTarget& target, const std::string& where) {
  Matched matched{config_of(adapter), {}};
  std::map<std::string, std::pair<const Site*, GgufName>> sites;  // by the tensor's name
  for (const Site& site : target.sites) {
    const GgufName name =
        gguf_linear_name(target.model_type, site.role, site.layer, site.path,
                         target.heads.num_attention_heads, target.heads.num_key_value_heads);
    if (!name.stored.empty()) sites.emplace(name.stored, std::pair(&site, name));
  }
  std::vector<std::string> unknown, misshaped;
  for (const auto& [name, pair] : adapter.pairs) {
    const auto found = sites.find(name);
    if (found == sites.end()) {
      unknown.push_back(name);
      continue;
    }
    const auto& [site, rule] = found->second;
    if (pair.in() != site->in_features || pair.b->extents[1] != site->out_features) {
      misshaped.push_back(fmt::format("{}: expected [{}, {}], found [{}, {}]", name, site->out_features,
                                      site->in_features, pair.b->extents[1], pair.in()));
      continue;
    }
    matched.config.target_modules.push_back(site->path);
    AdapterConfig& config = matched.config;
    if (pair.rank() != config.rank) config.rank_pattern[pattern_of(site->path)] = pair.rank();
    const double alpha = adapter.alpha > 0 ? adapter.alpha : static_cast<double>(pair.rank());
    if (alpha != config.alpha) config.alpha_pattern[pattern_of(site->path)] = alpha;
    matched.stored.emplace(site->path + ".lora_A.weight",
                           StoredTensor{std::string(pair.a->name),
                                        pair.is_words ? values_of(*pair.a, 0).t() : values_of(*pair.a, 0)});
    matched.stored.emplace(
        site->path + ".lora_B.weight",
        StoredTensor{std::string(pair.b->name), values_of(*pair.b, rule.interleaved_heads)});
  }
  if (!unknown.empty() || !misshaped.empty()) {
    throw Error(ErrorCode::kModel, where,
                "the adapter does not fit the model" +
                    list_entries("updates of tensors that are no linear layer of it", unknown) +
                    list_entries("mis-shaped", misshaped),
                made_for(""));
  }
  return matched;
}

}  // namespace

AdapterFacts gguf_facts(const fs::path& path) {
  const GgufAdapter adapter = read_gguf_adapter(path);
  AdapterFacts facts;
  facts.config = config_of(adapter);
  for (const auto& [name, pair] : adapter.pairs) {
    facts.shapes[std::string(pair.a->name)] = pair.a->shape();
    facts.shapes[std::string(pair.b->name)] = pair.b->shape();
  }
  return facts;
}

std::unique_ptr<Adapter> load_gguf_adapter(const fs::path& path, AdapterTarget target,
                                           const AdapterConfig* training) {
  const GgufAdapter adapter = read_gguf_adapter(path);
  const std::string own = gguf_architecture(target.model_type);
  if (adapter.architecture != own) {
    throw Error(ErrorCode::kModel, path.string() + ": " + gguf_key::kArchitecture,
                fmt::format("the adapter is one of `{}`, the model is of type {}{}", adapter.architecture,
                            target.model_type, own.empty() ? "" : fmt::format(" (`{}`)", own)),
                made_for(""));
  }
  Matched matched = match(adapter, target, path.string());
  if (training != nullptr) take_training_options(*training, matched.config);
  AdapterBuilder builder{ErrorCode::kModel, path.string(), Strictness::kLenient};
  builder.values_follow = true;
  builder.place = [&path](const std::string& option) { return path.string() + ": " + option; };
  builder.remedy = made_for("");
  auto made = builder.build(matched.config, std::move(target), /*seed=*/0);
  fill_trainable(*made, {}, matched.stored, path, [](const std::string& name) { return name; });
  return made;
}

}  // namespace msplora::detail
