#include "models/families/family.h"
#include "models/families/parts.h"

/// SmolLM3: Llama whose every fourth layer does without positions.
namespace msplora {
namespace {

// 1 where a layer has rotary positions, as no_rope_layers counts them.
std::vector<bool> rotary_layers(detail::ConfigReader& config, size_t layers) {
  const int64_t interval = config.size("no_rope_layer_interval", 4);
  std::vector<bool> has_rotary;
  for (size_t i = 0; i < layers; ++i)
    has_rotary.push_back(interval > 0 && (static_cast<int64_t>(i) + 1) % interval != 0);
  const nlohmann::json* given = config.find("no_rope_layers");
  if (given == nullptr) return has_rotary;
  if (!given->is_array() || given->size() != layers) {
    config.wrong("no_rope_layers", "a list of 0 and 1, one a layer", *given);
    return has_rotary;
  }
  for (size_t i = 0; i < layers; ++i) has_rotary[i] = (*given)[i] == 1;
  return has_rotary;
}

// Of the layers that slide, which are those without rotary positions unless layer_types say otherwise; 0:
// none.
int64_t sliding_window(detail::ConfigReader& config) {
  const int64_t window = config.sliding_window(detail::WindowUse::kIfUsed);
  return config.find("sliding_window") == nullptr ? 0 : window;
}

Architecture describe_smollm3(detail::ConfigReader& config, ModelTask task) {
  const int64_t d = config.size("hidden_size");
  Architecture a = detail::decoder_base(config, task, 1e-6);
  BlockSpec block = detail::pre_norm_block(a.final_norm.eps);
  block.attention.shape = config.grouped_heads(d, 0, /*needs_groups=*/true);
  const bool bias = config.flag("attention_bias", false), mlp_bias = config.flag("mlp_bias", false);
  block.linears = detail::gated_linears(config, block.attention.shape, bias, bias, mlp_bias);
  block.attention.dropout = config.dropout("attention_dropout", 0.0);
  block.activation = config.activation("hidden_act", "silu");
  a.rotaries = {config.rotary(block.attention.shape.head_dim, {.theta = 2000000.0})};
  const int64_t layers = config.depth("num_hidden_layers");
  const std::vector<bool> has_rotary = rotary_layers(config, static_cast<size_t>(layers));
  std::vector<bool> slides = has_rotary;
  slides.flip();
  detail::add_blocks(a, config, block, config.windows(sliding_window(config), slides));
  for (size_t i = 0; i < a.blocks.size(); ++i) a.blocks[i].attention.rotary = has_rotary[i] ? 0 : -1;
  detail::set_decoder_head(a, config, /*tied_by_default=*/true);
  return a;
}

void complete_smollm3(const GgufFile& file, nlohmann::json& config) {
  detail::set_by_tensor(file, "blk.0.attn_q.bias", "attention_bias", config);
  detail::set_by_tensor(file, "blk.0.ffn_up.bias", "mlp_bias", config);
}

}  // namespace

Family smollm3_family() {
  Family family{"smollm3",
                "SmolLM3",
                {ModelTask::kCausalLm, ModelTask::kSequenceClassification},
                {"q_proj", "v_proj"},
                std::nullopt,
                describe_smollm3};
  family.gguf = detail::decoder_gguf("smollm3");
  family.gguf.interleaves_heads = true;
  family.gguf.complete = complete_smollm3;
  return family;
}

}  // namespace msplora
