#include <string>

#include "models/families/family.h"
#include "models/families/parts.h"

/// ALBERT: BERT with narrower embeddings, whose layers share the weights of a few blocks, mostly of one.
namespace msplora {
namespace {

using detail::ConfigReader;

BlockSpec albert_block(ConfigReader& config, double eps) {
  const int64_t d = config.size("hidden_size"), wide = config.size("intermediate_size");
  BlockSpec block;
  block.linears = {{LinearRole::kQuery, "attention.query", d, d},
                   {LinearRole::kKey, "attention.key", d, d},
                   {LinearRole::kValue, "attention.value", d, d},
                   {LinearRole::kAttentionOutput, "attention.dense", d, d},
                   {LinearRole::kUp, "ffn", d, wide},
                   {LinearRole::kDown, "ffn_output", wide, d}};
  block.attention.shape = config.even_heads("num_attention_heads", d);
  block.attention.dropout = config.dropout("attention_probs_dropout_prob", 0.0);
  block.attention_branch.after_sum = detail::layer_norm("attention.LayerNorm", eps);
  block.attention_branch.dropout = config.dropout("hidden_dropout_prob", 0.0);
  block.feed_forward_branch.after_sum = detail::layer_norm("full_layer_layer_norm", eps);
  block.activation = config.activation("hidden_act", "gelu_new");
  return block;
}

// The blocks of each group, and which group every layer runs.
void add_groups(Architecture& a, ConfigReader& config, BlockSpec block) {
  const int64_t layers = config.depth("num_hidden_layers"), groups = config.size("num_hidden_groups", 1),
                inner = config.size("inner_group_num", 1);
  if (groups > layers) {
    config.problem("num_hidden_groups", "expected at most num_hidden_layers = " + std::to_string(layers) +
                                            ", found " + std::to_string(groups));
    return;
  }
  constexpr int64_t kLargestGroup = 100;  // far beyond any model
  if (inner > kLargestGroup) {
    config.problem("inner_group_num",
                   "expected at most " + std::to_string(kLargestGroup) + ", found " + std::to_string(inner));
    return;
  }
  for (int64_t group = 0; group < groups; ++group) {
    for (int64_t i = 0; i < inner; ++i) {
      block.path = "albert.encoder.albert_layer_groups." + std::to_string(group) + ".albert_layers." +
                   std::to_string(i);
      a.blocks.push_back(block);
    }
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (int64_t i = 0; i < inner; ++i)
      a.order.push_back(static_cast<size_t>(layer * groups / layers * inner + i));
  }
}

Architecture describe_albert(ConfigReader& config, ModelTask task) {
  const double eps = config.real("layer_norm_eps", 1e-12);
  const int64_t d = config.size("hidden_size"), narrow = config.size("embedding_size", 128);
  Architecture a = detail::start(config, task, "albert.");
  a.embeddings = detail::bert_embeddings(config, "albert.", eps);
  a.embeddings.width = narrow;
  a.embeddings.dropout = config.dropout("hidden_dropout_prob", 0.0);
  a.embeddings.projection =
      LinearSpec{LinearRole::kEmbedding, "albert.encoder.embedding_hidden_mapping_in", narrow, d};
  a.longest = a.embeddings.position_rows;
  add_groups(a, config, albert_block(config, eps));
  config.refuse_flags({"is_decoder", "add_cross_attention"});
  const double dropout = config.dropout("classifier_dropout_prob", 0.1);
  if (task == ModelTask::kSequenceClassification) {
    // A checkpoint of a masked language model has no pooler; a drawn one must not stay frozen.
    HeadStage pooler = detail::classifier_stage("albert.pooler", 0.0, d, d);
    pooler.activation = kernels::Activation::kTanh;
    pooler.trained_if_absent = true;
    a.head.pool = Pool::kFirst;
    a.head.stages = {pooler, detail::classifier_stage("classifier", dropout, d, config.num_labels())};
  } else if (task == ModelTask::kMaskedLm) {
    a.head = detail::tied_head(
        detail::transform_stage({"predictions"}, "predictions.dense", "predictions.LayerNorm", d, narrow, eps,
                                config.activation("hidden_act", "gelu_new")),
        "predictions.decoder", "predictions.bias");
  }
  a.ignored = {"sop_classifier."};
  return a;
}

}  // namespace

Family albert_family() {
  return {"albert",           "Albert", {ModelTask::kSequenceClassification, ModelTask::kMaskedLm},
          {"query", "value"}, 0,        describe_albert};
}

}  // namespace msplora
