#include <fmt/format.h>

#include "models/families/family.h"
#include "models/families/parts.h"

/// BERT, RoBERTa and XLM-RoBERTa: post-norm encoders with learned positions.
namespace msplora {
namespace {

using detail::ConfigReader;

Architecture describe_bert(ConfigReader& config, ModelTask task) {
  Architecture a = detail::bert_like(config, task, "bert.");
  const int64_t d = config.size("hidden_size");
  const double dropout = detail::classifier_dropout(config);
  if (task == ModelTask::kSequenceClassification) {
    // A checkpoint of a masked language model has no pooler; a drawn one must not stay frozen.
    HeadStage pooler = detail::classifier_stage("bert.pooler.dense", 0.0, d, d);
    pooler.modules = {"bert.pooler"};
    pooler.activation = kernels::Activation::kTanh;
    pooler.trained_if_absent = true;
    a.head.pool = Pool::kFirst;
    a.head.stages = {pooler, detail::classifier_stage("classifier", dropout, d, config.num_labels())};
  } else if (task == ModelTask::kMaskedLm) {
    const std::string transform = "cls.predictions.transform.";
    a.head = detail::tied_head(
        detail::transform_stage({"cls"}, transform + "dense", transform + "LayerNorm", d, d,
                                a.embeddings.norm.eps, config.activation("hidden_act", "gelu")),
        "cls.predictions.decoder", "cls.predictions.bias");
  }
  a.ignored = {"cls.seq_relationship."};
  return a;
}

Architecture describe_roberta(ConfigReader& config, ModelTask task) {
  Architecture a = detail::bert_like(config, task, "roberta.");
  const int64_t d = config.size("hidden_size");
  detail::classifier_dropout(config);  // checked without a head, too
  // Positions count from behind the padding token's row.
  a.embeddings.position_offset = config.token("pad_token_id", 1).value_or(1) + 1;
  a.longest -= a.embeddings.position_offset;
  if (a.embeddings.position_rows > 0 && a.longest <= 0) {
    config.problem("max_position_embeddings",
                   fmt::format("expected more than pad_token_id + 1 = {}, found {}",
                               a.embeddings.position_offset, a.embeddings.position_rows));
  }
  if (task == ModelTask::kSequenceClassification) {
    a.head = detail::dense_classifier(config, d, kernels::Activation::kTanh);
  } else if (task == ModelTask::kMaskedLm) {
    a.head = detail::tied_head(detail::transform_stage({"lm_head"}, "lm_head.dense", "lm_head.layer_norm", d,
                                                       d, a.embeddings.norm.eps, kernels::Activation::kGelu),
                               "lm_head.decoder", "lm_head.bias");
  }
  a.ignored = {"roberta.pooler."};
  return a;
}

Family bert_relative(const char* model_type, const char* class_prefix, int64_t pad_token,
                     decltype(Family::describe) describe) {
  return {model_type,         class_prefix, {ModelTask::kSequenceClassification, ModelTask::kMaskedLm},
          {"query", "value"}, pad_token,    describe};
}

}  // namespace

Family bert_family() {
  return bert_relative("bert", "Bert", 0, describe_bert);
}

Family roberta_family() {
  return bert_relative("roberta", "Roberta", 1, describe_roberta);
}

Family xlm_roberta_family() {
  return bert_relative("xlm-roberta", "XLMRoberta", 1, describe_roberta);
}

}  // namespace msplora
