#include <ATen/TensorOperators.h>
#include <memory>
#include <string>
#include <vector>

#include "models/decoder.h"
#include "models/registry.h"
#include "msplora/nn/functional.h"
#include "msplora/nn/linear_cross_entropy.h"

namespace msplora {
namespace {

using Role = ParameterStore::Role;
using Init = ParameterStore::Init;

// LlamaForCausalLM: the head has no bias, and is the word embeddings themselves where config.json ties them.
class DecoderForCausalLm : public Model {
 public:
  DecoderForCausalLm(const ModelConfig& config, const ModelLoadOptions& options, ParameterStore& store)
      : Model(config, ModelTask::kCausalLm, options.compute_dtype),
        decoder_(config, store, options.compute_dtype),
        is_tied_(config.tie_word_embeddings),
        lm_head_(is_tied_ ? Linear("lm_head", decoder_.word_embeddings(), {})
                          : store.linear("lm_head", config.hidden_size, config.vocab_size, Role::kMatrix,
                                         /*with_bias=*/false)) {}

  at::Tensor forward(const PackedInput& input, const ForwardContext& context) override {
    const at::Tensor logits = lm_head_.forward(decoder_.forward(input, context), context);
    return logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat);
  }

  at::Tensor loss_sum(const PackedInput& input, const at::Tensor& labels,
                      const ForwardContext& context) override {
    return linear_cross_entropy_sum(decoder_.forward(input, context), lm_head_, labels);
  }

  std::vector<Site> sites() override {
    std::vector<Site> sites;
    decoder_.append_sites(sites);
    return sites;
  }

  std::vector<NamedTensor> parameters() override {
    std::vector<NamedTensor> parameters;
    decoder_.append_parameters(parameters);
    if (!is_tied_) append_linear(lm_head_, parameters);
    return parameters;
  }

  std::vector<std::string> head_modules() const override { return {}; }

 private:
  Decoder decoder_;
  bool is_tied_;
  Linear lm_head_;
};

// LlamaForSequenceClassification: `score` on the last token.
class DecoderForSequenceClassification : public Model {
 public:
  DecoderForSequenceClassification(const ModelConfig& config, const ModelLoadOptions& options,
                                   ParameterStore& store)
      : Model(config, ModelTask::kSequenceClassification, options.compute_dtype),
        decoder_(config, store, options.compute_dtype),
        score_(store.linear("score", config.hidden_size, config.num_labels, Role::kHead,
                            /*with_bias=*/false)) {}

  at::Tensor forward(const PackedInput& input, const ForwardContext& context) override {
    const at::Tensor x = decoder_.forward_last_tokens(input, context);
    return score_.forward(x.to(score_.weight.scalar_type()), context);
  }

  std::vector<Site> sites() override {
    std::vector<Site> sites;
    decoder_.append_sites(sites);
    sites.push_back(make_site(score_, -1));
    return sites;
  }

  std::vector<NamedTensor> parameters() override {
    std::vector<NamedTensor> parameters;
    decoder_.append_parameters(parameters);
    append_linear(score_, parameters);
    return parameters;
  }

  std::vector<std::string> head_modules() const override { return {"score"}; }

 private:
  Decoder decoder_;
  Linear score_;
};

}  // namespace

Architecture llama_architecture(const std::string& model_type, const std::string& class_prefix) {
  Architecture architecture;
  architecture.model_type = model_type;
  architecture.base_prefix = "model.";
  architecture.tasks = {ModelTask::kCausalLm, ModelTask::kSequenceClassification};
  architecture.build = [](const ModelConfig& config, const ModelLoadOptions& options,
                          ParameterStore& store) -> std::unique_ptr<Model> {
    if (options.task == ModelTask::kCausalLm)
      return std::make_unique<DecoderForCausalLm>(config, options, store);
    return std::make_unique<DecoderForSequenceClassification>(config, options, store);
  };
  // Tied heads may be stored all the same.
  architecture.ignorable = [](ModelTask task) -> std::vector<std::string> {
    if (task == ModelTask::kCausalLm) return {"score.", "lm_head."};
    return {"lm_head."};
  };
  architecture.class_name = [class_prefix](ModelTask task) {
    return class_prefix + (task == ModelTask::kCausalLm ? "ForCausalLM" : "ForSequenceClassification");
  };
  return architecture;
}

}  // namespace msplora
