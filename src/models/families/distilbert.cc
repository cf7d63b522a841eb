#include "models/families/family.h"
#include "models/families/parts.h"

/// DistilBERT: BERT without segments and pooler, under names of its own.
namespace msplora {
namespace {

BlockSpec distilbert_block(detail::ConfigReader& config) {
  const int64_t d = config.size("dim"), wide = config.size("hidden_dim");
  BlockSpec block;
  block.linears = {{LinearRole::kQuery, "attention.q_lin", d, d},
                   {LinearRole::kKey, "attention.k_lin", d, d},
                   {LinearRole::kValue, "attention.v_lin", d, d},
                   {LinearRole::kAttentionOutput, "attention.out_lin", d, d},
                   {LinearRole::kUp, "ffn.lin1", d, wide},
                   {LinearRole::kDown, "ffn.lin2", wide, d}};
  block.attention.shape = config.even_heads("n_heads", d);
  block.attention.dropout = config.dropout("attention_dropout", 0.1);
  block.attention_branch.after_sum = detail::layer_norm("sa_layer_norm", 1e-12);
  block.feed_forward_branch.after_sum = detail::layer_norm("output_layer_norm", 1e-12);
  block.feed_forward_branch.dropout = config.dropout("dropout", 0.1);
  block.activation = config.activation("activation", "gelu");
  return block;
}

Architecture describe_distilbert(detail::ConfigReader& config, ModelTask task) {
  const int64_t d = config.size("dim");
  Architecture a = detail::start(config, task, "distilbert.");
  a.embeddings.path = "distilbert.embeddings";
  a.embeddings.words = "word_embeddings";
  a.embeddings.positions = "position_embeddings";
  a.embeddings.rows = config.size("vocab_size");
  a.embeddings.width = d;
  a.embeddings.position_rows = a.longest = config.size("max_position_embeddings");
  a.embeddings.norm = detail::layer_norm("LayerNorm", 1e-12);
  a.embeddings.dropout = config.dropout("dropout", 0.1);
  BlockSpec block = distilbert_block(config);
  for (const std::string& path : config.layers("n_layers", "distilbert.transformer.layer")) {
    block.path = path;
    a.blocks.push_back(block);
  }
  if (task == ModelTask::kSequenceClassification) {
    HeadStage dense = detail::classifier_stage("pre_classifier", 0.0, d, d);
    dense.activation = kernels::Activation::kRelu;
    a.head.pool = Pool::kFirst;
    a.head.stages = {dense, detail::classifier_stage("classifier", config.dropout("seq_classif_dropout", 0.2),
                                                     d, config.num_labels())};
  } else if (task == ModelTask::kMaskedLm) {
    a.head =
        detail::tied_head(detail::transform_stage({"vocab_transform", "vocab_layer_norm"}, "vocab_transform",
                                                  "vocab_layer_norm", d, d, 1e-12, block.activation),
                          "vocab_projector", "vocab_projector.bias");
  }
  return a;
}

}  // namespace

Family distilbert_family() {
  return {"distilbert",
          "DistilBert",
          {ModelTask::kSequenceClassification, ModelTask::kMaskedLm},
          {"q_lin", "v_lin"},
          0,
          describe_distilbert};
}

}  // namespace msplora
