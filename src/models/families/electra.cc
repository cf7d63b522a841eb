#include "models/families/family.h"
#include "models/families/parts.h"

/// ELECTRA: BERT's blocks behind embeddings that may be narrower, and a head with a layer of its own.
namespace msplora {
namespace {

Architecture describe_electra(detail::ConfigReader& config, ModelTask task) {
  Architecture a = detail::bert_like(config, task, "electra.");
  const int64_t d = config.size("hidden_size"), narrow = config.size("embedding_size", 128);
  const double eps = a.embeddings.norm.eps;
  a.embeddings.width = narrow;
  if (narrow != d)
    a.embeddings.projection = LinearSpec{LinearRole::kEmbedding, "electra.embeddings_project", narrow, d};
  if (task == ModelTask::kSequenceClassification) {
    a.head = detail::dense_classifier(config, d, kernels::Activation::kGelu);
  } else if (task == ModelTask::kMaskedLm) {
    a.head =
        detail::tied_head(detail::transform_stage({"generator_predictions"}, "generator_predictions.dense",
                                                  "generator_predictions.LayerNorm", d, narrow, eps,
                                                  kernels::Activation::kGelu),
                          "generator_lm_head", "generator_lm_head.bias");
  }
  a.ignored = {"discriminator_predictions."};
  return a;
}

}  // namespace

Family electra_family() {
  return {"electra",          "Electra", {ModelTask::kSequenceClassification, ModelTask::kMaskedLm},
          {"query", "value"}, 0,         describe_electra};
}

}  // namespace msplora
