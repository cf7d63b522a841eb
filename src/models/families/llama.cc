#include "models/families/family.h"
#include "models/families/parts.h"

/// Llama and the decoders that differ from it by values: pre-norm, rotary, gated, grouped queries.
namespace msplora {
namespace {

using detail::ConfigReader;

Architecture describe_llama(ConfigReader& config, ModelTask task) {
  const bool is_llama = config.type_is("llama"), is_qwen3 = config.type_is("qwen3");
  const int64_t d = config.size("hidden_size");
  const bool bias = (is_llama || is_qwen3) && config.flag("attention_bias", false);
  const bool mlp_bias = is_llama && config.flag("mlp_bias", false);
  Architecture a = detail::decoder_base(config, task, 1e-6);
  BlockSpec block = detail::pre_norm_block(a.final_norm.eps);
  // Qwen3's heads are wider than the width divided by their number; its class has this constant.
  block.attention.shape = config.grouped_heads(d, is_qwen3 ? 128 : 0, /*needs_groups=*/!is_llama);
  block.linears =
      detail::gated_linears(config, block.attention.shape, bias || config.type_is("qwen2"), bias, mlp_bias);
  block.attention.dropout = config.dropout("attention_dropout", 0.0);
  if (is_qwen3) {
    block.attention.q_norm = detail::rms_norm("self_attn.q_norm", a.final_norm.eps);
    block.attention.k_norm = detail::rms_norm("self_attn.k_norm", a.final_norm.eps);
  }
  block.activation = config.activation("hidden_act", "silu");
  a.rotaries = {config.rotary(block.attention.shape.head_dim)};
  const int64_t layers = config.depth("num_hidden_layers");
  std::vector<int64_t> windows;  // Llama has none, whatever its file says
  if (config.type_is("mistral")) {
    windows = config.windows(config.sliding_window(detail::WindowUse::kAlways),
                             std::vector<bool>(static_cast<size_t>(layers), true), /*all_slide=*/true);
  } else if (!is_llama) {
    windows = config.windows(config.sliding_window(detail::WindowUse::kIfUsed),
                             config.layers_from_max_window_layers(layers));
  }
  detail::add_blocks(a, config, block, windows);
  detail::set_decoder_head(a, config, /*tied_by_default=*/false);
  return a;
}

Family llama_like(const char* model_type, const char* class_prefix) {
  return {model_type,           class_prefix, {ModelTask::kCausalLm, ModelTask::kSequenceClassification},
          {"q_proj", "v_proj"}, std::nullopt, describe_llama};
}

// Mistral's files are Llama's; a window is what tells them apart.
void complete_llama(const GgufFile& file, nlohmann::json& config) {
  detail::set_by_tensor(file, "blk.0.attn_q.bias", "attention_bias", config);
  detail::set_by_tensor(file, "blk.0.ffn_up.bias", "mlp_bias", config);
  const std::string window = std::string("llama.") + gguf_key::kSlidingWindow;
  const int64_t width = file.integer(window).value_or(0);
  if (width <= 0) return;
  config["model_type"] = "mistral";
  config["sliding_window"] = width;
}

void complete_qwen3(const GgufFile& file, nlohmann::json& config) {
  detail::set_by_tensor(file, "blk.0.attn_q.bias", "attention_bias", config);
}

GgufFacts llama_gguf() {
  GgufFacts facts = detail::decoder_gguf("llama");
  facts.interleaves_heads = true;
  facts.complete = complete_llama;
  facts.reads_factors = true;
  return facts;
}

}  // namespace

Family llama_family() {
  Family family = llama_like("llama", "Llama");
  family.gguf = llama_gguf();
  return family;
}

Family mistral_family() {
  Family family = llama_like("mistral", "Mistral");
  family.gguf = llama_gguf();
  return family;
}

Family qwen2_family() {
  Family family = llama_like("qwen2", "Qwen2");
  family.gguf = detail::decoder_gguf("qwen2");
  return family;
}

Family qwen3_family() {
  Family family = llama_like("qwen3", "Qwen3");
  family.gguf = detail::decoder_gguf("qwen3");
  family.gguf.complete = complete_qwen3;
  return family;
}

}  // namespace msplora
