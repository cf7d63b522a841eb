#include <fmt/format.h>

#include "models/families/family.h"
#include "models/families/parts.h"

/// BERT, RoBERTa and XLM-RoBERTa: post-norm encoders with learned positions.
namespace msplora {
namespace {

using detail::ConfigReader;

/// dense, activation, norm, and a decoder that is the table of words with a bias of its own.
HeadSpec masked_lm_head(const std::string& module, const std::string& transform, const std::string& norm,
                        int64_t width, double eps, kernels::Activation activation) {
  HeadStage stage = detail::classifier_stage(transform + "dense", 0.0, width, width);
  stage.module = module;
  stage.activation = activation;
  stage.norm = detail::layer_norm(transform + norm, eps);
  HeadSpec head;
  head.stages = {stage};
  head.is_tied = true;
  return head;
}

/// What the members share. `prefix`: "bert." or "roberta.".
Architecture describe_encoder(ConfigReader& config, ModelTask task, const std::string& prefix) {
  const double eps = config.real("layer_norm_eps", 1e-12);
  Architecture a;
  a.model_type = config.text("model_type", "");
  a.task = task;
  a.base_prefix = prefix;
  a.initializer_range = config.real("initializer_range", 0.02, detail::kNonNegative);
  a.embeddings = detail::bert_embeddings(config, prefix, eps);
  a.longest = a.embeddings.position_rows;
  a.blocks = detail::bert_blocks(config, prefix, eps);
  config.flag("tie_word_embeddings", true);
  config.refuse_flags({"is_decoder", "add_cross_attention"});
  const std::string type = config.text("position_embedding_type", "absolute");
  if (type != "absolute") {
    config.problem("position_embedding_type", "expected absolute, found `" + type + "`",
                   "relative position embeddings of BERT and RoBERTa are not supported");
  }
  return a;
}

double classifier_dropout(ConfigReader& config) {
  return config.dropout("classifier_dropout", config.dropout("hidden_dropout_prob", 0.1));
}

Architecture describe_bert(ConfigReader& config, ModelTask task) {
  Architecture a = describe_encoder(config, task, "bert.");
  const int64_t d = config.size("hidden_size");
  const double dropout = classifier_dropout(config);
  if (task == ModelTask::kSequenceClassification) {
    // A checkpoint of a masked language model has no pooler; a drawn one must not stay frozen.
    HeadStage pooler = detail::classifier_stage("bert.pooler.dense", 0.0, d, d);
    pooler.module = "bert.pooler";
    pooler.activation = kernels::Activation::kTanh;
    pooler.trained_if_absent = true;
    a.head.pool = Pool::kFirst;
    a.head.stages = {pooler, detail::classifier_stage("classifier", dropout, d, config.num_labels())};
  } else if (task == ModelTask::kMaskedLm) {
    a.head = masked_lm_head("cls", "cls.predictions.transform.", "LayerNorm", d, a.embeddings.norm.eps,
                            config.activation("hidden_act", "gelu"));
    a.head.decoder = "cls.predictions.decoder";
    a.head.decoder_bias = "cls.predictions.bias";
  }
  a.ignored = {"cls.seq_relationship."};
  return a;
}

Architecture describe_roberta(ConfigReader& config, ModelTask task) {
  Architecture a = describe_encoder(config, task, "roberta.");
  const int64_t d = config.size("hidden_size");
  const double dropout = classifier_dropout(config);
  // Positions count from behind the padding token's row.
  a.embeddings.position_offset = config.token("pad_token_id", 1).value_or(1) + 1;
  a.longest -= a.embeddings.position_offset;
  if (a.embeddings.position_rows > 0 && a.longest <= 0) {
    config.problem("max_position_embeddings",
                   fmt::format("expected more than pad_token_id + 1 = {}, found {}",
                               a.embeddings.position_offset, a.embeddings.position_rows));
  }
  if (task == ModelTask::kSequenceClassification) {
    HeadStage dense = detail::classifier_stage("classifier.dense", dropout, d, d);
    HeadStage out = detail::classifier_stage("classifier.out_proj", dropout, d, config.num_labels());
    dense.module = out.module = "classifier";
    dense.activation = kernels::Activation::kTanh;
    a.head.pool = Pool::kFirst;
    a.head.stages = {dense, out};
  } else if (task == ModelTask::kMaskedLm) {
    a.head = masked_lm_head("lm_head", "lm_head.", "layer_norm", d, a.embeddings.norm.eps,
                            kernels::Activation::kGelu);
    a.head.decoder = "lm_head.decoder";
    a.head.decoder_bias = "lm_head.bias";
  }
  a.ignored = {"roberta.pooler."};
  return a;
}

const std::vector<ModelTask> kEncoderTasks = {ModelTask::kSequenceClassification, ModelTask::kMaskedLm};

}  // namespace

Family bert_family() {
  return {"bert", "Bert", kEncoderTasks, {"query", "value"}, 0, describe_bert};
}

Family roberta_family() {
  return {"roberta", "Roberta", kEncoderTasks, {"query", "value"}, 1, describe_roberta};
}

Family xlm_roberta_family() {
  return {"xlm-roberta", "XLMRoberta", kEncoderTasks, {"query", "value"}, 1, describe_roberta};
}

}  // namespace msplora
