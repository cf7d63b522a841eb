// Decoders against the same model written with plain operators, sequence by sequence.
#include "msplora/models/model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/full.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/where.h>
#include <gtest/gtest.h>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "models/small_config.h"
#include "msplora/adapters/adapter.h"
#include "msplora/adapters/planning.h"
#include "msplora/core/error.h"
#include "msplora/nn/functional.h"
#include "msplora/tasks/target.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

ModelConfig decoder_config(const std::string& model_type, const nlohmann::json& changes = {}) {
  nlohmann::json keys = {{"vocab_size", 70},          {"hidden_size", 48},
                         {"num_hidden_layers", 2},    {"num_attention_heads", 4},
                         {"intermediate_size", 72},   {"max_position_embeddings", 64},
                         {"initializer_range", 0.15}, {"tie_word_embeddings", false},
                         {"rms_norm_eps", 1e-6},      {"rope_theta", 10000.0}};
  if (!changes.is_null()) keys.update(changes);
  return model_test::small_config(model_type, keys);
}

/// What config.json can vary: biases, shared key heads, norms of heads, stretched angles, tied heads,
/// windows.
std::map<std::string, ModelConfig> variants() {
  const nlohmann::json llama3 = {{"rope_type", "llama3"},
                                 {"factor", 8.0},
                                 {"low_freq_factor", 1.0},
                                 {"high_freq_factor", 4.0},
                                 {"original_max_position_embeddings", 64}};
  const nlohmann::json linear = {{"rope_type", "linear"}, {"factor", 2.0}};
  const nlohmann::json wide = {{"num_key_value_heads", 2}, {"head_dim", 16}};  // wider than hidden / heads
  std::map<std::string, ModelConfig> all;
  all["llama"] = decoder_config("llama");
  all["llama_with_biases"] = decoder_config("llama", {{"attention_bias", true}, {"mlp_bias", true}});
  all["llama3"] =
      decoder_config("llama", {{"num_key_value_heads", 2}, {"rope_theta", 500.0}, {"rope_scaling", llama3}});
  all["linear"] = decoder_config("llama", {{"rope_scaling", linear}});
  all["llama_gelu"] = decoder_config("llama", {{"hidden_act", "gelu"}});
  const nlohmann::json no_window = {{"num_key_value_heads", 1}, {"sliding_window", nullptr}};
  all["mistral"] = decoder_config("mistral", no_window);
  all["mistral_sliding"] = decoder_config("mistral", {{"num_key_value_heads", 1}, {"sliding_window", 6}});
  all["qwen2_tied"] = decoder_config("qwen2", {{"num_key_value_heads", 2}, {"tie_word_embeddings", true}});
  all["qwen3"] = decoder_config("qwen3", wide);
  all["qwen2_sliding"] = model_test::with_keys(
      all["qwen2_tied"], {{"use_sliding_window", true}, {"sliding_window", 7}, {"max_window_layers", 1}});
  all["qwen3_sliding"] =
      model_test::with_keys(all["qwen3"], {{"use_sliding_window", true},
                                           {"sliding_window", 1},
                                           {"layer_types", {"sliding_attention", "full_attention"}}});
  return all;
}

class Reference {
 public:
  Reference(Model& model) : architecture_(model.architecture()), keys_(model.config().raw) {
    for (const Parameter& parameter : model.parameters()) tensors_[parameter.name] = parameter.values();
  }

  at::Tensor logits(const PackedInput& input) const {
    std::vector<at::Tensor> parts;
    for (int64_t b = 0; b < input.sequences(); ++b)
      parts.push_back(sequence(input.input_ids.slice(0, input.cu_seqlens[b], input.cu_seqlens[b + 1])));
    return at::cat(parts);
  }

 private:
  at::Tensor at(const std::string& name) const { return tensors_.at(name).to(at::kDouble); }
  at::Tensor project(const at::Tensor& x, const std::string& path) const {
    const bool has_bias = tensors_.count(path + ".bias") > 0;
    return at::linear(x, at(path + ".weight"), has_bias ? at(path + ".bias") : at::Tensor());
  }
  at::Tensor norm(const at::Tensor& x, const std::string& path) const {
    return x / (x.square().mean(-1, true) + number("rms_norm_eps")).sqrt() * at(path + ".weight");
  }

