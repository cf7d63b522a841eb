#include "models/families/family.h"
#include "models/families/parts.h"

/// DeBERTa v2 and v3. Their shape alone is known: attention by relative positions is not built yet.
namespace msplora {
namespace {

Architecture describe_deberta(detail::ConfigReader& config, ModelTask task) {
  const double eps = config.real("layer_norm_eps", 1e-7);
  const int64_t d = config.size("hidden_size");
  Architecture a = detail::start(config, task, "deberta.");
  a.longest = config.size("max_position_embeddings");
  a.embeddings = detail::bert_embeddings(config, "deberta.", eps);
  a.embeddings.type_rows = config.size("type_vocab_size", 0, 0);
  a.blocks = detail::bert_blocks(config, "deberta.", eps, "_proj");
  config.refuse_flags({"is_decoder", "add_cross_attention"});
  if (task == ModelTask::kSequenceClassification) {
    HeadStage pooler = detail::classifier_stage("pooler.dense", 0.0, d, d);
    pooler.activation = kernels::Activation::kGelu;
    const double dropout = config.dropout("cls_dropout", config.dropout("hidden_dropout_prob", 0.1));
    a.head.pool = Pool::kFirst;
    a.head.stages = {pooler, detail::classifier_stage("classifier", dropout, d, config.num_labels())};
  }
  return a;
}

}  // namespace

Family deberta_v2_family() {
  return {"deberta-v2", "DebertaV2", {}, {"query_proj", "value_proj"}, 0, describe_deberta};
}

}  // namespace msplora
