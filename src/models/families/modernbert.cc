#include <algorithm>
#include <string>
#include <vector>

#include "models/families/family.h"
#include "models/families/parts.h"

/// ModernBERT: a pre-norm encoder with rotary positions, fused gated layers, and layers that look a window to
/// both sides between layers that see everything.
namespace msplora {
namespace {

using detail::ConfigReader;

NormSpec plain_norm(ConfigReader& config, std::string name) {
  NormSpec norm = detail::layer_norm(std::move(name), config.real("norm_eps", 1e-5));
  norm.has_bias = config.flag("norm_bias", false);
  return norm;
}

// Where layer_types do not say it, every third layer sees everything, from the first on.
std::vector<bool> local_layers(ConfigReader& config, int64_t layers) {
  const int64_t period = config.size("global_attn_every_n_layers", 3);
  std::vector<bool> local;
  for (int64_t i = 0; i < layers; ++i) local.push_back(period > 0 && i % period != 0);
  return local;
}

BlockSpec modernbert_block(ConfigReader& config) {
  const int64_t d = config.size("hidden_size"), wide = config.size("intermediate_size");
  const bool bias = config.flag("attention_bias", false), wide_bias = config.flag("mlp_bias", false);
  BlockSpec block;
  block.linears = {{LinearRole::kQkv, "attn.Wqkv", d, 3 * d, bias},
                   {LinearRole::kAttentionOutput, "attn.Wo", d, d, bias},
                   {LinearRole::kGateUp, "mlp.Wi", d, 2 * wide, wide_bias},
                   {LinearRole::kDown, "mlp.Wo", wide, d, wide_bias}};
  block.attention.shape = config.even_heads("num_attention_heads", d);
  block.attention.dropout = block.attention_branch.dropout = config.dropout("attention_dropout", 0.0);
  block.attention_branch.before = plain_norm(config, "attn_norm");
  block.feed_forward_branch.before = plain_norm(config, "mlp_norm");
  block.activation = config.activation("hidden_activation", "gelu");
  block.inner_dropout = config.dropout("mlp_dropout", 0.0);
  return block;
}

// Both kinds of layers have angles of their own.
void add_modernbert_blocks(Architecture& a, ConfigReader& config) {
  BlockSpec block = modernbert_block(config);
  const int64_t head_dim = block.attention.shape.head_dim;
  if (head_dim % 2 != 0)
    config.problem("num_attention_heads",
                   "expected heads of an even width (rotary pairs), found " + std::to_string(head_dim));
  a.rotaries = {config.rotary(head_dim, {.theta = config.real("global_rope_theta", 160000.0),
                                         .kind = "full_attention"}),
                config.rotary(head_dim, {.theta = config.real("local_rope_theta", 10000.0),
                                         .kind = "sliding_attention"})};
  const int64_t layers = config.depth("num_hidden_layers");
  // A window counts its own token, and reaches as far to the right.
  const int64_t reach = config.size("local_attention", 128, 2) / 2;
  const std::vector<int64_t> windows = config.windows(reach + 1, local_layers(config, layers));
  for (const std::string& path : config.layers("num_hidden_layers", "model.layers")) {
    const bool is_local = windows[a.blocks.size()] > 0;
    block.path = path;
    block.attention.rotary = is_local ? 1 : 0;
    block.attention.shape.window_left = block.attention.shape.window_right = is_local ? reach : -1;
    a.blocks.push_back(block);
    if (a.blocks.size() == 1) a.blocks.front().attention_branch.before = {};
  }
}

Architecture describe_modernbert(ConfigReader& config, ModelTask task) {
  const int64_t d = config.size("hidden_size");
  Architecture a = detail::start(config, task, "model.");
  a.longest = config.size("max_position_embeddings", 8192);
  a.embeddings.path = "model.embeddings";
  a.embeddings.words = "tok_embeddings";
  a.embeddings.rows = config.size("vocab_size");
  a.embeddings.width = d;
  a.embeddings.norm = plain_norm(config, "norm");
  a.embeddings.dropout = config.dropout("embedding_dropout", 0.0);
  add_modernbert_blocks(a, config);
  a.final_norm = plain_norm(config, "model.final_norm");

  HeadStage dense = detail::classifier_stage("head.dense", 0.0, d, d, config.flag("classifier_bias", false));
  dense.modules = {"head"};
  // As the pooler of BERT: what a masked language model learned there stays.
  dense.trained_if_absent = task == ModelTask::kSequenceClassification;
  dense.activation = config.activation("classifier_activation", "gelu");
  dense.norm = plain_norm(config, "head.norm");
  const std::string pooling = config.text("classifier_pooling", "cls");
  if (pooling != "cls" && pooling != "mean")
    config.problem("classifier_pooling", "expected cls or mean, found `" + pooling + "`",
                   did_you_mean(pooling, {"cls", "mean"}));
  const double dropout = config.dropout("classifier_dropout", 0.0);
  const bool has_decoder_bias = config.flag("decoder_bias", true);
  if (task == ModelTask::kSequenceClassification) {
    a.head.pool = pooling == "mean" ? Pool::kMean : Pool::kFirst;
    a.head.stages = {dense, detail::classifier_stage("classifier", dropout, d, config.num_labels())};
  } else if (task == ModelTask::kMaskedLm) {
    a.head = detail::tied_head(dense, "decoder", has_decoder_bias ? "decoder.bias" : "");
  }
  return a;
}

}  // namespace

Family modernbert_family() {
  return {"modernbert", "ModernBert", {ModelTask::kSequenceClassification, ModelTask::kMaskedLm},
          {"Wqkv"},     50283,        describe_modernbert};
}

}  // namespace msplora
