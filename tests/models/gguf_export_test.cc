// Models and adapters as GGUF files: read back they are the same, and they hold what llama.cpp's converters
// wrote.
#include <ATen/Context.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "golden_cases.h"
#include "models/small_config.h"
#include "msplora/adapters/files.h"
#include "msplora/core/file.h"
#include "msplora/gguf/quantise.h"
#include "msplora/models/gguf.h"
#include "msplora/models/gguf_export.h"
#include "msplora/tasks/target.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

ModelConfig exported_config(const std::string& model_type, const json& keys = json::object()) {
  json all = {{"vocab_size", 40},           {"hidden_size", 32},
              {"num_hidden_layers", 2},     {"num_attention_heads", 4},
              {"intermediate_size", 64},    {"max_position_embeddings", 32},
              {"query_pre_attn_scalar", 8}, {"num_key_value_heads", model_type == "gpt2" ? 4 : 2}};
  all.update(keys);
  return model_test::small_config(model_type, all);
}

/// No number of the model is 0 or 1.
std::unique_ptr<Model> drawn_model(const ModelConfig& config, ModelTask task = ModelTask::kCausalLm) {
  const c10::NoGradGuard no_grad;
  at::manual_seed(1);
  ModelLoadOptions options;
  options.task = task;
  options.seed = 3;
  auto model = create_model(config, options);
  for (const Parameter& parameter : model->parameters()) {
    at::Tensor values = parameter.values();
    values.add_(at::randn(values.sizes()) * 0.1);
  }
  return model;
}

at::Tensor exported_logits(Model& model) {
  const c10::NoGradGuard no_grad;
  PackedInput input;
  input.input_ids = at::arange(5, 17, at::kLong);
  input.cu_seqlens = {0, 12};
  return model.forward(input, {});
}

std::unique_ptr<Model> read_model(const fs::path& path) {
  ModelLoadOptions options;
  options.task = ModelTask::kCausalLm;
  return load_model(path, options);
}

/// Only tensors: what a model needs to be read again.
void write_model(Model& model, GgufType type, const fs::path& path) {
  GgufWriter file;
  export_model(model, type, "test", file);
  file.write(path);
}

class GgufModel : public ::testing::TestWithParam<std::string> {
 protected:
  fs::path path(const char* name = "model.gguf") const { return directory_.path() / name; }
  TemporaryDirectory directory_;
};

TEST_P(GgufModel, ReadsBackBitForBit) {
  const auto model = drawn_model(exported_config(GetParam()));
  write_model(*model, GgufType::kF32, path());
  const auto read = read_model(path());
  std::map<std::string, at::Tensor> values;
  for (const Parameter& parameter : read->parameters()) values[parameter.name] = parameter.values();
  const auto own = model->parameters();
  for (const Parameter& parameter : own) {
    const at::Tensor a = parameter.values();
    // Files of olmo2 always have an output layer.
    ASSERT_TRUE(values.contains(parameter.name)) << parameter.name;
    const bool is_norm = GetParam().starts_with("gemma") && parameter.name.find("norm") != std::string::npos;
    if (is_norm) {  // 1 + w is what is stored
      EXPECT_LT((a - values[parameter.name]).abs().max().item<double>(), 1e-6) << parameter.name;
    } else {
      EXPECT_TRUE(at::equal(a, values[parameter.name])) << parameter.name;
    }
  }
  EXPECT_EQ(gguf_difference(model->architecture(), read->architecture()), "");
  const at::Tensor a = exported_logits(*model), b = exported_logits(*read);
  EXPECT_LT((a - b).abs().max().item<double>(), 1e-5 * a.abs().max().item<double>());
  // What was read is written with the same bytes.
  write_model(*read, GgufType::kF32, path("again.gguf"));
  if (!GetParam().starts_with("gemma")) {
    EXPECT_EQ(read_file(path()), read_file(path("again.gguf")));
  }
}

