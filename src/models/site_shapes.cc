#include <fmt/format.h>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/models/model.h"
#include "msplora/models/shapes.h"

namespace msplora {
namespace {

struct SiteShape {
  std::string path;  // below the block
  int64_t in, out;
  bool has_bias = true;
};

// The linear layers of one block, in order of execution.
std::vector<SiteShape> block_shapes(const ModelConfig& c) {
  const int64_t hidden = c.hidden_size, wide = c.intermediate_size;
  const int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  if (c.model_type == "bert" || c.model_type == "roberta" || c.model_type == "xlm-roberta" ||
      c.model_type == "deberta-v2") {
    const bool is_deberta = c.model_type == "deberta-v2";
    const std::string suffix = is_deberta ? "_proj" : "";
    return {{"attention.self.query" + suffix, hidden, hidden},
            {"attention.self.key" + suffix, hidden, hidden},
            {"attention.self.value" + suffix, hidden, hidden},
            {"attention.output.dense", hidden, hidden},
            {"intermediate.dense", hidden, wide},
            {"output.dense", wide, hidden}};
  }
  if (c.model_type == "gpt2") {
    return {{"attn.c_attn", hidden, 3 * hidden},
            {"attn.c_proj", hidden, hidden},
            {"mlp.c_fc", hidden, wide},
            {"mlp.c_proj", wide, hidden}};
  }
  const bool qkv_bias = c.attention_bias || c.model_type == "qwen2";
  return {{"self_attn.q_proj", hidden, q, qkv_bias},   {"self_attn.k_proj", hidden, kv, qkv_bias},
          {"self_attn.v_proj", hidden, kv, qkv_bias},  {"self_attn.o_proj", q, hidden, c.attention_bias},
          {"mlp.gate_proj", hidden, wide, c.mlp_bias}, {"mlp.up_proj", hidden, wide, c.mlp_bias},
          {"mlp.down_proj", wide, hidden, c.mlp_bias}};
}

std::string block_prefix(const ModelConfig& c) {
  if (c.model_type == "bert") return "bert.encoder.layer";
  if (c.model_type == "roberta" || c.model_type == "xlm-roberta") return "roberta.encoder.layer";
  if (c.model_type == "deberta-v2") return "deberta.encoder.layer";
  if (c.model_type == "gpt2") return "transformer.h";
  if (c.model_type == "llama" || c.model_type == "mistral" || c.model_type == "qwen2" ||
      c.model_type == "qwen3")
    return "model.layers";
  throw Error(ErrorCode::kModel, "config.json: model_type",
              "the linear layers of `" + c.model_type + "` are not known",
              "known: bert, roberta, xlm-roberta, deberta-v2, gpt2, llama, mistral, qwen2, qwen3");
}

}  // namespace

std::vector<std::string> default_target_modules(const std::string& model_type) {
  if (model_type == "bert" || model_type == "roberta" || model_type == "xlm-roberta")
    return {"query", "value"};
  if (model_type == "deberta-v2") return {"query_proj", "value_proj"};
  if (model_type == "gpt2") return {"c_attn"};
  if (model_type == "llama" || model_type == "mistral" || model_type == "qwen2" || model_type == "qwen3")
    return {"q_proj", "v_proj"};
  return {};
}

namespace {

void append_head(const ModelConfig& c, std::vector<Site>& sites) {
  const auto add = [&](const std::string& path, int64_t out) {
    sites.push_back({path, path.substr(path.rfind('.') + 1), -1, c.hidden_size, out, nullptr});
  };
  if (c.model_type == "roberta" || c.model_type == "xlm-roberta") {
    add("classifier.dense", c.hidden_size);
    add("classifier.out_proj", c.num_labels);
  } else if (c.model_type == "bert" || c.model_type == "deberta-v2") {
    add(c.model_type == "bert" ? "bert.pooler.dense" : "pooler.dense", c.hidden_size);
    add("classifier", c.num_labels);
  } else {
    add("score", c.num_labels);
  }
}

}  // namespace

std::vector<Site> sites_of_shape(const ModelConfig& config, ModelTask task) {
  const std::string prefix = block_prefix(config);
  std::vector<Site> sites;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (const SiteShape& shape : block_shapes(config)) {
      sites.push_back({fmt::format("{}.{}.{}", prefix, layer, shape.path),
                       shape.path.substr(shape.path.rfind('.') + 1), layer, shape.in, shape.out, nullptr,
                       shape.has_bias});
    }
  }
  if (task == ModelTask::kSequenceClassification) append_head(config, sites);
  return sites;
}

}  // namespace msplora
