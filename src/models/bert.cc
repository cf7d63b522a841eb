#include "models/encoder.h"

#include <memory>
#include <string>
#include <vector>
#include "models/registry.h"
#include "msplora/core/random.h"

namespace msplora {
namespace {

using Role = ParameterStore::Role;
using Init = ParameterStore::Init;

// BertForSequenceClassification: pooler (dense, tanh on the first token), dropout, classifier.
class BertForSequenceClassification : public Model {
 public:
  BertForSequenceClassification(const ModelConfig& config, const ModelLoadOptions& options,
                                ParameterStore& store, const EncoderNames& names)
      : Model(config, ModelTask::kSequenceClassification, options.compute_dtype),
        encoder_(config, names, store, options.compute_dtype),
        // A checkpoint of a masked language model has no pooler; a drawn one must not stay frozen.
        has_fresh_pooler_(!store.contains("bert.pooler.dense.weight") || options.random_init),
        pooler_(store.linear("bert.pooler.dense", config.hidden_size, config.hidden_size, Role::kHead)),
        classifier_(store.linear("classifier", config.hidden_size, config.num_labels, Role::kHead)),
        dropout_(head_dropout(config)) {}

  at::Tensor forward(const PackedInput& input, const ForwardContext& context) override {
    at::Tensor x = encoder_.forward_first_tokens(input, context);
    x = activation(pooler_.forward(x.to(pooler_.weight.scalar_type()), context), kernels::Activation::kTanh);
    x = dropout(x, dropout_mask(context, dropout_, hash_name("classifier.dropout")));
    return classifier_.forward(x, context);
  }

  std::vector<Site> sites() override {
    std::vector<Site> sites;
    encoder_.append_sites(sites);
    sites.push_back(make_site(pooler_, -1));
    sites.push_back(make_site(classifier_, -1));
    return sites;
  }

  std::vector<NamedTensor> parameters() override {
    std::vector<NamedTensor> parameters;
    encoder_.append_parameters(parameters);
    append_linear(pooler_, parameters);
    append_linear(classifier_, parameters);
    return parameters;
  }

  std::vector<std::string> head_modules() const override {
    if (has_fresh_pooler_) return {"bert.pooler", "classifier"};
    return {"classifier"};
  }

 private:
  Encoder encoder_;
  bool has_fresh_pooler_;
  Linear pooler_, classifier_;
  double dropout_;
};

// BertLMPredictionHead: transform (dense, activation, norm), decoder tied to the word embeddings with a bias.
class BertForMaskedLm : public Model {
 public:
  BertForMaskedLm(const ModelConfig& config, const ModelLoadOptions& options, ParameterStore& store,
                  const EncoderNames& names)
      : Model(config, ModelTask::kMaskedLm, options.compute_dtype),
        encoder_(config, names, store, options.compute_dtype),
        dense_(store.linear("cls.predictions.transform.dense", config.hidden_size, config.hidden_size)),
        norm_(take_norm(store, "cls.predictions.transform.LayerNorm", config.hidden_size)),
        bias_(store.take("cls.predictions.bias", {config.vocab_size}, Role::kExact, Init::kZero)),
        activation_(activation_from_name(config.hidden_act)) {}

  at::Tensor forward(const PackedInput& input, const ForwardContext& context) override {
    at::Tensor x = head_rows(encoder_.forward(input, context), input);
    x = activation(dense_.forward(x, context), activation_);
    x = residual_layer_norm(x, {}, norm_.weight, norm_.bias, config().layer_norm_eps, {});
    return adapted_linear(x, encoder_.word_embeddings(), bias_, {}, {}, {});
  }

  std::vector<Site> sites() override {
    std::vector<Site> sites;
    encoder_.append_sites(sites);
    return sites;
  }

  std::vector<NamedTensor> parameters() override {
    std::vector<NamedTensor> parameters;
    encoder_.append_parameters(parameters);
    append_linear(dense_, parameters);
    append_norm(norm_, parameters);
    parameters.push_back({"cls.predictions.bias", bias_});
    return parameters;
  }

  std::vector<std::string> head_modules() const override { return {"cls"}; }

 private:
  Encoder encoder_;
  Linear dense_;
  LayerNorm norm_;
  at::Tensor bias_;
  kernels::Activation activation_;
};

}  // namespace

Architecture bert_architecture() {
  Architecture architecture;
  architecture.model_type = "bert";
  architecture.base_prefix = "bert.";
  architecture.head_prefix = "classifier.";
  architecture.tasks = {ModelTask::kSequenceClassification, ModelTask::kMaskedLm};
  architecture.build = [](const ModelConfig& config, const ModelLoadOptions& options,
                          ParameterStore& store) -> std::unique_ptr<Model> {
    const EncoderNames names{"bert.", 0};
    if (options.task == ModelTask::kMaskedLm)
      return std::make_unique<BertForMaskedLm>(config, options, store, names);
    return std::make_unique<BertForSequenceClassification>(config, options, store, names);
  };
  architecture.ignorable = [](ModelTask task) -> std::vector<std::string> {
    if (task == ModelTask::kMaskedLm)
      return {"classifier.", "bert.pooler.", "pooler.", "cls.seq_relationship.", "cls.predictions.decoder.",
              "qa_outputs."};
    return {"cls.", "qa_outputs."};
  };
  architecture.class_name = [](ModelTask task) {
    return std::string(task == ModelTask::kMaskedLm ? "BertForMaskedLM" : "BertForSequenceClassification");
  };
  return architecture;
}

}  // namespace msplora
