#include "adapters/fake_model.h"

#include <gtest/gtest.h>

#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <filesystem>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace msplora::testing {
namespace {

Site make_site(const std::string& path, int64_t layer, int64_t in, int64_t out) {
  static const std::map<std::string, LinearRole> kRoles = {
      {"query", LinearRole::kQuery},           {"key", LinearRole::kKey},    {"value", LinearRole::kValue},
      {"q_proj", LinearRole::kQuery},          {"k_proj", LinearRole::kKey}, {"v_proj", LinearRole::kValue},
      {"o_proj", LinearRole::kAttentionOutput}};
  const std::string module = path.substr(path.rfind('.') + 1);
  const auto found = kRoles.find(module);
  LinearRole role = found == kRoles.end() ? LinearRole::kUp : found->second;
  if (path.ends_with("attention.output.dense")) role = LinearRole::kAttentionOutput;
  return {path, module, layer, in, out, nullptr, true, layer < 0 ? LinearRole::kHead : role};
}

at::Tensor draw(const std::string& name, std::vector<int64_t> shape, uint64_t seed, double scale) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  RandomStream stream(seed, name);
  for (int64_t i = 0; i < tensor.numel(); ++i)
    tensor.data_ptr<float>()[i] = static_cast<float>(stream.normal() * scale);
  return tensor;
}

}  // namespace

std::vector<Site> roberta_sites(int64_t layers, int64_t hidden, int64_t wide) {
  if (wide == 0) wide = 4 * hidden;
  std::vector<Site> sites;
  for (int64_t l = 0; l < layers; ++l) {
    const std::string block = fmt::format("roberta.encoder.layer.{}.", l);
    for (const char* name :
         {"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"})
      sites.push_back(make_site(block + name, l, hidden, hidden));
    sites.push_back(make_site(block + "intermediate.dense", l, hidden, wide));
    sites.push_back(make_site(block + "output.dense", l, wide, hidden));
  }
  sites.push_back(make_site("classifier.dense", -1, hidden, hidden));
  sites.push_back(make_site("classifier.out_proj", -1, hidden, 3));
  return sites;
}

std::vector<Site> llama_sites(int64_t layers, int64_t hidden, int64_t wide) {
  if (wide == 0) wide = 11008 * hidden / 4096;
  std::vector<Site> sites;
  for (int64_t l = 0; l < layers; ++l) {
    const std::string block = fmt::format("model.layers.{}.", l);
    for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"})
      sites.push_back(make_site(block + "self_attn." + name, l, hidden, hidden));
    sites.push_back(make_site(block + "mlp.gate_proj", l, hidden, wide));
    sites.push_back(make_site(block + "mlp.up_proj", l, hidden, wide));
    sites.push_back(make_site(block + "mlp.down_proj", l, wide, hidden));
  }
  return sites;
}

FakeModel::FakeModel(const Options& options) : options_(options) {
  sites_ = options.llama ? llama_sites(options.layers, options.hidden, options.wide)
                         : roberta_sites(options.layers, options.hidden, options.wide);
  for (Site& site : sites_) {
    const bool head = site.layer < 0;
    if (site.path == "classifier.out_proj") site.out_features = options.labels;
    if (options.kv_heads > 0 && (site.module == "k_proj" || site.module == "v_proj")) {
      site.out_features = options.hidden / options.heads * options.kv_heads;
    }
    auto linear = std::make_unique<Linear>();
    linear->weight->set(draw(site.path + ".weight", {site.out_features, site.in_features}, options.seed, 0.2)
                            .to(head ? at::kFloat : options.dtype));
    if (!options.llama) {
      linear->bias = draw(site.path + ".bias", {site.out_features}, options.seed, 0.1)
                         .to(head ? at::kFloat : options.bias_dtype);
    }
    parameters_.emplace_back(site.path + ".weight", linear->weight);
    if (linear->bias.defined()) parameters_.emplace_back(site.path + ".bias", linear->bias);
    site.linear = linear.get();
    linears_.push_back(std::move(linear));
  }
  if (options.llama) return;
  const std::string norm = "roberta.embeddings.LayerNorm.";
  for (const std::string& name : {norm + "weight", norm + "bias"})
    parameters_.emplace_back(name, draw(name, {options.hidden}, options.seed, 1.0));
}

AdapterTarget FakeModel::target() const {
  AdapterTarget target;
  target.model_type = options_.llama ? "llama" : "roberta";
  target.base_name = "base-model";
  target.task_type = options_.llama ? "CAUSAL_LM" : "SEQ_CLS";
  target.num_layers = options_.layers;
  target.heads = {options_.heads, options_.kv_heads > 0 ? options_.kv_heads : options_.heads};
  target.sites = sites_;
  target.parameters = parameters_;
  if (!options_.llama) target.head_modules = {"classifier"};
  return target;
}

at::Tensor FakeModel::parameter(const std::string& name) const {
  for (const Parameter& parameter : parameters_) {
    if (parameter.name == name) return parameter.values();
  }
  throw std::out_of_range(name);
}

Linear& FakeModel::linear(const std::string& path) {
  for (const Site& site : sites_) {
    if (site.path == path) return *site.linear;
  }
  throw std::out_of_range(path);
}

void randomize(const Adapter& adapter, double scale) {
  const c10::NoGradGuard no_grad;
  for (const TrainableTensor& entry : adapter.trainable()) {
    at::Tensor target = entry.tensor;
    target.copy_(draw("test." + entry.name, target.sizes().vec(), 99, scale));
  }
}

at::Tensor tensor_named(const Adapter& adapter, const std::string& name) {
  for (const TrainableTensor& entry : adapter.trainable()) {
    if (entry.name == name) return entry.tensor;
  }
  for (const NamedTensor& entry : adapter.state().tensors) {
    if (entry.name == name) return entry.tensor;
  }
  ADD_FAILURE() << "no tensor " << name;
  return {};
}

std::vector<int64_t> query_ranks(const Adapter& adapter) {
  std::vector<int64_t> ranks;
  for (size_t i = 0; i < adapter.sites().size(); ++i) {
    if (adapter.sites()[i].module != "query") continue;
    int64_t rank = 0;
    for (const LowRankTerm& term : adapter.terms(i)) rank += term.down.size(0);
    ranks.push_back(rank);
  }
  return ranks;
}

}  // namespace msplora::testing
