// Merging into a GGUF file: from directories and from GGUF files, with tokenizer and chat template.
#include <ATen/Context.h>
#include <ATen/ops/randn.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/small_config.h"
#include "msplora/gguf/file.h"
#include "msplora/runs/model_files.h"
#include "msplora/runs/tuned_model.h"
#include "msplora/tasks/target.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

/// The characters that byte-level BPE writes bytes as.
std::string spelled(int byte) {
  static const auto is_printable = [](int b) { return (b > 32 && b < 127) || (b > 160 && b != 173); };
  int code = byte;
  if (!is_printable(byte)) {
    code = 256;
    for (int other = 0; other < byte; ++other) code += is_printable(other) ? 0 : 1;
  }
  if (code < 128) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
}

json byte_level_tokenizer() {
  json vocabulary = {{"<|end|>", 0}};
  for (int byte = 0; byte < 256; ++byte) vocabulary[spelled(byte)] = 1 + byte;
  const json merges = {"t h", "th e", "o n", spelled(' ') + " the"};
  for (const char* merged : {"th", "the", "on"}) vocabulary[merged] = vocabulary.size();
  vocabulary[spelled(' ') + "the"] = vocabulary.size();
  return {{"added_tokens",
           {{{"id", 0},
             {"content", "<|end|>"},
             {"special", true},
             {"single_word", false},
             {"lstrip", false},
             {"rstrip", false},
             {"normalized", false}}}},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}}}};
}

/// Of logits in float32 whose products add in another order; 1.8e-5 was seen with GPT-2 and OpenBLAS's oldest
/// kernels.
constexpr double kRounding = 3e-5;

class MergeIntoGguf : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const c10::NoGradGuard no_grad;
    at::manual_seed(1);
    ModelLoadOptions options;
    options.task = ModelTask::kCausalLm;
    options.seed = 3;
    const auto model = create_model(model_test::small_config(GetParam(), {{"vocab_size", 270},
                                                                          {"hidden_size", 32},
                                                                          {"num_hidden_layers", 2},
                                                                          {"num_attention_heads", 4},
                                                                          {"intermediate_size", 64},
                                                                          {"max_position_embeddings", 32}}),
                                    options);
    for (const Parameter& parameter : model->parameters()) {
      at::Tensor values = parameter.values();
      values.add_(at::randn(values.sizes()) * 0.1);
    }
    save_model(*model, base(), at::kFloat);
    directory_.write("base/tokenizer.json", byte_level_tokenizer().dump());
    directory_.write("base/tokenizer_config.json",
                     R"({"eos_token": "<|end|>", "chat_template": "{{ messages[0].content }}"})");
    AdapterConfig config;
    config.method = "msplora";
    config.rank = 8;
    config.alpha = 12.0;
    config.target_modules = default_target_modules(GetParam());
    const auto adapter = create_adapter(config, target_of(*model, "base"), 1);
    for (const TrainableTensor& entry : adapter->trainable()) {
      at::Tensor(entry.tensor).add_(at::randn(entry.tensor.sizes()) * 0.2);
    }
    save_native_adapter(*adapter, directory_.path() / "adapter");
    save_peft_adapter(*adapter, directory_.path() / "peft");
  }

  TunedModel tuned(const fs::path& model) { return open_tuned(model, directory_.path() / "peft"); }
  static double relative(const MergedFiles& merged) {
    return merged.difference.largest / merged.difference.largest_logit;
  }
  fs::path base() const { return directory_.path() / "base"; }
  fs::path path(const char* name) const { return directory_.path() / name; }

  TemporaryDirectory directory_;
};

TEST_P(MergeIntoGguf, TheFileIsTheAdaptedModel) {
  const MergedFiles merged = merge_into_gguf(tuned(base()), base(), path("f32.gguf"), "auto");
  EXPECT_EQ(merged.type, "F32");
  EXPECT_GT(merged.sites, 0);
  EXPECT_LT(relative(merged), kRounding);
  EXPECT_FALSE(fs::exists(path("f32.gguf.part")));
  const auto file = GgufFile::open(path("f32.gguf"));
  EXPECT_EQ(file->text(gguf_key::kChatTemplate), "{{ messages[0].content }}");
  EXPECT_EQ(file->integer(gguf_key::kEosId), 0);
  EXPECT_EQ(file->text(gguf_key::kTokenizerPre), "gpt-2");
  const auto own = Tokenizer::load(base()), read = Tokenizer::load(path("f32.gguf"));
  const std::string text = "the one <|end|> on\n the \xE2\x82\xAC";
  EXPECT_EQ(own->encode({text, {}}).ids, read->encode({text, {}}).ids);

  EXPECT_LT(relative(merge_into_gguf(tuned(base()), base(), path("f16.gguf"), "f16")), 5e-3);
  EXPECT_LT(relative(merge_into_gguf(tuned(base()), base(), path("bf16.gguf"), "bf16")), 5e-2);
  EXPECT_LT(relative(merge_into_gguf(tuned(base()), base(), path("q8_0.gguf"), "q8_0")), 0.3);
}