  double number(const char* key) const { return keys_.at(key).get<double>(); }
  int64_t head_dim() const { return keys_.at("head_dim").get<int64_t>(); }

  double frequency(int64_t i) const {
    const double f = std::pow(number("rope_theta"), -2.0 * static_cast<double>(i) / number("head_dim"));
    if (!keys_.contains("rope_scaling")) return f;
    const nlohmann::json& scaling = keys_["rope_scaling"];
    const double factor = scaling["factor"];
    if (scaling["rope_type"] == "linear") return f / factor;
    const double low = scaling["low_freq_factor"], high = scaling["high_freq_factor"];
    const double wavelength = 2 * M_PI / f, original = scaling["original_max_position_embeddings"];
    if (wavelength < original / high) return f;
    if (wavelength > original / low) return f / factor;
    const double smooth = (original / wavelength - low) / (high - low);
    return (1 - smooth) * f / factor + smooth * f;
  }

  // [S, heads, head_dim], turned: x cos + rotate_half(x) sin.
  at::Tensor turned(const at::Tensor& x) const {
    const int64_t half = head_dim() / 2, length = x.size(0);
    at::Tensor angles = at::zeros({length, 1, 2 * half}, at::kDouble);
    for (int64_t i = 0; i < half; ++i) {
      for (int64_t position = 0; position < length; ++position) {
        angles[position][0][i] = static_cast<double>(position) * frequency(i);
        angles[position][0][half + i] = static_cast<double>(position) * frequency(i);
      }
    }
    const at::Tensor rotated = at::cat({-x.slice(2, half), x.slice(2, 0, half)}, 2);
    return x * angles.cos() + rotated * angles.sin();
  }

  at::Tensor attention(const at::Tensor& x, const std::string& path, int64_t window) const {
    const int64_t length = x.size(0), dim = head_dim(), kv = architecture_.kv_heads();
    at::Tensor q = project(x, path + ".q_proj").view({length, -1, dim});
    at::Tensor k = project(x, path + ".k_proj").view({length, kv, dim});
    const at::Tensor v = project(x, path + ".v_proj").view({length, kv, dim});
    if (tensors_.count(path + ".q_norm.weight") > 0) {
      q = norm(q, path + ".q_norm");
      k = norm(k, path + ".k_norm");
    }
    const int64_t group = architecture_.heads() / kv;
    const auto heads_first = [](const at::Tensor& t) { return t.transpose(0, 1); };
    const at::Tensor keys = heads_first(turned(k).repeat_interleave(group, 1)),
                     values = heads_first(v.repeat_interleave(group, 1));
    at::Tensor scores =
        at::matmul(heads_first(turned(q)), keys.transpose(1, 2)) / std::sqrt(static_cast<double>(dim));
    const at::Tensor order = at::arange(length), back = order.unsqueeze(1) - order.unsqueeze(0);
    const at::Tensor hidden = back.lt(0).logical_or(back.ge(window > 0 ? window : length));
    scores = at::where(hidden, at::full({}, -INFINITY, at::kDouble), scores);
    const at::Tensor mixed = heads_first(at::matmul(scores.softmax(-1), values)).reshape({length, -1});
    return project(mixed, path + ".o_proj");
  }

  at::Tensor sequence(const at::Tensor& ids) const {
    at::Tensor x = at::embedding(at("model.embed_tokens.weight"), ids);
    for (int64_t i = 0; i < architecture_.num_layers(); ++i) {
      const int64_t window = architecture_.blocks[static_cast<size_t>(i)].attention.shape.window_left + 1;
      const std::string path = "model.layers." + std::to_string(i);
      x = x + attention(norm(x, path + ".input_layernorm"), path + ".self_attn", window);
      const at::Tensor h = norm(x, path + ".post_attention_layernorm");
      const at::Tensor gate = project(h, path + ".mlp.gate_proj");
      const at::Tensor opened = keys_.value("hidden_act", "silu") == "silu" ? at::silu(gate) : at::gelu(gate);
      x = x + project(opened * project(h, path + ".mlp.up_proj"), path + ".mlp.down_proj");
    }
    const std::string head = keys_["tie_word_embeddings"] == true ? "model.embed_tokens" : "lm_head";
    return at::linear(norm(x, "model.norm"), at(head + ".weight"));
  }

