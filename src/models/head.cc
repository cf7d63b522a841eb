#include "models/head.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tanh.h>
#include <algorithm>
#include <string>
#include <vector>

#include "models/model_parts.h"
#include "msplora/core/random.h"
#include "msplora/nn/functional.h"
#include "msplora/nn/linear_cross_entropy.h"

namespace msplora {

using Role = ParameterStore::Role;

Head::Head(const Architecture& architecture, const std::shared_ptr<Weight>& word_embeddings, bool is_drawn,
           ParameterStore& store)
    : spec_(architecture.head), output_(output_layer(architecture)) {
  const HeadSpec& spec = spec_;
  const bool is_lm = is_language_model();
  const auto drops = std::count_if(spec.stages.begin(), spec.stages.end(),
                                   [](const HeadStage& stage) { return stage.dropout > 0; });
  for (const HeadStage& stage : spec.stages) {
    const std::string& path = stage.linear.name;
    const bool is_trained = !stage.trained_if_absent || is_drawn || !store.contains(path + ".weight");
    for (const std::string& module : stage.modules) {
      if (is_trained && std::find(modules_.begin(), modules_.end(), module) == modules_.end())
        modules_.push_back(module);
    }
    Stage made;
    made.spec = stage;
    made.linear = store.linear(path, stage.linear, is_lm ? Role::kMatrix : Role::kHead);
    made.norm = Norm(stage.norm, "", stage.linear.out, store, is_lm ? Role::kExact : Role::kHead);
    std::string place = "classifier.dropout";
    if (drops > 1) place += "." + std::to_string(stages_.size());
    made.dropout_stream = hash_name(place);
    stages_.push_back(std::move(made));
  }
  if (!is_lm) return;
  at::Tensor bias;
  if (output_->has_bias)
    bias = store.take(spec.decoder_bias, {output_->out}, Role::kExact, ParameterStore::Init::kZero);
  std::shared_ptr<Weight> matrix =
      spec.is_tied ? word_embeddings
                   : store.weight(output_->name + ".weight", output_->out, output_->in, Role::kMatrix);
  decoder_ = Linear(output_->name, std::move(matrix), bias);
}

at::Tensor Head::run_stages(at::Tensor x, const ForwardContext& context) const {
  for (const Stage& stage : stages_) {
    if (!is_language_model()) x = x.to(stage.linear.weight->dtype());
    x = dropout(x, dropout_mask(context, stage.spec.dropout, stage.dropout_stream));
    x = stage.linear.forward(x, context);
    if (stage.spec.activation) x = activation(x, *stage.spec.activation);
    x = stage.norm(x);
  }
  return x;
}

at::Tensor Head::forward(const at::Tensor& hidden, const ForwardContext& context) const {
  const at::Tensor x = run_stages(hidden, context);
  if (!is_language_model()) return x;
  at::Tensor logits = decoder_.forward(x, context);
  if (logits.scalar_type() != at::kDouble) logits = logits.to(at::kFloat);
  return spec_.soft_cap > 0 ? at::tanh(logits / spec_.soft_cap) * spec_.soft_cap : logits;
}

at::Tensor Head::loss_sum(const at::Tensor& hidden, const at::Tensor& labels,
                          const ForwardContext& context) const {
  return linear_cross_entropy_sum(run_stages(hidden, context), decoder_, labels, context, /*chunk_rows=*/0,
                                  spec_.soft_cap);
}

void Head::untie() {
  decoder_.weight = std::make_shared<Weight>(*decoder_.weight);
  spec_.is_tied = false;
}

void Head::append_sites(std::vector<Site>& sites) {
  if (is_language_model()) return sites.push_back(make_site(decoder_, -1, *output_));
  for (Stage& stage : stages_) sites.push_back(make_site(stage.linear, -1, stage.spec.linear));
}

void Head::append_parameters(std::vector<Parameter>& parameters) const {
  for (const Stage& stage : stages_) {
    append_linear(stage.linear, parameters);
    stage.norm.append_parameters(parameters);
  }
  if (!is_language_model()) return;
  if (!spec_.is_tied) parameters.push_back({spec_.decoder + ".weight", decoder_.weight});
  if (decoder_.bias.defined()) parameters.push_back({spec_.decoder_bias, decoder_.bias});
}

}  // namespace msplora
