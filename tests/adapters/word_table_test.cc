// Low-rank adapters on the table of words.
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/tanh.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adapters/file_helpers.h"
#include "error_text.h"
#include "models/small_config.h"
#include "msplora/adapters/merge.h"
#include "msplora/adapters/planning.h"
#include "msplora/gguf/file.h"
#include "msplora/models/model.h"
#include "msplora/tasks/target.h"
#include "nn/drawn_tensors.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kVocabulary = 72;

struct WordCase {
  std::string name, model_type;
  ModelTask task = ModelTask::kCausalLm;
  bool is_tied = true;
};
void PrintTo(const WordCase& c, std::ostream* out) {
  *out << c.name;
}

PackedInput word_tokens() {
  PackedInput input;
  input.cu_seqlens = {0, 9, 12, 30};
  input.input_ids = (at::arange(30, at::kLong) * 11).remainder(60) + 2;
  return input;
}

at::Tensor word_logits(Model& model) {
  return sample_logits(model, {word_tokens()}).front();
}

void move_factors(const Adapter& adapter) {
  const c10::NoGradGuard no_grad;
  for (const TrainableTensor& entry : adapter.trainable())
    at::Tensor(entry.tensor).add_(testing::normals(entry.tensor.sizes(), entry.name) * 0.1);
}

class WordTable : public ::testing::TestWithParam<WordCase> {
 protected:
  std::unique_ptr<Model> make(at::ScalarType dtype = at::kFloat) const {
    ModelLoadOptions options;
    options.task = GetParam().task;
    options.num_labels = 3;
    options.seed = 5;
    options.compute_dtype = dtype;
    return create_model(
        model_test::small_config(GetParam().model_type, {{"vocab_size", kVocabulary},
                                                         {"hidden_size", 64},
                                                         {"embedding_size", 32},
                                                         {"num_hidden_layers", 2},
                                                         {"num_attention_heads", 2},
                                                         {"intermediate_size", 96},
                                                         {"max_position_embeddings", 48},
                                                         {"initializer_range", 0.2},
                                                         {"embd_pdrop", 0.0},
                                                         {"tie_word_embeddings", GetParam().is_tied}}),
        options);
  }
  static AdapterConfig config(const Model& model) {
    AdapterConfig config = testing::config_of("lora");
    config.rank = 4;
    config.target_modules = default_target_modules(model.config().model_type);
    config.target_modules.push_back(model.architecture().embeddings.words);
    return config;
  }
  static std::unique_ptr<Adapter> adapt(Model& model, const AdapterConfig& config) {
    auto adapter = create_adapter(config, target_of(model, "base"), 1);
    move_factors(*adapter);
    return adapter;
  }
  static std::string path(const Model& model) {
    const EmbeddingSpec& e = model.architecture().embeddings;
    return e.path + "." + e.words;
  }
};

TEST_P(WordTable, BeginsAsPeftsDoes) {
  const auto model = make();
  const at::Tensor before = word_logits(*model);
  const auto adapter = create_adapter(config(*model), target_of(*model), 1);
  // A classifier's head is trained from now on, by other products.
  EXPECT_LT(testing::relative_difference(word_logits(*model), before), 1e-6);
  const Site& site = adapter->sites().front();
  EXPECT_EQ(site.path, path(*model));
  EXPECT_EQ(site.role, LinearRole::kWords);
  const LowRankTerm term = adapter->terms(0).front();
  const int64_t width = model->architecture().embeddings.width;
  EXPECT_EQ(term.down.sizes(), (at::IntArrayRef{4, kVocabulary}));
  EXPECT_EQ(term.up.sizes(), (at::IntArrayRef{width, 4}));
  EXPECT_EQ(term.down.abs().max().item<double>(), 0.0);
  const double count = static_cast<double>(term.up.numel());
  EXPECT_NEAR(term.up.mean().item<double>(), 0.0, 5 / std::sqrt(count));
  EXPECT_NEAR(term.up.std().item<double>(), 1.0, 5 / std::sqrt(2 * count));
  AdapterConfig all = config(*model);
  all.target_modules = {"all-linear"};
  const ParameterCount counted = count_parameters(config(*model), model->sites(), 2, model->head_modules());
  EXPECT_EQ(counted.total, adapter->trainable_count(ParameterGroup::kAdapter));
  const auto other = make();
  for (const Site& taken : create_adapter(all, target_of(*other), 1)->sites())
    EXPECT_NE(taken.role, LinearRole::kWords);
}

