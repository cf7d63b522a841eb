#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "msplora/io/model_config.h"

namespace msplora::detail {

/// Model types with the same keys in config.json.
enum class ConfigFamily { kUnknown, kEncoder, kDecoder, kGpt2 };

ConfigFamily config_family(const std::string& model_type);

/// Numbers that are allowed; both ends excluded or included.
struct RealRange {
  double min;
  double max;
  bool min_included;
  const char* text;
};
inline constexpr RealRange kPositive = {0.0, 1e300, false, "a positive number"};
inline constexpr RealRange kNonNegative = {0.0, 1e300, true, "a non-negative number"};
inline constexpr RealRange kProbability = {0.0, 1.0, true, "a probability of at least 0 and below 1"};

/// Declares once, for reading and for writing, which key of config.json holds which field, and the value that
/// Hugging Face's class takes when the key is missing (none: the key is required). Visitor: size(key, field,
/// default, min), real(key, field, default, range), optional_real, text, flag, each with the field by
/// reference.
template <typename Config, typename Visitor>
void visit_encoder(Config& c, Visitor& v) {
  const bool deberta = c.model_type == "deberta-v2";
  v.size("vocab_size", c.vocab_size, {});
  v.size("hidden_size", c.hidden_size, {});
  v.size("num_hidden_layers", c.num_hidden_layers, {});
  v.size("num_attention_heads", c.num_attention_heads, {});
  v.size("intermediate_size", c.intermediate_size, {});
  v.size("max_position_embeddings", c.max_position_embeddings, {});
  v.size("type_vocab_size", c.type_vocab_size, deberta ? 0 : 2, 0);
  v.real("layer_norm_eps", c.layer_norm_eps, deberta ? 1e-7 : 1e-12, kPositive);
  v.text("hidden_act", c.hidden_act, "gelu");
  v.real("hidden_dropout_prob", c.hidden_dropout_prob, 0.1, kProbability);
  v.real("attention_probs_dropout_prob", c.attention_probs_dropout_prob, 0.1, kProbability);
  v.optional_real(deberta ? "cls_dropout" : "classifier_dropout", c.classifier_dropout, kProbability);
  v.real("initializer_range", c.initializer_range, 0.02, kNonNegative);
  v.flag("tie_word_embeddings", c.tie_word_embeddings, true);
}

template <typename Config, typename Visitor>
void visit_decoder(Config& c, Visitor& v) {
  v.size("vocab_size", c.vocab_size, {});
  v.size("hidden_size", c.hidden_size, {});
  v.size("num_hidden_layers", c.num_hidden_layers, {});
  v.size("num_attention_heads", c.num_attention_heads, {});
  v.size("num_key_value_heads", c.num_key_value_heads, c.num_attention_heads);
  // Qwen3's heads are wider than hidden_size / heads; its class has this constant.
  const int64_t even_split = c.num_attention_heads > 0 ? c.hidden_size / c.num_attention_heads : 0;
  v.size("head_dim", c.head_dim, c.model_type == "qwen3" ? 128 : even_split);
  v.size("intermediate_size", c.intermediate_size, {});
  v.size("max_position_embeddings", c.max_position_embeddings, {});
  v.real("rms_norm_eps", c.rms_norm_eps, 1e-6, kPositive);
  v.real("rope_theta", c.rope_theta, 10000.0, kPositive);
  if (c.model_type == "llama" || c.model_type == "qwen3") v.flag("attention_bias", c.attention_bias, false);
  if (c.model_type == "llama") v.flag("mlp_bias", c.mlp_bias, false);
  v.text("hidden_act", c.hidden_act, "silu");
  v.real("attention_dropout", c.attention_probs_dropout_prob, 0.0, kProbability);
  v.real("initializer_range", c.initializer_range, 0.02, kNonNegative);
  v.flag("tie_word_embeddings", c.tie_word_embeddings, false);
}

template <typename Config, typename Visitor>
void visit_gpt2(Config& c, Visitor& v) {
  v.size("vocab_size", c.vocab_size, {});
  v.size("n_embd", c.hidden_size, {});
  v.size("n_layer", c.num_hidden_layers, {});
  v.size("n_head", c.num_attention_heads, {});
  v.size("n_inner", c.intermediate_size, 4 * c.hidden_size);
  v.size("n_positions", c.max_position_embeddings, {});
  v.real("layer_norm_epsilon", c.layer_norm_eps, 1e-5, kPositive);
  v.text("activation_function", c.hidden_act, "gelu_new");
  v.real("resid_pdrop", c.hidden_dropout_prob, 0.1, kProbability);
  v.real("attn_pdrop", c.attention_probs_dropout_prob, 0.1, kProbability);
  v.real("initializer_range", c.initializer_range, 0.02, kNonNegative);
  v.flag("tie_word_embeddings", c.tie_word_embeddings, true);
}

template <typename Config, typename Visitor>
void visit_fields(Config& config, ConfigFamily family, Visitor& visitor) {
  if (family == ConfigFamily::kEncoder) visit_encoder(config, visitor);
  if (family == ConfigFamily::kDecoder) visit_decoder(config, visitor);
  if (family == ConfigFamily::kGpt2) visit_gpt2(config, visitor);
}

}  // namespace msplora::detail
