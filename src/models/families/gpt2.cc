#include "models/families/family.h"
#include "models/families/parts.h"

/// GPT-2: pre-norm with layer norms, learned positions, queries, keys and values in one layer; files hold the
/// weights of its layers as [in, out].
namespace msplora {
namespace {

Architecture describe_gpt2(detail::ConfigReader& config, ModelTask task) {
  const int64_t d = config.size("n_embd"), wide = config.size("n_inner", 4 * d);
  const double eps = config.real("layer_norm_epsilon", 1e-5), dropout = config.dropout("resid_pdrop", 0.1);
  Architecture a = detail::start(config, task, "transformer.");
  a.longest = config.size("n_positions");
  a.embeddings.path = "transformer";
  a.embeddings.words = "wte";
  a.embeddings.positions = "wpe";
  a.embeddings.rows = config.size("vocab_size");
  a.embeddings.width = d;
  a.embeddings.position_rows = a.longest;
  a.embeddings.dropout = config.dropout("embd_pdrop", 0.1);

  BlockSpec block;
  block.linears = {{LinearRole::kQkv, "attn.c_attn", d, 3 * d, true, true},
                   {LinearRole::kAttentionOutput, "attn.c_proj", d, d, true, true},
                   {LinearRole::kUp, "mlp.c_fc", d, wide, true, true},
                   {LinearRole::kDown, "mlp.c_proj", wide, d, true, true}};
  block.attention.shape = config.even_heads("n_head", d);
  block.attention.shape.window_right = 0;
  block.attention.dropout = config.dropout("attn_pdrop", 0.1);
  block.attention_branch.before = detail::layer_norm("ln_1", eps);
  block.feed_forward_branch.before = detail::layer_norm("ln_2", eps);
  block.attention_branch.dropout = block.feed_forward_branch.dropout = dropout;
  block.activation = config.activation("activation_function", "gelu_new");
  const bool is_scaled = config.flag("scale_attn_weights", true),
             is_scaled_by_layer = config.flag("scale_attn_by_inverse_layer_idx", false);
  const double scale = is_scaled ? block.attention.shape.used_scale() : 1.0;
  for (const std::string& path : config.layers("n_layer", "transformer.h")) {
    block.path = path;
    a.blocks.push_back(block);
    const auto layers = static_cast<double>(a.blocks.size());
    a.blocks.back().attention.shape.scale = is_scaled_by_layer ? scale / layers : scale;
  }
  a.final_norm = detail::layer_norm("transformer.ln_f", eps);
  detail::set_decoder_head(a, config, /*tied_by_default=*/true);
  a.buffers = {".attn.bias", ".attn.masked_bias"};  // masks of older files
  config.flag("reorder_and_upcast_attn", false);    // scores are in float32 whatever it says
  config.refuse_flags({"add_cross_attention"});
  return a;
}

}  // namespace

Family gpt2_family() {
  Family family{"gpt2",     "GPT2",       {ModelTask::kCausalLm, ModelTask::kSequenceClassification},
                {"c_attn"}, std::nullopt, describe_gpt2};
  family.causal_lm_class = "GPT2LMHeadModel";
  family.gguf.architecture = "gpt2";
  family.gguf.settings = {{"n_embd", gguf_key::kEmbeddingLength, GgufSetting::kInteger, true},
                          {"n_layer", gguf_key::kBlockCount, GgufSetting::kInteger, true},
                          {"n_inner", gguf_key::kFeedForwardLength, GgufSetting::kInteger, true},
                          {"n_head", gguf_key::kHeadCount, GgufSetting::kInteger, true},
                          {"n_positions", gguf_key::kContextLength, GgufSetting::kInteger, true},
                          {"layer_norm_epsilon", gguf_key::kNormEpsilon, GgufSetting::kReal, true}};
  return family;
}

}  // namespace msplora