TEST_P(GgufModel, QuantisedTensorsAreThoseOfTheQuantiser) {
  const auto model = drawn_model(exported_config(GetParam()));
  write_model(*model, GgufType::kQ8_0, path());
  const auto file = GgufFile::open(path());
  EXPECT_EQ(file->find("token_embd.weight")->type, GgufType::kQ8_0);
  EXPECT_EQ(file->find("output_norm.weight")->type, GgufType::kF32);
  const auto read = read_model(path());
  std::map<std::string, at::Tensor> values;
  for (const Parameter& parameter : read->parameters()) values[parameter.name] = parameter.values();
  for (const Parameter& parameter : model->parameters()) {
    if (parameter.sizes().size() < 2) continue;
    const at::Tensor a = parameter.values().contiguous();
    // Half a step of a block, and what the rounding of the step to binary16 makes of 127 steps.
    const double bound = a.abs().max().item<double>() / 127 * (0.5 + 127.0 / 2048);
    EXPECT_LT((a - values[parameter.name]).abs().max().item<double>(), bound) << parameter.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, GgufModel,
                         ::testing::Values("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "gemma2",
                                           "gemma3_text", "phi3", "gpt2"),
                         [](const auto& info) { return info.param; });

struct Export : ::testing::Test {
  std::string refusal(const ModelConfig& config, ModelTask task = ModelTask::kCausalLm) const {
    try {
      const auto model = drawn_model(config, task);
      write_model(*model, GgufType::kF32, directory.path() / "x.gguf");
      const ModelConfig read = gguf_model_config(*GgufFile::open(directory.path() / "x.gguf"));
      return gguf_difference(model->architecture(), describe(read, ModelTask::kCausalLm));
    } catch (const Error& error) {
      return error.what();
    }
  }
  TemporaryDirectory directory;
};
using GgufExport = Export;

TEST_F(GgufExport, WhatAFileCannotSayIsNamed) {
  EXPECT_EQ(refusal(exported_config("llama")), "");
  EXPECT_THAT(refusal(exported_config("llama", {{"hidden_act", "gelu"}})), HasSubstr("activation"));
  EXPECT_THAT(refusal(exported_config("gemma3_text", {{"query_pre_attn_scalar", 64}})),
              HasSubstr("multiplied by"));
  EXPECT_THAT(
      refusal(exported_config(
          "gemma3_text", {{"sliding_window", 4}, {"layer_types", {"full_attention", "sliding_attention"}}})),
      HasSubstr("window"));
  EXPECT_THAT(refusal(exported_config("gemma2", {{"tie_word_embeddings", false}})),
              HasSubstr("output layer"));
  EXPECT_THAT(refusal(exported_config("llama"), ModelTask::kSequenceClassification), HasSubstr("classifier"));
  EXPECT_THAT(refusal(model_test::small_config("bert", {{"vocab_size", 40},
                                                        {"hidden_size", 32},
                                                        {"num_hidden_layers", 2},
                                                        {"num_attention_heads", 4},
                                                        {"intermediate_size", 64},
                                                        {"max_position_embeddings", 32}}),
                      ModelTask::kMaskedLm),
              HasSubstr("language models"));
}

TEST_F(GgufExport, ScaledAnglesAreWritten) {
  const json linear = {{"rope_scaling", {{"rope_type", "linear"}, {"factor", 4.0}}}};
  EXPECT_EQ(refusal(exported_config("qwen2", linear)), "");
  const json llama3 = {{"rope_theta", 500000.0},
                       {"rope_scaling",
                        {{"rope_type", "llama3"},
                         {"factor", 8.0},
                         {"low_freq_factor", 1.0},
                         {"high_freq_factor", 4.0},
                         {"original_max_position_embeddings", 8192}}}};
  EXPECT_EQ(refusal(exported_config("llama", llama3)), "");
  EXPECT_NE(GgufFile::open(directory.path() / "x.gguf")->find(kGgufRopeFactors), nullptr);
  EXPECT_THAT(refusal(exported_config("qwen2", llama3)), HasSubstr("rotary angles"));

  json yarn = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 16}};
  EXPECT_EQ(refusal(exported_config("qwen2", {{"rope_scaling", yarn}})), "");
  yarn["attention_factor"] = 1.0;  // another one than follows from the factor
  EXPECT_THAT(refusal(exported_config("qwen2", {{"rope_scaling", yarn}})), HasSubstr("rotary angles"));

  json longrope = {{"rope_type", "longrope"},
                   {"short_factor", {1.0, 1.0, 1.0, 1.0}},
                   {"long_factor", {1.0, 1.5, 2.0, 4.0}}};
  EXPECT_EQ(refusal(exported_config("phi3",
                                    {{"rope_scaling", longrope}, {"original_max_position_embeddings", 16}})),
            "");
  EXPECT_NE(GgufFile::open(directory.path() / "x.gguf")->find(kGgufRopeLong), nullptr);
  longrope["original_max_position_embeddings"] = 16;
  EXPECT_THAT(refusal(exported_config("llama", {{"rope_scaling", longrope}})), HasSubstr("longrope"));
}