  Architecture architecture_;
  nlohmann::json keys_;
  std::map<std::string, at::Tensor> tensors_;
};

PackedInput tokens_of(const std::vector<int32_t>& lengths) {
  PackedInput input;
  input.cu_seqlens = {0};
  for (const int32_t length : lengths) input.cu_seqlens.push_back(input.cu_seqlens.back() + length);
  input.input_ids = (at::arange(input.tokens(), at::kLong) * 11 + 3).remainder(70);
  return input;
}

double far(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  return ((x - y).abs().max() / y.abs().max().clamp_min(1e-12)).item<double>();
}

class Decoders : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Model> make(at::ScalarType dtype, ModelTask task = ModelTask::kCausalLm,
                              bool trains_all = false) const {
    ModelLoadOptions options;
    options.task = task;
    options.compute_dtype = dtype;
    options.keep_float32 = trains_all && dtype != at::kDouble;
    options.seed = 4;
    std::unique_ptr<Model> model = create_model(variants().at(GetParam()), options);
    // Fresh norms and biases are ones and zeros, behind which errors would hide.
    for (const Parameter& parameter : model->parameters()) {
      at::Tensor tensor = parameter.values();
      if (tensor.dim() == 1) tensor.add_(at::arange(tensor.numel(), tensor.options()).sin() * 0.2);
    }
    return model;
  }
};

TEST_P(Decoders, LogitsLossAndEveryGradientMatchPlainOperators) {
  const auto model = make(at::kDouble);
  for (const Parameter& parameter : model->parameters()) parameter.values().set_requires_grad(true);
  const Reference reference(*model);
  PackedInput input = tokens_of({5, 1, 33, 12});
  const at::Tensor expected = reference.logits(input);
  EXPECT_LT(far(model->forward(input, {}), expected), 1e-12);

  input.output_rows = at::arange(0, input.tokens(), 3);
  const at::Tensor labels = (input.output_rows * 5).remainder(70);
  const at::Tensor wanted = cross_entropy_sum(expected.index_select(0, input.output_rows), labels);
  wanted.backward();
  std::map<std::string, at::Tensor> gradients;
  for (const Parameter& parameter : model->parameters()) {
    gradients[parameter.name] = parameter.values().grad().clone();
    parameter.values().mutable_grad().reset();
  }
  const at::Tensor loss = model->loss_sum(input, labels, {});
  EXPECT_LT(far(loss, wanted), 1e-12);
  loss.backward();
  for (const Parameter& parameter : model->parameters()) {
    ASSERT_TRUE(parameter.values().grad().defined()) << parameter.name;
    EXPECT_LT(far(parameter.values().grad(), gradients[parameter.name]), 1e-11) << parameter.name;
  }
}

// Frozen weights take packed, joint and blocked products; float64 takes none of them.
TEST_P(Decoders, FrozenProductsGiveTheSameAdapterGradients) {
  const auto gradients = [&](at::ScalarType dtype, const std::vector<std::string>& modules) {
    const auto model = make(dtype);
    AdapterConfig config;
    config.rank = 4;
    config.levels = 2;
    config.target_modules = modules;
    const auto adapter = create_adapter(config, target_of(*model), 7);
    std::map<std::string, at::Tensor> result;
    for (const TrainableTensor& trainable : adapter->trainable()) {
      at::Tensor values = trainable.tensor.detach();
      values.add_(0.02);
    }
    PackedInput input = tokens_of({40, 7, 33});
    input.output_rows = at::arange(1, input.tokens(), 2);
    const at::Tensor loss =
        model->loss_sum(input, (input.output_rows * 5).remainder(70), {}) / input.output_rows.numel();
    result["loss"] = loss.detach();
    loss.backward();
    for (const TrainableTensor& trainable : adapter->trainable())
      result[trainable.name] = trainable.tensor.grad().clone();
    return result;
  };
  for (const std::vector<std::string>& modules :
       {std::vector<std::string>{"q_proj", "v_proj"}, {"gate_proj"}, {"all-linear"}}) {
    const auto exact = gradients(at::kDouble, modules);
    for (const auto& [dtype, tolerance] : {std::pair{at::kFloat, 2e-4}, {at::kBFloat16, 0.12}}) {
      const auto got = gradients(dtype, modules);
      ASSERT_EQ(got.size(), exact.size());
      for (const auto& [name, value] : exact) EXPECT_LT(far(got.at(name), value), tolerance) << name;
    }
  }
}

