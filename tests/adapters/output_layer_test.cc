// Adapters on the output layer of language models, tied to the table of words or not.
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "adapters/file_helpers.h"
#include "error_text.h"
#include "models/small_config.h"
#include "msplora/adapters/merge.h"
#include "msplora/adapters/planning.h"
#include "msplora/models/model.h"
#include "msplora/nn/functional.h"
#include "msplora/tasks/target.h"
#include "nn/drawn_tensors.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using ::testing::AllOf;
using testing::config_of;
using ::testing::Contains;
using ::testing::HasSubstr;
using testing::normals;
using testing::relative_difference;

struct OutputCase {
  std::string name, model_type;
  bool is_tied = true;
};
void PrintTo(const OutputCase& decoder, std::ostream* out) {
  *out << decoder.name;
}

std::unique_ptr<Model> small_model(const std::string& model_type, bool is_tied, ModelTask task,
                                   at::ScalarType dtype = at::kFloat) {
  ModelLoadOptions options;
  options.task = task;
  options.seed = 5;
  options.compute_dtype = dtype;
  return create_model(model_test::small_config(model_type, {{"vocab_size", 72},
                                                            {"hidden_size", 64},
                                                            {"num_hidden_layers", 2},
                                                            {"num_attention_heads", 2},
                                                            {"intermediate_size", 96},
                                                            {"max_position_embeddings", 48},
                                                            {"initializer_range", 0.2},
                                                            {"final_logit_softcapping", 4.0},
                                                            {"tie_word_embeddings", is_tied}}),
                      options);
}

PackedInput tokens() {
  PackedInput input;
  input.cu_seqlens = {0, 9, 12, 30};
  input.input_ids = (at::arange(30, at::kLong) * 11).remainder(70);
  return input;
}

AdapterConfig with_output(const Model& model) {
  AdapterConfig config = config_of("lora");
  config.rank = 4;
  config.target_modules = default_target_modules(model.config().model_type);
  config.target_modules.push_back("lm_head");
  return config;
}

/// No factor stays zero.
void randomise(const Adapter& adapter) {
  const c10::NoGradGuard no_grad;
  for (const TrainableTensor& entry : adapter.trainable())
    at::Tensor(entry.tensor).add_(normals(entry.tensor.sizes(), entry.name) * 0.1);
}

at::Tensor output_logits(Model& model) {
  return sample_logits(model, {tokens()}).front();
}

class OutputLayer : public ::testing::TestWithParam<OutputCase> {
 protected:
  std::unique_ptr<Model> make(at::ScalarType dtype = at::kFloat) const {
    return small_model(GetParam().model_type, GetParam().is_tied, ModelTask::kCausalLm, dtype);
  }
  std::unique_ptr<Adapter> adapt(Model& model) const {
    auto adapter = create_adapter(with_output(model), target_of(model, "base"), 1);
    randomise(*adapter);
    return adapter;
  }
};

TEST_P(OutputLayer, IsASiteThatOnlyItsNameTargets) {
  const auto model = make();
  const std::vector<Site> sites = model->sites();
  const Site& site = sites.back();
  EXPECT_EQ(site.path, "lm_head");
  EXPECT_EQ(site.role, LinearRole::kOutput);
  EXPECT_EQ(site.layer, -1);
  EXPECT_EQ(std::pair(site.out_features, site.in_features), std::pair(int64_t{72}, int64_t{64}));
  EXPECT_EQ(std::count_if(sites.begin(), sites.end(), [](const Site& s) { return s.path == "lm_head"; }), 1);
  const std::vector<Site> shapes = sites_of_shape(model->config(), ModelTask::kCausalLm);
  ASSERT_EQ(shapes.size(), sites.size());
  EXPECT_EQ(shapes.back().path, site.path);
  EXPECT_EQ(shapes.back().has_bias, site.has_bias);

  const auto takes_it = [&](const std::vector<std::string>& targets, std::vector<int64_t> layers = {}) {
    AdapterConfig config = config_of("lora");
    config.rank = 4;
    config.target_modules = targets;
    config.layers_to_transform = std::move(layers);
    const auto adapter = create_adapter(config, target_of(*model), 1);
    return adapter->sites().back().path == "lm_head";
  };
  EXPECT_FALSE(takes_it({"all-linear"}));
  EXPECT_FALSE(takes_it({}));
  EXPECT_TRUE(takes_it({"lm_head"}));
  // A full path is not filtered by layers, as in PEFT.
  EXPECT_TRUE(takes_it(with_output(*model).target_modules, {1}));
}