/// Readers know no windows of Llama's kind: the context ends before one matters.
TEST_F(GgufExport, WindowsEndTheContext) {
  EXPECT_EQ(refusal(exported_config("mistral", {{"sliding_window", 20}})), "");
  const auto file = GgufFile::open(directory.path() / "x.gguf");
  EXPECT_EQ(file->integer("llama.context_length"), 20);
  EXPECT_EQ(refusal(exported_config("gemma2", {{"sliding_window", 20}})), "");
  const auto gemma = GgufFile::open(directory.path() / "x.gguf");
  EXPECT_EQ(gemma->integer("gemma2.context_length"), 32);
  EXPECT_EQ(gemma->integer("gemma2.attention.sliding_window"), 20);
}

std::vector<float> values_of(const GgufFile& file, const std::string& name) {
  const GgufTensor* tensor = file.find(name);
  std::vector<float> values(tensor == nullptr ? 0 : static_cast<size_t>(tensor->elements()));
  if (tensor != nullptr) dequantise(tensor->type, tensor->data, tensor->elements(), values.data());
  return values;
}

AdapterConfig lora(const std::vector<std::string>& targets) {
  AdapterConfig config;
  config.method = "lora";
  config.rank = 3;
  config.alpha = 12.0;
  config.target_modules = targets;
  return config;
}

TEST_F(GgufExport, FactorsOfAnAdapterGiveItsChange) {
  for (const char* type : {"llama", "qwen3", "gpt2", "phi3"}) {
    const auto model = drawn_model(exported_config(type));
    AdapterConfig config =
        lora(type == std::string("gpt2")   ? std::vector<std::string>{"c_attn", "c_proj"}
             : type == std::string("phi3") ? std::vector<std::string>{"qkv_proj"}
                                           : std::vector<std::string>{"q_proj", "k_proj", "v_proj"});
    config.use_rslora = true;
    const auto adapter = create_adapter(config, target_of(*model, "base"), 1);
    const c10::NoGradGuard no_grad;
    for (const TrainableTensor& entry : adapter->trainable())
      entry.tensor.detach().add_(at::randn(entry.tensor.sizes()));
    const fs::path path = directory.path() / "adapter.gguf";
    save_gguf_adapter(*adapter, GgufType::kF32, path);
    const auto file = GgufFile::open(path);
    EXPECT_EQ(file->number("adapter.lora.alpha"), 3.0);
    for (const GgufName& name : gguf_names(model->config())) {
      for (size_t i = 0; i < adapter->sites().size(); ++i) {
        const Site& site = adapter->sites()[i];
        if (name.parameter != site.path + ".weight") continue;
        std::vector<float> a = values_of(*file, name.stored + ".lora_a"),
                           b = values_of(*file, name.stored + ".lora_b");
        ASSERT_EQ(static_cast<int64_t>(a.size()), 3 * site.in_features) << type << " " << name.stored;
        ASSERT_EQ(static_cast<int64_t>(b.size()), 3 * site.out_features);
        const at::Tensor stored = at::mm(at::from_blob(b.data(), {site.out_features, 3}),
                                         at::from_blob(a.data(), {3, site.in_features}));
        const at::Tensor change = adapter->change_of(i).weight;
        at::Tensor expected = change.clone();
        if (name.interleaved_heads > 0) {
          const auto places = interleaved_rows(site.out_features, name.interleaved_heads);
          for (size_t row = 0; row < places.size(); ++row)
            expected[places[row]].copy_(change[static_cast<int64_t>(row)]);
        }
        EXPECT_LT((stored - expected).abs().max().item<double>(), 1e-5 * change.abs().max().item<double>());
      }
    }
  }
}