// The adapted table is E + s (B A)ᵀ, and everything above is as it was.
TEST_P(WordTable, IsTheTableWithTheProductOfTheFactorsAdded) {
  const auto model = make();
  AdapterConfig words = config(*model);
  words.target_modules = {model->architecture().embeddings.words};
  const auto adapter = adapt(*model, words);
  const at::Tensor adapted = word_logits(*model);
  const LowRankTerm term = adapter->terms(0).front();
  const at::Tensor change = at::mm(term.up, term.down).t() * (12.0 / 4.0);
  EXPECT_LT(testing::relative_difference(adapter->change_of(0).weight, change), 1e-6);
  std::map<std::string, at::Tensor> head;  // goes with the adapter
  for (const TrainableTensor& one : adapter->trainable())
    if (one.group != ParameterGroup::kAdapter) head[one.name] = one.tensor.detach().clone();
  adapter->detach();
  const at::Tensor plain = word_logits(*model);
  EXPECT_GT(testing::relative_difference(adapted, plain), 0.01);
  const c10::NoGradGuard no_grad;
  for (const Parameter& parameter : model->parameters())
    if (head.contains(parameter.name)) parameter.values().copy_(head.at(parameter.name));
  if (GetParam().task == ModelTask::kCausalLm) model->untie();
  model->sites().front().linear->weight->set(model->sites().front().linear->weight->values() + change);
  EXPECT_LT(testing::relative_difference(word_logits(*model), adapted), 1e-5);
}

TEST_P(WordTable, GradientsAreThoseOfFiniteDifferences) {
  const auto model = make(at::kDouble);
  const auto adapter = adapt(*model, config(*model));
  const auto loss = [&] {
    const at::Tensor logits = model->forward(word_tokens(), {});
    const at::Tensor weights = at::arange(logits.numel(), logits.options()).reshape(logits.sizes()).sin();
    return (at::tanh(logits) * weights).sum();
  };
  loss().backward();
  const c10::NoGradGuard no_grad;
  for (const TrainableTensor& entry : adapter->trainable()) {
    if (entry.group != ParameterGroup::kAdapter) continue;
    at::Tensor value = entry.tensor;
    const at::Tensor direction = testing::normals(value.sizes(), "direction") * 1e-6, kept = value.clone();
    value.add_(direction);
    const double above = loss().item<double>();
    value.copy_(kept).sub_(direction);
    const double below = loss().item<double>();
    value.copy_(kept);
    const double predicted = 2 * (entry.tensor.grad() * direction).sum().item<double>();
    EXPECT_NEAR(above - below, predicted, 1e-5 * std::abs(predicted) + 1e-9) << entry.name;
  }
}

TEST_P(WordTable, MergedItIsTheSameModel) {
  const TemporaryDirectory directory;
  for (const bool with_output : {false, true}) {
    if (with_output && GetParam().task != ModelTask::kCausalLm) continue;
    const auto model = make();
    AdapterConfig both = config(*model);
    if (with_output) both.target_modules.push_back("lm_head");
    const auto adapter = adapt(*model, both);
    const at::Tensor adapted = word_logits(*model);
    merge_adapter(*adapter, at::kFloat);
    EXPECT_LT(testing::relative_difference(word_logits(*model), adapted), 1e-5);
    EXPECT_FALSE(model->architecture().head.is_tied);
    save_model(*model, directory.path(), at::kFloat);
    ModelLoadOptions options;
    options.task = GetParam().task;
    EXPECT_LT(testing::relative_difference(word_logits(*load_model(directory.path(), options)),
                                           word_logits(*model)),
              1e-6);
  }
}