// The loss goes chunk by chunk through the layer, logits at once.
TEST_P(OutputLayer, LossAndGradientsAreThoseOfDenseLogits) {
  const auto model = make(at::kDouble);
  const auto adapter = adapt(*model);
  const PackedInput input = tokens();
  at::Tensor labels = (at::arange(30, at::kLong) * 5).remainder(72);
  labels.slice(0, 3, 7).fill_(-100);
  const auto gradients = [&](const at::Tensor& loss) {
    loss.backward();
    std::vector<at::Tensor> taken;
    for (const TrainableTensor& entry : adapter->trainable()) {
      taken.push_back(entry.tensor.grad().clone());
      entry.tensor.mutable_grad().reset();
    }
    return taken;
  };
  const at::Tensor expected = cross_entropy_sum(model->forward(input, {}), labels);
  const std::vector<at::Tensor> dense = gradients(expected);
  const at::Tensor loss = model->loss_sum(input, labels, {});
  EXPECT_NEAR(loss.item<double>(), expected.item<double>(), 1e-12 * expected.item<double>());
  const std::vector<at::Tensor> chunked = gradients(loss);
  for (size_t i = 0; i < dense.size(); ++i)
    EXPECT_LT(relative_difference(chunked[i], dense[i]), 1e-11) << adapter->trainable()[i].name;
}

TEST_P(OutputLayer, GenerationSeesTheUpdate) {
  const auto model = make();
  const at::Tensor plain = output_logits(*model);
  const auto adapter = adapt(*model);
  const at::Tensor adapted = output_logits(*model);
  EXPECT_GT(relative_difference(adapted, plain), 0.01);
  KeyValueCache cache(model->architecture(), model->compute_dtype());
  const auto sequence = cache.start();
  std::vector<at::Tensor> steps;
  for (const auto& [begin, end] : {std::pair{0, 7}, {7, 8}, {8, 9}}) {
    PackedInput part;
    part.cu_seqlens = {0, end - begin};
    part.input_ids = tokens().input_ids.slice(0, begin, end);
    EXPECT_LT(
        relative_difference(model->decode(part, cache, std::vector{sequence}), adapted.slice(0, begin, end)),
        1e-5);
  }
}

TEST_P(OutputLayer, MergingGivesItAMatrixOfItsOwn) {
  const TemporaryDirectory directory;
  const auto model = make();
  const at::Tensor words = model->parameters().front().values().clone();
  const auto adapter = adapt(*model);
  const at::Tensor adapted = output_logits(*model);
  merge_adapter(*adapter, at::kFloat);
  EXPECT_LT(relative_difference(output_logits(*model), adapted), 1e-5);
  EXPECT_TRUE(at::equal(model->parameters().front().values(), words));
  EXPECT_FALSE(model->architecture().head.is_tied);
  save_model(*model, directory.path(), at::kFloat);
  EXPECT_EQ(testing::read_json(directory.path() / "config.json")["tie_word_embeddings"], false);
  const auto file = SafetensorsFile::open(directory.path() / "model.safetensors");
  EXPECT_TRUE(file->tensors().count("lm_head.weight"));
  EXPECT_TRUE(at::equal(file->tensor(model->parameters().front().name), words));
  ModelLoadOptions options;
  options.task = ModelTask::kCausalLm;
  EXPECT_TRUE(at::equal(output_logits(*load_model(directory.path(), options)), output_logits(*model)));
}

TEST_P(OutputLayer, AdaptersWithoutItLeaveTheTieAlone) {
  const auto model = make();
  AdapterConfig config = with_output(*model);
  config.target_modules.pop_back();
  const auto adapter = create_adapter(config, target_of(*model), 1);
  merge_adapter(*adapter, at::kFloat);
  EXPECT_EQ(model->architecture().head.is_tied, GetParam().is_tied);
}

TEST_P(OutputLayer, FilesOfEveryFormBringItBack) {
  const TemporaryDirectory directory;
  const auto model = make();
  at::Tensor adapted;
  {
    const auto adapter = adapt(*model);
    adapted = output_logits(*model);
    save_native_adapter(*adapter, directory.path() / "native");
    save_peft_adapter(*adapter, directory.path() / "peft");
  }
  const auto file = SafetensorsFile::open(directory.path() / "peft/adapter_model.safetensors");
  EXPECT_EQ(file->tensor("base_model.model.lm_head.lora_A.weight").sizes(), (at::IntArrayRef{4, 64}));
  EXPECT_EQ(file->tensor("base_model.model.lm_head.lora_B.weight").sizes(), (at::IntArrayRef{72, 4}));
  EXPECT_THAT(testing::read_json(directory.path() / "peft/adapter_config.json")["target_modules"],
              Contains("lm_head"));
  for (const char* form : {"native", "peft"}) {
    const auto loaded = load_adapter(directory.path() / form, target_of(*model));
    EXPECT_TRUE(at::equal(output_logits(*model), adapted)) << form;
  }
}

