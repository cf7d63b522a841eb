#include "models/families/family.h"
#include "models/families/parts.h"

/// Phi-3: Llama with fused layers, dropout behind both branches and a window in every layer where there is
/// one.
namespace msplora {
namespace {

Architecture describe_phi3(detail::ConfigReader& config, ModelTask task) {
  const int64_t d = config.size("hidden_size"), wide = config.size("intermediate_size");
  Architecture a = detail::decoder_base(config, task, 1e-5);
  BlockSpec block = detail::pre_norm_block(a.final_norm.eps);
  block.attention.shape = config.grouped_heads(d, 0, /*needs_groups=*/true);
  const AttentionShape& shape = block.attention.shape;
  const int64_t q = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
  block.linears = {{LinearRole::kQkv, "self_attn.qkv_proj", d, q + 2 * kv, false},
                   {LinearRole::kAttentionOutput, "self_attn.o_proj", q, d, false},
                   {LinearRole::kGateUp, "mlp.gate_up_proj", d, 2 * wide, false},
                   {LinearRole::kDown, "mlp.down_proj", wide, d, false}};
  block.attention.dropout = config.dropout("attention_dropout", 0.0);
  block.attention_branch.dropout = block.feed_forward_branch.dropout = config.dropout("resid_pdrop", 0.0);
  block.activation = config.activation("hidden_act", "silu");
  a.rotaries = {config.rotary(shape.head_dim, {.may_be_partial = true, .original_length = 4096})};
  const std::vector<bool> all(static_cast<size_t>(config.depth("num_hidden_layers")), true);
  detail::add_blocks(
      a, config, block,
      config.windows(config.sliding_window(detail::WindowUse::kIfGiven), all, /*all_slide=*/true));
  detail::set_decoder_head(a, config, /*tied_by_default=*/false);
  return a;
}

// A window of 0 is none; angles may be those of a part of a head.
void complete_phi3(const GgufFile& file, nlohmann::json& config) {
  const int64_t window = file.integer(std::string("phi3.") + gguf_key::kSlidingWindow).value_or(0);
  config["sliding_window"] = window > 0 ? nlohmann::json(window) : nlohmann::json();
  const int64_t turned = file.integer(std::string("phi3.") + gguf_key::kRopeDimensions).value_or(0);
  const int64_t width = config.value("head_dim", int64_t{0});
  if (turned > 0 && width > 0 && turned != width)
    config["partial_rotary_factor"] = static_cast<double>(turned) / static_cast<double>(width);
}

}  // namespace

Family phi3_family() {
  Family family{"phi3",       "Phi3",       {ModelTask::kCausalLm, ModelTask::kSequenceClassification},
                {"qkv_proj"}, std::nullopt, describe_phi3};
  family.gguf = detail::decoder_gguf("phi3");
  family.gguf.complete = complete_phi3;
  family.gguf.reads_long_factors = true;
  return family;
}

}  // namespace msplora
