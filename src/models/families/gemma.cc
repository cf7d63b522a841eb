#include <cmath>

#include "models/families/family.h"
#include "models/families/parts.h"

/// Gemma 2 and the text models of Gemma 3: norms before and behind both branches, as 1 + w; scaled
/// embeddings; layers that slide between layers that do not, with rotary angles of their own in Gemma 3.
namespace msplora {
namespace {

using detail::ConfigReader;

NormSpec plus_one(std::string name, double eps) {
  return {NormKind::kRmsPlusOne, std::move(name), eps};
}

// Where layer_types do not say it: every second layer of Gemma 2 slides, all but every sixth of Gemma 3.
std::vector<bool> sliding_layers(ConfigReader& config, int64_t layers, bool is_gemma2) {
  const int64_t period = is_gemma2 ? 2 : config.size("sliding_window_pattern", 6);
  std::vector<bool> slides;
  for (int64_t i = 0; i < layers; ++i) slides.push_back(period > 0 && (i + 1) % period != 0);
  return slides;
}

// null: none.
double soft_cap(ConfigReader& config, const std::string& key, double fallback) {
  return config.source().contains(key) && config.find(key) == nullptr ? 0.0 : config.real(key, fallback);
}

Architecture describe_gemma(ConfigReader& config, ModelTask task) {
  const bool is_gemma2 = config.type_is("gemma2");
  const int64_t d = config.size("hidden_size");
  Architecture a = detail::decoder_base(config, task, 1e-6);
  const double eps = a.final_norm.eps;
  a.final_norm = plus_one("model.norm", eps);
  a.embeddings.scale = std::sqrt(static_cast<double>(d));
  config.refuse_flags({"use_bidirectional_attention"});

  BlockSpec block;
  block.attention.rotary = 0;
  block.attention_branch = {
      plus_one("input_layernorm", eps), plus_one("post_attention_layernorm", eps), {}, 0};
  block.feed_forward_branch = {
      plus_one("pre_feedforward_layernorm", eps), plus_one("post_feedforward_layernorm", eps), {}, 0};
  AttentionShape& shape = block.attention.shape;
  shape = config.grouped_heads(d, 256, /*needs_groups=*/true);
  shape.scale = 1.0 / std::sqrt(config.real("query_pre_attn_scalar", 256.0));
  shape.soft_cap = soft_cap(config, "attn_logit_softcapping", is_gemma2 ? 50.0 : 0.0);
  const bool bias = config.flag("attention_bias", false);
  block.linears = detail::gated_linears(config, shape, bias, bias, false);
  block.attention.dropout = config.dropout("attention_dropout", 0.0);
  if (!is_gemma2) {
    block.attention.q_norm = plus_one("self_attn.q_norm", eps);
    block.attention.k_norm = plus_one("self_attn.k_norm", eps);
  }
  block.activation = config.activation("hidden_activation", "gelu_pytorch_tanh");

  const int64_t layers = config.depth("num_hidden_layers"), window = config.size("sliding_window", 4096);
  detail::add_blocks(a, config, block, config.windows(window, sliding_layers(config, layers, is_gemma2)));
  if (is_gemma2) {
    a.rotaries = {config.rotary(shape.head_dim)};
  } else {
    const double local = config.real("rope_local_base_freq", 10000.0);
    a.rotaries = {config.rotary(shape.head_dim, {.theta = 1000000.0, .kind = "full_attention"}),
                  config.rotary(shape.head_dim, {.theta = local, .kind = "sliding_attention"})};
    for (BlockSpec& made : a.blocks) made.attention.rotary = made.attention.shape.window_left >= 0 ? 1 : 0;
  }
  if (!is_gemma2) {
    // Gemma 3 that sees pictures, too, holds its text model under another name.
    a.wrappers = {"language_model.", "model.language_model."};
    a.ignored = {"vision_tower.", "multi_modal_projector.", "model.vision_tower.",
                 "model.multi_modal_projector.", "language_model.lm_head."};
  }
  detail::set_decoder_head(a, config, /*tied_by_default=*/true);
  if (task == ModelTask::kCausalLm)
    a.head.soft_cap = soft_cap(config, "final_logit_softcapping", is_gemma2 ? 30.0 : 0.0);
  return a;
}

// Files do not say by what scores are scaled. It is the width of a head but in the 27B models, which have 46
// (Gemma 2) and 62 (Gemma 3) layers.
void complete_gemma(const GgufFile& file, nlohmann::json& config) {
  const int64_t layers = config.value("num_hidden_layers", int64_t{0});
  const bool is_27b = layers == (config["model_type"] == "gemma2" ? 46 : 62);
  const int64_t heads = config.value("num_attention_heads", int64_t{0});
  if (is_27b && heads > 0) {
    config["query_pre_attn_scalar"] = config.value("hidden_size", int64_t{0}) / heads;
  } else if (config.contains("head_dim")) {
    config["query_pre_attn_scalar"] = config["head_dim"];
  }
}

Family gemma(const char* model_type, const char* class_prefix, const char* gguf) {
  Family family{model_type,
                class_prefix,
                {ModelTask::kCausalLm, ModelTask::kSequenceClassification},
                {"q_proj", "v_proj"},
                0,
                describe_gemma};
  family.gguf = detail::decoder_gguf(gguf);
  for (const GgufSetting& setting :
       {GgufSetting{"sliding_window", gguf_key::kSlidingWindow, GgufSetting::kInteger},
        {"attn_logit_softcapping", gguf_key::kAttentionSoftCap, GgufSetting::kReal},
        {"final_logit_softcapping", gguf_key::kFinalSoftCap, GgufSetting::kReal}})
    family.gguf.settings.push_back(setting);
  family.gguf.complete = complete_gemma;
  family.gguf.reads_window = true;
  return family;
}

}  // namespace

Family gemma2_family() {
  Family family = gemma("gemma2", "Gemma2", "gemma2");
  family.gguf.reads_output = false;
  return family;
}

Family gemma3_text_family() {
  Family family = gemma("gemma3_text", "Gemma3Text", "gemma3");
  family.gguf.settings.push_back({"rope_local_base_freq", gguf_key::kRopeBaseWindow, GgufSetting::kReal});
  family.causal_lm_class = "Gemma3ForCausalLM";
  return family;
}

}  // namespace msplora