TEST_P(MergeIntoGguf, WithoutAnAdapterTheModelIsWritten) {
  TunedModel plain = open_tuned(base());
  EXPECT_EQ(plain.facts.type, "causal_lm");
  const MergedFiles merged = merge_into_gguf(std::move(plain), base(), path("plain.gguf"), "f32");
  EXPECT_EQ(merged.sites, 0);
  EXPECT_LT(relative(merged), kRounding);
  EXPECT_LT(relative(merge_into(open_tuned(path("plain.gguf")), path("plain.gguf"), path("out"), "float32")),
            kRounding);
}

TEST_P(MergeIntoGguf, TheBaseMayBeAGgufFile) {
  merge_into_gguf(tuned(base()), base(), path("first.gguf"), "q8_0");
  const MergedFiles again =
      merge_into_gguf(tuned(path("first.gguf")), path("first.gguf"), path("second.gguf"), "auto");
  EXPECT_EQ(again.type, "Q8_0");
  EXPECT_LT(relative(again), 0.5);
  EXPECT_EQ(GgufFile::open(path("second.gguf"))->text(gguf_key::kChatTemplate), "{{ messages[0].content }}");

  // And a directory may be made of one.
  merge_into_gguf(tuned(base()), base(), path("f32.gguf"), "f32");
  const MergedFiles directory = merge_into(tuned(path("f32.gguf")), path("f32.gguf"), path("out"), "float32");
  EXPECT_LT(relative(directory), kRounding);
  const std::string text = "the one <|end|> on\n the \xE2\x82\xAC";
  EXPECT_EQ(Tokenizer::load(base())->encode({text, {}}).ids,
            Tokenizer::load(path("out"))->encode({text, {}}).ids);
}

TEST_P(MergeIntoGguf, NothingIsLeftOfWhatWasRefused) {
  json tokenizer = byte_level_tokenizer();
  tokenizer["normalizer"] = {{"type", "Lowercase"}};
  directory_.write("base/tokenizer.json", tokenizer.dump());
  directory_.write("x.gguf", "before");
  try {
    merge_into_gguf(tuned(base()), base(), path("x.gguf"), "f32");
    FAIL() << "a tokenizer that GGUF does not know was written";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("GGUF has no form for"));
  }
  EXPECT_EQ(read_file(path("x.gguf")), "before");
  EXPECT_FALSE(fs::exists(path("x.gguf.part")));
}

TEST_P(MergeIntoGguf, AnAdapterFileIsReadAsWhatItWas) {
  TunedModel first = tuned(base());
  save_gguf_adapter(*first.adapter, GgufType::kF32, path("adapter.gguf"));
  first.adapter->detach();
  const auto read = load_adapter(path("adapter.gguf"), target_of(*first.model));
  ASSERT_EQ(read->sites().size(), first.adapter->sites().size());
  for (size_t i = 0; i < read->sites().size(); ++i) {
    const at::Tensor own = first.adapter->change_of(i).weight, other = read->change_of(i).weight;
    EXPECT_LT((own - other).abs().max().item<double>(), 1e-6 * own.abs().max().item<double>());
  }
}

// All of these models are tied, and are no longer once their output layer has been adapted.
TEST_P(MergeIntoGguf, AnAdaptedOutputLayerHasATensorOfItsOwn) {
  {
    TunedModel plain = open_tuned(base());
    AdapterConfig config;
    config.method = "lora";
    config.target_modules = default_target_modules(GetParam());
    config.target_modules.push_back("lm_head");
    const auto adapter = create_adapter(config, target_of(*plain.model, "base"), 1);
    const c10::NoGradGuard no_grad;
    for (const TrainableTensor& entry : adapter->trainable())
      at::Tensor(entry.tensor).add_(at::randn(entry.tensor.sizes()) * 0.2);
    save_peft_adapter(*adapter, path("peft"));
  }
  EXPECT_LT(relative(merge_into_gguf(tuned(base()), base(), path("f32.gguf"), "f32")), kRounding);
  EXPECT_NE(GgufFile::open(path("f32.gguf"))->find("output.weight"), nullptr);
  EXPECT_LT(relative(merge_into(tuned(base()), base(), path("out"), "float32")), kRounding);
  EXPECT_FALSE(describe(load_model_config(path("out")), ModelTask::kCausalLm).head.is_tied);
}

INSTANTIATE_TEST_SUITE_P(Families, MergeIntoGguf, ::testing::Values("llama", "gpt2", "qwen3"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace msplora
