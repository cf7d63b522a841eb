#include "models/families/family.h"
#include "models/families/parts.h"

/// Llama and the decoders that differ from it by values: pre-norm, rotary, gated, grouped queries.
namespace msplora {
namespace {

using detail::ConfigReader;

Architecture describe_llama(ConfigReader& config, ModelTask task) {
  const bool is_llama = config.type_is("llama"), is_mistral = config.type_is("mistral"),
             is_qwen2 = config.type_is("qwen2"), is_qwen3 = config.type_is("qwen3");
  const int64_t d = config.size("hidden_size"), wide = config.size("intermediate_size");
  const double eps = config.real("rms_norm_eps", 1e-6);
  const bool bias = (is_llama || is_qwen3) && config.flag("attention_bias", false);
  const bool qkv_bias = bias || is_qwen2, mlp_bias = is_llama && config.flag("mlp_bias", false);

  Architecture a;
  a.model_type = config.text("model_type", "");
  a.task = task;
  a.base_prefix = "model.";
  a.longest = config.size("max_position_embeddings");
  a.initializer_range = config.real("initializer_range", 0.02, detail::kNonNegative);
  a.embeddings.path = "model";
  a.embeddings.words = "embed_tokens";
  a.embeddings.rows = config.size("vocab_size");
  a.embeddings.width = d;

  BlockSpec block;
  // Qwen3's heads are wider than the width divided by their number; its class has this constant.
  block.attention.shape = config.grouped_heads(d, is_qwen3 ? 128 : 0, /*needs_groups=*/!is_llama);
  const AttentionShape& shape = block.attention.shape;
  const int64_t q = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
  block.linears = {{LinearRole::kQuery, "self_attn.q_proj", d, q, qkv_bias},
                   {LinearRole::kKey, "self_attn.k_proj", d, kv, qkv_bias},
                   {LinearRole::kValue, "self_attn.v_proj", d, kv, qkv_bias},
                   {LinearRole::kAttentionOutput, "self_attn.o_proj", q, d, bias},
                   {LinearRole::kGate, "mlp.gate_proj", d, wide, mlp_bias},
                   {LinearRole::kUp, "mlp.up_proj", d, wide, mlp_bias},
                   {LinearRole::kDown, "mlp.down_proj", wide, d, mlp_bias}};
  block.attention.dropout = config.dropout("attention_dropout", 0.0);
  block.attention.rotary = 0;
  if (is_qwen3) {
    block.attention.q_norm = detail::rms_norm("self_attn.q_norm", eps);
    block.attention.k_norm = detail::rms_norm("self_attn.k_norm", eps);
  }
  block.attention_branch.before = detail::rms_norm("input_layernorm", eps);
  block.feed_forward_branch.before = detail::rms_norm("post_attention_layernorm", eps);
  block.activation = config.activation("hidden_act", "silu");

  const std::vector<std::string> paths = config.layers("num_hidden_layers", "model.layers");
  std::vector<int64_t> windows(paths.size(), 0);  // Llama has none, whatever its file says
  if (!is_llama) windows = config.windows(static_cast<int64_t>(paths.size()), is_mistral);
  for (size_t i = 0; i < paths.size(); ++i) {
    block.path = paths[i];
    block.attention.shape.window_left = windows[i] - 1;
    a.blocks.push_back(block);
  }
  a.rotaries = {config.rotary(shape.head_dim)};
  a.final_norm = detail::rms_norm("model.norm", eps);
  const HeadSpec causal = detail::causal_head(config, /*tied_by_default=*/false);
  if (task == ModelTask::kCausalLm) a.head = causal;
  if (task == ModelTask::kSequenceClassification) a.head = detail::last_token_classifier(config, d);
  return a;
}

Family llama_like(const char* model_type, const char* class_prefix) {
  return {model_type,           class_prefix, {ModelTask::kCausalLm, ModelTask::kSequenceClassification},
          {"q_proj", "v_proj"}, std::nullopt, describe_llama};
}

}  // namespace

Family llama_family() {
  return llama_like("llama", "Llama");
}

Family mistral_family() {
  return llama_like("mistral", "Mistral");
}

Family qwen2_family() {
  return llama_like("qwen2", "Qwen2");
}

Family qwen3_family() {
  return llama_like("qwen3", "Qwen3");
}

}  // namespace msplora
