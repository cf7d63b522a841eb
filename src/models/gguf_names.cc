#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/registry.h"
#include "msplora/models/gguf.h"

namespace msplora {
namespace {

const char* stored_name(LinearRole role) {
  switch (role) {
    case LinearRole::kQuery:
      return "attn_q";
    case LinearRole::kKey:
      return "attn_k";
    case LinearRole::kValue:
      return "attn_v";
    case LinearRole::kQkv:
      return "attn_qkv";
    case LinearRole::kAttentionOutput:
      return "attn_output";
    case LinearRole::kGate:
      return "ffn_gate";
    case LinearRole::kUp:
    case LinearRole::kGateUp:
      return "ffn_up";
    case LinearRole::kDown:
      return "ffn_down";
    default:
      return nullptr;
  }
}

GgufName linear_name(bool interleaves, LinearRole role, int64_t layer, const std::string& path, int64_t heads,
                     int64_t kv_heads) {
  GgufName name;
  name.parameter = path + ".weight";
  if (role == LinearRole::kOutput) name.stored = "output.weight";
  if (role == LinearRole::kWords) name.stored = "token_embd.weight";
  const char* stored = layer >= 0 ? stored_name(role) : nullptr;
  if (stored == nullptr) return name;
  name.stored = fmt::format("blk.{}.{}.weight", layer, stored);
  if (interleaves && role == LinearRole::kQuery) name.interleaved_heads = heads;
  if (interleaves && role == LinearRole::kKey) name.interleaved_heads = kv_heads;
  return name;
}

class Names {
 public:
  explicit Names(const Architecture& architecture, bool interleaves)
      : architecture_(architecture), interleaves_(interleaves) {}

  std::vector<GgufName> collect() {
    const EmbeddingSpec& e = architecture_.embeddings;
    if (const auto words = word_table(architecture_))
      names_.push_back(linear_name(interleaves_, words->role, -1, words->name, 0, 0));
    if (e.position_rows > 0) add(e.path + "." + e.positions + ".weight", "position_embd.weight");
    if (e.type_rows > 0) add(e.path + "." + e.types + ".weight", "token_types.weight");
    add_norm(e.norm, e.path + ".", "token_embd_norm");
    for (size_t i = 0; i < architecture_.blocks.size(); ++i)
      add_block(architecture_.blocks[i], static_cast<int64_t>(i));
    add_norm(architecture_.final_norm, "", "output_norm");
    if (const auto output = output_layer(architecture_))
      names_.push_back(linear_name(interleaves_, output->role, -1, output->name, 0, 0));
    return std::move(names_);
  }

 private:
  GgufName& add(const std::string& parameter, const std::string& stored) {
    names_.push_back({parameter, stored});
    return names_.back();
  }

  void add_norm(const NormSpec& norm, const std::string& prefix, const std::string& stored) {
    if (!norm) return;
    add(prefix + norm.name + ".weight", stored + ".weight").has_one_added =
        norm.kind == NormKind::kRmsPlusOne;
    if (norm.kind == NormKind::kLayer) add(prefix + norm.name + ".bias", stored + ".bias");
  }

  void add_block(const BlockSpec& block, int64_t layer) {
    const std::string prefix = block.path + ".", stored = fmt::format("blk.{}.", layer);
    for (const LinearSpec& linear : block.linears) {
      const AttentionShape& shape = block.attention.shape;
      GgufName weight =
          linear_name(interleaves_, linear.role, layer, prefix + linear.name, shape.heads, shape.kv_heads);
      GgufName bias = weight;
      weight.is_transposed = linear.is_transposed;
      names_.push_back(std::move(weight));
      if (!linear.has_bias) continue;
      for (std::string* name : {&bias.parameter, &bias.stored})
        name->replace(name->size() - std::string_view("weight").size(), std::string::npos, "bias");
      names_.push_back(std::move(bias));
    }
    add_norm(block.attention.q_norm, prefix, stored + "attn_q_norm");
    add_norm(block.attention.k_norm, prefix, stored + "attn_k_norm");
    add_norm(block.attention_branch.before, prefix, stored + "attn_norm");
    add_norm(block.attention_branch.on_output, prefix, stored + "post_attention_norm");
    add_norm(block.feed_forward_branch.before, prefix, stored + "ffn_norm");
    add_norm(block.feed_forward_branch.on_output, prefix, stored + "post_ffw_norm");
  }

  const Architecture& architecture_;
  bool interleaves_;
  std::vector<GgufName> names_;
};

const GgufFacts& facts_of(const std::string& model_type) {
  const Family* family = find_family(model_type);
  if (family != nullptr && !family->gguf.architecture.empty()) return family->gguf;
  throw Error(ErrorCode::kModel, "model_type",
              fmt::format("GGUF files of `{}` are not known; known are those of {}", model_type,
                          known_gguf_architectures()));
}

}  // namespace

std::string gguf_architecture(const std::string& model_type) {
  const Family* family = find_family(model_type);
  return family == nullptr ? std::string() : family->gguf.architecture;
}

GgufName gguf_linear_name(const std::string& model_type, LinearRole role, int64_t layer,
                          const std::string& path, int64_t heads, int64_t kv_heads) {
  const Family* family = find_family(model_type);
  if (family == nullptr || family->gguf.architecture.empty()) return {path + ".weight", ""};
  return linear_name(family->gguf.interleaves_heads, role, layer, path, heads, kv_heads);
}

const std::vector<GgufSetting>& gguf_settings(const std::string& model_type) {
  return facts_of(model_type).settings;
}

bool gguf_adapts_output(const std::string& model_type, bool is_tied) {
  const Family* family = find_family(model_type);
  return family != nullptr && family->gguf.reads_output && (!is_tied || family->gguf.needs_output);
}

std::vector<GgufName> gguf_names(const ModelConfig& config) {
  const bool interleaves = facts_of(config.model_type).interleaves_heads;
  return Names(describe(config, ModelTask::kCausalLm), interleaves).collect();
}

}  // namespace msplora
