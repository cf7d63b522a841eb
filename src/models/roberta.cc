#include "models/encoder.h"

#include <ATen/TensorOperators.h>
#include <memory>
#include <string>
#include <vector>
#include "models/registry.h"
#include "msplora/core/random.h"

namespace msplora {
namespace {

using Role = ParameterStore::Role;
using Init = ParameterStore::Init;

// RobertaClassificationHead: dropout, dense, tanh, dropout, out_proj on the first token.
class RobertaForSequenceClassification : public Model {
 public:
  RobertaForSequenceClassification(const ModelConfig& config, const ModelLoadOptions& options,
                                   ParameterStore& store, const EncoderNames& names)
      : Model(config, ModelTask::kSequenceClassification, options.compute_dtype),
        encoder_(config, names, store, options.compute_dtype),
        dense_(store.linear("classifier.dense", config.hidden_size, config.hidden_size, Role::kHead)),
        out_proj_(store.linear("classifier.out_proj", config.hidden_size, config.num_labels, Role::kHead)),
        dropout_(head_dropout(config)) {}

  at::Tensor forward(const PackedInput& input, const ForwardContext& context) override {
    at::Tensor x = encoder_.forward_first_tokens(input, context);
    x = x.to(dense_.weight.scalar_type());
    x = dropout(x, dropout_mask(context, dropout_, hash_name("classifier.dropout.0")));
    x = activation(dense_.forward(x, context), kernels::Activation::kTanh);
    x = dropout(x, dropout_mask(context, dropout_, hash_name("classifier.dropout.1")));
    return out_proj_.forward(x, context);
  }

  std::vector<Site> sites() override {
    std::vector<Site> sites;
    encoder_.append_sites(sites);
    sites.push_back(make_site(dense_, -1));
    sites.push_back(make_site(out_proj_, -1));
    return sites;
  }

  std::vector<NamedTensor> parameters() override {
    std::vector<NamedTensor> parameters;
    encoder_.append_parameters(parameters);
    append_linear(dense_, parameters);
    append_linear(out_proj_, parameters);
    return parameters;
  }

  std::vector<std::string> head_modules() const override { return {"classifier"}; }

 private:
  Encoder encoder_;
  Linear dense_, out_proj_;
  double dropout_;
};

// RobertaLMHead: dense, gelu, norm, decoder tied to the word embeddings with a bias of its own.
class RobertaForMaskedLm : public Model {
 public:
  RobertaForMaskedLm(const ModelConfig& config, const ModelLoadOptions& options, ParameterStore& store,
                     const EncoderNames& names)
      : Model(config, ModelTask::kMaskedLm, options.compute_dtype),
        encoder_(config, names, store, options.compute_dtype),
        dense_(store.linear("lm_head.dense", config.hidden_size, config.hidden_size)),
        norm_(take_norm(store, "lm_head.layer_norm", config.hidden_size)),
        bias_(store.take("lm_head.bias", {config.vocab_size}, Role::kExact, Init::kZero)) {}

  at::Tensor forward(const PackedInput& input, const ForwardContext& context) override {
    at::Tensor x = head_rows(encoder_.forward(input, context), input);
    x = activation(dense_.forward(x, context), kernels::Activation::kGelu);
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
    parameters.push_back({"lm_head.bias", bias_});
    return parameters;
  }

  std::vector<std::string> head_modules() const override { return {"lm_head"}; }

 private:
  Encoder encoder_;
  Linear dense_;
  LayerNorm norm_;
  at::Tensor bias_;
};

}  // namespace

Architecture roberta_architecture() {
  Architecture architecture;
  architecture.model_type = "roberta";
  architecture.base_prefix = "roberta.";
  architecture.head_prefix = "classifier.";
  architecture.tasks = {ModelTask::kSequenceClassification, ModelTask::kMaskedLm};
  architecture.build = [](const ModelConfig& config, const ModelLoadOptions& options,
                          ParameterStore& store) -> std::unique_ptr<Model> {
    // Position ids start after the padding index.
    const EncoderNames names{"roberta.", config.pad_token_id.value_or(1) + 1};
    if (options.task == ModelTask::kMaskedLm)
      return std::make_unique<RobertaForMaskedLm>(config, options, store, names);
    return std::make_unique<RobertaForSequenceClassification>(config, options, store, names);
  };
  architecture.ignorable = [](ModelTask task) -> std::vector<std::string> {
    if (task == ModelTask::kMaskedLm)
      return {"classifier.", "roberta.pooler.", "pooler.", "lm_head.decoder.", "qa_outputs."};
    return {"lm_head.", "roberta.pooler.", "pooler.", "qa_outputs."};
  };
  architecture.class_name = [](ModelTask task) {
    return std::string(task == ModelTask::kMaskedLm ? "RobertaForMaskedLM"
                                                    : "RobertaForSequenceClassification");
  };
  return architecture;
}

}  // namespace msplora