TEST_P(Decoders, AdaptersTakeQueriesAndValuesUnlessTold) {
  const auto model = make(at::kFloat);
  const AdapterTarget target = target_of(*model);
  const auto adapter = create_adapter(AdapterConfig(), target, 7);
  EXPECT_EQ(adapter->config().target_modules, (std::vector<std::string>{"q_proj", "v_proj"}));
  EXPECT_EQ(adapter->sites().size(), 4u);  // of two layers
  AdapterConfig given;
  given.target_modules = {"query"};  // taken as written
  EXPECT_THROW(create_adapter(given, target, 7), Error);
  given.target_modules = {"o_proj"};
  EXPECT_EQ(with_default_targets(given, "llama").target_modules, given.target_modules);
  given.target_modules.clear();
  given.target_modules_regex = ".*";
  EXPECT_TRUE(with_default_targets(given, "llama").target_modules.empty());
}

TEST_P(Decoders, AClassifierReadsTheLastTokenOfWholeLayers) {
  const auto model = make(at::kDouble, ModelTask::kSequenceClassification);
  const PackedInput input = tokens_of({5, 1, 33, 12});
  ForwardContext whole;  // observers make the last block compute all rows
  int64_t layers = 0;
  whole.observe_hidden = [&](int64_t, const at::Tensor& hidden) { layers += hidden.size(0) == 51; };
  const at::Tensor expected = model->forward(input, whole);
  EXPECT_EQ(layers, 3);
  EXPECT_LT(far(model->forward(input, {}), expected), 1e-12);
  EXPECT_EQ(expected.sizes(), (at::IntArrayRef{4, 2}));
}

// The head of a causal model is never asked for rows without a label, and one of a tied model is stored once.
TEST_P(Decoders, ParametersAreThoseOfHuggingFace) {
  const auto model = make(at::kFloat);
  std::vector<std::string> names;
  for (const Parameter& parameter : model->parameters()) names.push_back(parameter.name);
  const bool is_tied = model->architecture().head.is_tied;
  EXPECT_EQ(std::count(names.begin(), names.end(), "lm_head.weight"), is_tied ? 0 : 1);
  EXPECT_EQ(std::count(names.begin(), names.end(), "model.layers.1.mlp.down_proj.weight"), 1);
  const std::vector<Site> shapes = sites_of_shape(model->config(), ModelTask::kCausalLm);
  const std::vector<Site> sites = model->sites();
  ASSERT_EQ(sites.size(), shapes.size());
  for (size_t i = 0; i < sites.size(); ++i) {
    EXPECT_EQ(sites[i].path, shapes[i].path);
    EXPECT_EQ(sites[i].linear->bias.defined(), shapes[i].has_bias) << sites[i].path;
  }
}

TEST_P(Decoders, SavedAndLoadedModelsAreTheSame) {
  const TemporaryDirectory directory;
  const auto model = make(at::kFloat);
  save_model(*model, directory.path(), at::kFloat);
  ModelLoadOptions options;
  options.task = ModelTask::kCausalLm;
  const auto loaded = load_model(directory.path(), options);
  const PackedInput input = tokens_of({9, 4});
  EXPECT_TRUE(at::equal(loaded->forward(input, {}), model->forward(input, {})));
}

std::vector<std::string> variant_names() {
  std::vector<std::string> names;
  for (const auto& [name, config] : variants()) names.push_back(name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Variants, Decoders, ::testing::ValuesIn(variant_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace msplora