TEST_P(WordTable, FilesOfEveryFormBringItBack) {
  const TemporaryDirectory directory;
  const auto model = make();
  for (const char* method : {"lora", "msplora"}) {
    // llama.cpp takes an update of a table that is the output layer too for both.
    const bool has_gguf = GetParam().task == ModelTask::kCausalLm && !GetParam().is_tied;
    at::Tensor adapted, matrix;
    {
      AdapterConfig own = config(*model);
      own.method = method;
      const auto adapter = adapt(*model, own);
      adapted = word_logits(*model);
      matrix = adapter->sites().front().linear->weight->values().clone();
      save_native_adapter(*adapter, directory.path() / "native");
      save_peft_adapter(*adapter, directory.path() / "peft");
      if (GetParam().task == ModelTask::kCausalLm) {
        const auto save = [&] {
          save_gguf_adapter(*adapter, GgufType::kF32, directory.path() / "adapter.gguf");
        };
        if (has_gguf)
          save();
        else
          EXPECT_THAT(error_text(save), HasSubstr("which is the output layer too"));
      }
    }
    const auto tensors = directory.path() / "peft/adapter_model.safetensors";
    const int64_t rank = std::string(method) == "lora" ? 4 : 4 + 2 + 1;
    const std::string key = "base_model.model." + path(*model);
    {
      const auto file = SafetensorsFile::open(tensors);
      EXPECT_EQ(file->tensor(key + ".lora_embedding_A").sizes(), (at::IntArrayRef{rank, kVocabulary}));
      EXPECT_EQ(file->tensor(key + ".lora_embedding_B").size(1), rank);
    }
    // PEFT adds the base's table, and other versions the adapter's name.
    testing::rewrite(tensors, [&](auto& all) {
      all[key + ".base_layer.weight"] = matrix;
      auto factor = all.extract(key + ".lora_embedding_A");
      factor.key() += ".default";
      all.insert(std::move(factor));
    });
    std::vector<std::string> forms = {"native", "peft"};
    if (has_gguf) forms.push_back("adapter.gguf");
    for (const std::string& form : forms) {
      const auto loaded = load_adapter(directory.path() / form, target_of(*model));
      if (form == "adapter.gguf" || form == "peft") {
        EXPECT_LT(testing::relative_difference(word_logits(*model), adapted), 1e-5) << form;
      } else {
        EXPECT_TRUE(at::equal(word_logits(*model), adapted)) << form;
      }
    }
    testing::rewrite(tensors, [&](auto& all) { all.erase(key + ".lora_embedding_B"); });
    EXPECT_THAT(error_text([&] { load_adapter(directory.path() / "peft", target_of(*model)); }),
                HasSubstr(key + ".lora_embedding_B"));
  }
}

// As in PEFT.
TEST_P(WordTable, NothingDropsOut) {
  const auto model = make();
  AdapterConfig words = config(*model);
  words.target_modules = {model->architecture().embeddings.words};
  words.dropout = 0.5;
  const auto adapter = adapt(*model, words);
  const c10::NoGradGuard no_grad;
  ForwardContext training;
  training.training = true;
  EXPECT_TRUE(at::equal(model->forward(word_tokens(), training), word_logits(*model)));
}

TEST_P(WordTable, WhatDoesNotKnowItSaysSo) {
  const auto model = make();
  const auto problem = [&](const std::string& method,
                           const std::function<void(AdapterConfig&)>& change = {}) {
    AdapterConfig own = config_for_method(config(*model), method);
    if (change) change(own);
    return error_text([&] { create_adapter(own, target_of(*model), 1); });
  };
  for (const MethodInfo& method : adapter_methods()) {
    if (method.name == "none" || method.name == "full" || method.name == "bitfit") continue;  // no modules
    const bool knows = method.name == "lora" || method.name == "msplora";
    EXPECT_THAT(problem(method.name), knows
                                          ? HasSubstr("no error")
                                          : HasSubstr(path(*model) + " is a table of words, which method `" +
                                                      method.name + "` does not"));
  }
  EXPECT_THAT(problem("lora", [](AdapterConfig& c) { c.use_dora = true; }), HasSubstr("adapter.use_dora"));
  EXPECT_THAT(problem("lora", [](AdapterConfig& c) { c.init = "pissa"; }), HasSubstr("adapter.init"));
}

INSTANTIATE_TEST_SUITE_P(
    Models, WordTable,
    ::testing::Values(WordCase{"llama_tied", "llama"},
                      WordCase{"llama", "llama", ModelTask::kCausalLm, false}, WordCase{"gemma2", "gemma2"},
                      WordCase{"gpt2", "gpt2"}, WordCase{"bert", "bert", ModelTask::kSequenceClassification},
                      WordCase{"albert", "albert", ModelTask::kSequenceClassification},
                      WordCase{"modernbert", "modernbert", ModelTask::kSequenceClassification}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace msplora
