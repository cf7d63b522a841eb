#include "models/families/family.h"
#include "models/families/parts.h"

/// OLMo 2: norms behind the branches instead of before them, and of all heads of queries and keys in one.
namespace msplora {
namespace {

Architecture describe_olmo2(detail::ConfigReader& config, ModelTask task) {
  const int64_t d = config.size("hidden_size");
  Architecture a = detail::decoder_base(config, task, 1e-5);
  const double eps = a.final_norm.eps;
  BlockSpec block;
  block.attention.rotary = 0;
  block.attention_branch.on_output = detail::rms_norm("post_attention_layernorm", eps);
  block.feed_forward_branch.on_output = detail::rms_norm("post_feedforward_layernorm", eps);
  block.attention.shape = config.grouped_heads(d, 0, /*needs_groups=*/true);
  const bool bias = config.flag("attention_bias", false);
  block.linears = detail::gated_linears(config, block.attention.shape, bias, bias, false);
  block.attention.dropout = config.dropout("attention_dropout", 0.0);
  block.attention.q_norm = detail::rms_norm("self_attn.q_norm", eps);
  block.attention.k_norm = detail::rms_norm("self_attn.k_norm", eps);
  block.attention.norms_all_heads = true;
  block.activation = config.activation("hidden_act", "silu");
  a.rotaries = {config.rotary(block.attention.shape.head_dim)};
  detail::add_blocks(a, config, block, {});
  detail::set_decoder_head(a, config, /*tied_by_default=*/false);
  return a;
}

}  // namespace

Family olmo2_family() {
  Family family{"olmo2",
                "Olmo2",
                {ModelTask::kCausalLm, ModelTask::kSequenceClassification},
                {"q_proj", "v_proj"},
                std::nullopt,
                describe_olmo2};
  family.gguf = detail::decoder_gguf("olmo2");
  family.gguf.needs_output = true;
  return family;
}

}  // namespace msplora