TEST_F(GgufExport, RanksThatDifferHaveNoAlpha) {
  const auto model = drawn_model(exported_config("llama"));
  AdapterConfig config = lora({"q_proj", "v_proj"});
  config.rank_pattern = {{"v_proj", 2}};
  const auto adapter = create_adapter(config, target_of(*model, "base"), 1);
  save_gguf_adapter(*adapter, GgufType::kF32, directory.path() / "a.gguf");
  const auto file = GgufFile::open(directory.path() / "a.gguf");
  EXPECT_EQ(file->number("adapter.lora.alpha"), 0.0);
  EXPECT_EQ(file->find("blk.1.attn_v.weight.lora_b")->shape(), (std::vector<int64_t>{16, 2}));
}

TEST_F(GgufExport, AdaptersThatAFileCannotHoldAreRefused) {
  const auto saved = [&](const AdapterConfig& config, ModelTask task = ModelTask::kCausalLm) {
    const auto model = drawn_model(exported_config("qwen2"), task);
    const auto adapter = create_adapter(config, target_of(*model, "base"), 1);
    try {
      save_gguf_adapter(*adapter, GgufType::kF32, directory.path() / "a.gguf");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  AdapterConfig config = lora({"q_proj"});
  EXPECT_EQ(saved(config), "");
  EXPECT_THAT(saved(config, ModelTask::kSequenceClassification), HasSubstr("score.weight"));
  config.bias = "lora_only";
  EXPECT_THAT(saved(config), HasSubstr("trained biases"));
  config.bias = "none";
  config.use_dora = true;
  EXPECT_THAT(saved(config), HasSubstr("DoRA"));
  config.use_dora = false;
  config.modules_to_save = {"embed_tokens"};
  EXPECT_THAT(saved(config), HasSubstr("embed_tokens"));
}

/// Adapters and models that llama.cpp's own converter wrote, and what we write of the same.
class GoldenGgufWriter : public ::testing::Test {
 protected:
  static fs::path folder() {
    const fs::path group = golden_group("gguf");
    return group.empty() || !fs::is_directory(group / "tiny") ? fs::path() : group / "tiny";
  }
  TemporaryDirectory directory_;
};

TEST_F(GoldenGgufWriter, BlocksOfEightBitsAndHalves) {
  const fs::path group = golden_group("gguf");
  if (group.empty()) GTEST_SKIP() << "no cases of GGUF";
  const auto file = SafetensorsFile::open(group / "blocks.safetensors");
  for (const auto& [name, type] : {std::pair("Q8_0", GgufType::kQ8_0), std::pair("F16", GgufType::kF16),
                                   std::pair("BF16", GgufType::kBF16)}) {
    const std::string prefix = std::string(name) + ".real.";
    if (!file->tensors().count(prefix + "bytes")) continue;
    const at::Tensor source = file->tensor(prefix + "source").contiguous(),
                     bytes = file->tensor(prefix + "bytes");
    at::Tensor written = at::zeros_like(bytes);
    quantise(type, source.data_ptr<float>(), source.numel(), static_cast<std::byte*>(written.data_ptr()));
    EXPECT_TRUE(at::equal(written, bytes)) << name;
    GoldenCounts::compared("gguf");
  }
}

void expect_tensors_of(const GgufFile& theirs, const GgufFile& own) {
  ASSERT_EQ(own.tensors().size(), theirs.tensors().size());
  for (const GgufTensor& tensor : theirs.tensors()) {
    const GgufTensor* found = own.find(tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    EXPECT_EQ(found->shape(), tensor.shape()) << tensor.name;
    ASSERT_EQ(found->type, tensor.type) << tensor.name;
    EXPECT_EQ(std::memcmp(found->data, tensor.data, tensor.bytes), 0) << tensor.name;
  }
  GoldenCounts::compared("gguf");
}

/// Of the same directory; and blocks of eight bits that were read give the same blocks again.
TEST_F(GoldenGgufWriter, ModelsHaveTheTensorsOfLlamaCppsConverter) {
  if (folder().empty()) GTEST_SKIP() << "no tiny models";
  for (const char* name : {"llama", "qwen3", "gpt2", "gemma3"}) {
    SCOPED_TRACE(name);
    const fs::path place = folder() / name, written = directory_.path() / "x.gguf";
    write_model(*read_model(place / "q8_0.gguf"), GgufType::kQ8_0, written);
    expect_tensors_of(*GgufFile::open(place / "q8_0.gguf"), *GgufFile::open(written));
    if (!fs::exists(place / "hf")) continue;
    const auto model = read_model(place / "hf");
    write_model(*model, GgufType::kF32, written);
    expect_tensors_of(*GgufFile::open(place / "f32.gguf"), *GgufFile::open(written));
    write_model(*model, GgufType::kQ8_0, written);
    expect_tensors_of(*GgufFile::open(place / "q8_0.gguf"), *GgufFile::open(written));
  }
}

TEST_F(GoldenGgufWriter, AdaptersHaveTheFactorsOfLlamaCppsConverter) {
  if (folder().empty()) GTEST_SKIP() << "no tiny models";
  for (const auto& [model_name, adapter_name] :
       {std::pair("llama", "lora"), std::pair("llama", "lora-rs"), std::pair("llama", "lora-ranks"),
        std::pair("qwen3", "lora"), std::pair("gpt2", "lora"), std::pair("gpt2", "lora-attn"),
        std::pair("gemma3", "lora")}) {
    const fs::path place = folder() / model_name;
    if (!fs::exists(place / "hf")) GTEST_SKIP() << "no directories of the tiny models";
    const auto model = read_model(place / "hf");
    const auto adapter = load_adapter(place / adapter_name, target_of(*model));
    save_gguf_adapter(*adapter, GgufType::kF32, directory_.path() / "a.gguf");
    const auto own = GgufFile::open(directory_.path() / "a.gguf"),
               theirs = GgufFile::open(place / (std::string(adapter_name) + ".gguf"));
    EXPECT_EQ(own->number("adapter.lora.alpha"), theirs->number("adapter.lora.alpha")) << adapter_name;
    EXPECT_EQ(own->text("general.architecture"), theirs->text("general.architecture"));
    EXPECT_EQ(own->tensors().size(), theirs->tensors().size());
    for (const GgufTensor& tensor : theirs->tensors()) {
      const std::string name(tensor.name);
      ASSERT_NE(own->find(name), nullptr) << name;
      EXPECT_EQ(own->find(name)->shape(), tensor.shape()) << name;
      const std::vector<float> a = values_of(*own, name), b = values_of(*theirs, name);
      for (size_t i = 0; i < b.size(); ++i)
        ASSERT_NEAR(a[i], b[i], 1e-6F * std::abs(b[i])) << model_name << name << i;
    }
    GoldenCounts::compared("gguf");
  }
}

}  // namespace
}  // namespace msplora