// PEFT writes the base's matrix beside the factors of an output layer.
TEST_P(OutputLayer, PeftsCopyOfTheBaseMustBeThatOfThisBase) {
  const TemporaryDirectory directory;
  const auto model = make();
  at::Tensor adapted, matrix;
  {
    const auto adapter = adapt(*model);
    adapted = output_logits(*model);
    save_peft_adapter(*adapter, directory.path());
    matrix = adapter->sites().back().linear->weight->values().clone();
  }
  const auto tensors = directory.path() / "adapter_model.safetensors";
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    testing::rewrite(
        tensors, [&](auto& all) { all["base_model.model.lm_head.base_layer.weight"] = matrix.to(dtype); });
    const auto loaded = load_adapter(directory.path(), target_of(*model));
    EXPECT_TRUE(at::equal(output_logits(*model), adapted));
  }
  testing::rewrite(tensors,
                   [&](auto& all) { all["base_model.model.lm_head.base_layer.weight"] = matrix + 0.5; });
  EXPECT_THAT(error_text([&] { load_adapter(directory.path(), target_of(*model)); }),
              HasSubstr("lm_head.base_layer.weight has other values than"));
}

TEST_P(OutputLayer, SavedWholeWhereItHasAMatrixOfItsOwn) {
  const auto model = make();
  AdapterConfig config = with_output(*model);
  config.target_modules.pop_back();
  config.modules_to_save = {"lm_head"};
  if (GetParam().is_tied) {
    const std::string words = model->architecture().embeddings.words;
    EXPECT_THAT(error_text([&] { create_adapter(config, target_of(*model), 1); }),
                AllOf(HasSubstr("adapter.modules_to_save: `lm_head` has no matrix of its own"),
                      HasSubstr("`" + words + "` trains it for both")));
    config = with_output(*model);
    config.modules_to_save = {words};
    EXPECT_THAT(error_text([&] { create_adapter(config, target_of(*model), 1); }),
                HasSubstr("lm_head shares its matrix with"));
    return;
  }
  const TemporaryDirectory directory;
  at::Tensor trained;
  {
    const auto adapter = create_adapter(config, target_of(*model), 1);
    ASSERT_EQ(adapter->trainable().back().name, "lm_head.weight");
    at::Tensor labels = (at::arange(30, at::kLong) * 5).remainder(72);
    model->loss_sum(tokens(), labels, {}).backward();
    EXPECT_GT(adapter->trainable().back().tensor.grad().abs().max().item<double>(), 0.0);
    randomise(*adapter);
    trained = output_logits(*model);
    save_peft_adapter(*adapter, directory.path());
  }
  const auto other = make();
  const auto loaded = load_adapter(directory.path(), target_of(*other));
  EXPECT_TRUE(at::equal(output_logits(*other), trained));
}

// Every method adapts it, so that its loss is that of its logits, or says that it cannot.
TEST_P(OutputLayer, EveryMethodTakesItOrNamesIt) {
  std::vector<std::string> refused;
  for (const MethodInfo& method : adapter_methods()) {
    if (method.name == "none" || method.name == "full" || method.name == "bitfit") continue;  // no modules
    SCOPED_TRACE(method.name);
    const auto model = make(at::kDouble);
    AdapterConfig config = config_for_method(with_output(*model), method.name);
    if (method.name == "gelora") config.rank = AdapterConfig().rank;
    for (const char* without : {"gelora", "glora", "vera"})
      if (method.name == without) config.alpha = AdapterConfig().alpha;
    config = settled_without_data(std::move(config), 2);
    std::unique_ptr<Adapter> adapter;
    const std::string problem = error_text([&] { adapter = create_adapter(config, target_of(*model), 1); });
    if (adapter == nullptr) {
      EXPECT_THAT(problem, HasSubstr("lm_head"));
      refused.push_back(method.name);
      continue;
    }
    randomise(*adapter);
    const std::set<std::string> resting = adapter->begin_step({0, 4}).frozen;
    const at::Tensor labels = (at::arange(30, at::kLong) * 5).remainder(72);
    const double expected = cross_entropy_sum(model->forward(tokens(), {}), labels).item<double>();
    const at::Tensor loss = model->loss_sum(tokens(), labels, {});
    EXPECT_NEAR(loss.item<double>(), expected, 1e-10 * expected);
    loss.backward();
    for (const TrainableTensor& entry : adapter->trainable()) {
      if (!entry.name.starts_with("lm_head") || resting.contains(entry.name)) continue;
      EXPECT_TRUE(entry.tensor.grad().defined()) << entry.name;
    }
    const c10::NoGradGuard no_grad;
    const at::Tensor adapted = output_logits(*model);
    if (method.name == "glora") continue;  // gives it a bias, for which there is no place
    merge_adapter(*adapter, at::kDouble);
    EXPECT_LT(relative_difference(output_logits(*model), adapted), 1e-10);
  }
  EXPECT_THAT(refused, ::testing::UnorderedElementsAre("gelora", "lorta"));
}

INSTANTIATE_TEST_SUITE_P(Decoders, OutputLayer,
                         ::testing::Values(OutputCase{"llama_tied", "llama"},
                                           OutputCase{"llama", "llama", false},
                                           OutputCase{"gemma2", "gemma2"}, OutputCase{"gpt2", "gpt2"},
                                           OutputCase{"phi3", "phi3", false}),
                         [](const auto& info) { return info.param.name; });

// llama.cpp has no output layer in files of tied models, unless the family's always hold one.
TEST(OutputLayerInGguf, IsWrittenWhereModelsHaveIt) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "adapter.gguf";
  for (const auto& [model_type, is_tied] :
       {std::pair{"llama", false}, {"llama", true}, {"olmo2", true}, {"gemma2", true}}) {
    SCOPED_TRACE(model_type);
    const auto model = small_model(model_type, is_tied, ModelTask::kCausalLm);
    at::Tensor adapted;
    std::string problem;
    {
      const auto adapter = create_adapter(with_output(*model), target_of(*model), 1);
      randomise(*adapter);
      adapted = output_logits(*model);
      problem = error_text([&] { save_gguf_adapter(*adapter, GgufType::kF32, path); });
    }
    const bool is_refused = is_tied && std::string(model_type) != "olmo2";
    if (is_refused) {
      EXPECT_THAT(problem, HasSubstr("an update of lm_head, which is the table of words"));
      continue;
    }
    const auto loaded = load_adapter(path, target_of(*model));
    EXPECT_LT(relative_difference(output_logits(*model), adapted), 1e-5);
  }
}

// Heads of masked language models whose other parts are trained whole hold their output layer.
TEST(OutputLayerOfEncoders, IsAdaptedWhereItStandsAlone) {
  const auto labels = (at::arange(30, at::kLong) * 5).remainder(72);
  for (const auto& [model_type, path] : {std::pair{"electra", "generator_lm_head"},
                                         {"distilbert", "vocab_projector"},
                                         {"modernbert", "decoder"}}) {
    SCOPED_TRACE(model_type);
    const auto model = small_model(model_type, true, ModelTask::kMaskedLm, at::kDouble);
    AdapterConfig config = config_of("lora");
    config.rank = 4;
    config.target_modules = {path};
    config.bias = "lora_only";
    const auto adapter = create_adapter(config, target_of(*model), 1);
    randomise(*adapter);
    const double expected = cross_entropy_sum(model->forward(tokens(), {}), labels).item<double>();
    EXPECT_NEAR(model->loss_sum(tokens(), labels, {}).item<double>(), expected, 1e-12 * expected);
    EXPECT_EQ(
        adapter->trainable_count(ParameterGroup::kBias) + adapter->trainable_count(ParameterGroup::kHead) > 0,
        true);
    EXPECT_THAT(error_text([&] { merge_adapter(*adapter, at::kDouble); }),
                HasSubstr("is the table of words in every model of type"));
    EXPECT_TRUE(adapter->attached());
  }
  const auto model = small_model("bert", true, ModelTask::kMaskedLm);
  AdapterConfig config = config_of("lora");
  config.target_modules = {"decoder"};
  EXPECT_THAT(error_text([&] { create_adapter(config, target_of(*model), 1); }),
              HasSubstr("cls.predictions.decoder is part of a head, which is trained whole"));
}

}  // namespace
}  // namespace msplora
