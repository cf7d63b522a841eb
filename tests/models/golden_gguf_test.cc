// GGUF files against numbers that ggml, llama.cpp and transformers gave: the golden cases of the group
// `gguf`.
#include <ATen/ops/empty.h>
#include <ATen/ops/log_softmax.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "golden_cases.h"
#include "msplora/adapters/files.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/gguf/types.h"
#include "msplora/io/safetensors.h"
#include "msplora/models/computation.h"
#include "msplora/models/model.h"
#include "msplora/nn/weight.h"
#include "msplora/tasks/target.h"
#include "msplora/tokenizers/tokenizer.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kGgufGroup = "gguf";

const GgufTypeInfo* type_by_name(const std::string& name) {
  for (int32_t id = 0; id < 64; ++id) {
    const GgufTypeInfo* info = find_gguf_type(id);
    if (info != nullptr && info->name == name) return info;
  }
  return nullptr;
}

TEST(GoldenGguf, BlocksHaveTheBitsOfGgml) {
  const fs::path folder = golden_group(kGgufGroup);
  if (folder.empty() || !fs::exists(folder / "blocks.safetensors")) GTEST_SKIP() << "no blocks";
  const auto file = SafetensorsFile::open(folder / "blocks.safetensors");
  std::vector<std::string> types;
  for (const auto& [name, info] : file->tensors()) {
    if (!name.ends_with(".bytes")) continue;
    const std::string stem = name.substr(0, name.size() - 6), type_name = stem.substr(0, stem.find('.'));
    const GgufTypeInfo* type = type_by_name(type_name);
    ASSERT_NE(type, nullptr) << type_name;
    types.push_back(type_name);
    const at::Tensor bytes = file->tensor(name).clone(), wanted = file->tensor(stem + ".values").clone();
    StoredBlocks stored;
    stored.type = type->type;
    stored.blocks = static_cast<const std::byte*>(bytes.data_ptr());
    stored.out = wanted.size(0);
    stored.in = wanted.size(1);
    const auto weight = block_weight(stored, at::kFloat);
    EXPECT_EQ(weight->bytes().mapped, bytes.numel()) << stem;
    const at::Tensor values = weight->values();
    const size_t size = static_cast<size_t>(wanted.numel()) * sizeof(float);
    EXPECT_EQ(std::memcmp(values.data_ptr(), wanted.data_ptr(), size), 0) << stem;
    // One row, rows by number, and another type of activations are the same numbers.
    const int64_t last = stored.out - 1;
    EXPECT_EQ(
        std::memcmp(weight->rows(last, last + 1).data_ptr(), wanted[last].data_ptr(), size / wanted.size(0)),
        0);
    at::Tensor ids = at::empty({2}, at::kLong);
    ids[0] = last;
    ids[1] = 0;
    EXPECT_TRUE(weight->gather(ids).equal(wanted.index_select(0, ids))) << stem;
    EXPECT_TRUE(block_weight(stored, at::kBFloat16)->values().equal(wanted.to(at::kBFloat16))) << stem;
    EXPECT_TRUE(block_weight(stored, at::kDouble)->values().equal(wanted.to(at::kDouble))) << stem;
    EXPECT_TRUE(blocks_are_finite(type->type, stored.blocks, bytes.numel() / type->bytes)) << stem;
    GoldenCounts::compared(kGgufGroup);
  }
  std::sort(types.begin(), types.end());
  types.erase(std::unique(types.begin(), types.end()), types.end());
  EXPECT_GE(types.size(), 15U);  // numbers of 16 bits are in the full set only
}

PackedInput one_sequence(const std::vector<int64_t>& ids) {
  PackedInput input;
  input.input_ids = at::empty({static_cast<int64_t>(ids.size())}, at::kLong);
  std::copy(ids.begin(), ids.end(), input.input_ids.data_ptr<int64_t>());
  input.cu_seqlens = {0, static_cast<int32_t>(ids.size())};
  return input;
}

std::vector<int64_t> ids_of(const SafetensorsFile& file) {
  const at::Tensor ids = file.tensor("ids").to(at::kLong).contiguous();
  return {ids.data_ptr<int64_t>(), ids.data_ptr<int64_t>() + ids.numel()};
}

at::Tensor logits_of(Model& model, const std::vector<int64_t>& ids) {
  const c10::NoGradGuard no_grad;
  return model.forward(one_sequence(ids), {}).to(at::kDouble);
}

/// Of the last positions, as many as are expected; relative to the largest expected value.
double difference(const at::Tensor& got, const at::Tensor& wanted) {
  const at::Tensor expected = wanted.to(at::kDouble);
  const at::Tensor last = got.slice(0, got.size(0) - expected.size(0));
  return ((last - expected).abs().max() / expected.abs().max()).item<double>();
}

std::unique_ptr<Model> gguf_model(const fs::path& file, at::ScalarType dtype) {
  ModelLoadOptions options;
  options.task = ModelTask::kCausalLm;
  options.compute_dtype = dtype;
  return load_model(file, options);
}

/// A model of the folder `tiny`.
class GoldenGgufModel : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    folder_ = golden_group(kGgufGroup) / "tiny" / GetParam();
    if (golden_group(kGgufGroup).empty() || !fs::exists(folder_)) GTEST_SKIP() << "no such case";
    expected_ = SafetensorsFile::open(folder_ / "expected.safetensors");
    ids_ = ids_of(*expected_);
  }

  fs::path folder_;
  std::shared_ptr<const SafetensorsFile> expected_;
  std::vector<int64_t> ids_;
};

TEST_P(GoldenGgufModel, HasTheLogitsOfTransformers) {
  for (const auto& [file, name] : {std::pair("f32.gguf", "base"), std::pair("q8_0.gguf", "base_q8_0")}) {
    if (!fs::exists(folder_ / file)) continue;
    const at::Tensor wanted = expected_->tensor(name);
    // Norms are computed in float32 where the logits come from, and Gemma's are rounded to it in the file.
    EXPECT_LT(difference(logits_of(*gguf_model(folder_ / file, at::kDouble), ids_), wanted), 1e-6) << file;
    EXPECT_LT(difference(logits_of(*gguf_model(folder_ / file, at::kFloat), ids_), wanted), 1e-5) << file;
    GoldenCounts::compared(kGgufGroup);
  }
}

TEST_P(GoldenGgufModel, IsTheModelOfItsDirectory) {
  if (!fs::exists(folder_ / "hf") || !fs::exists(folder_ / "f32.gguf")) GTEST_SKIP() << "no directory";
  const auto read = gguf_model(folder_ / "f32.gguf", at::kFloat),
             other = gguf_model(folder_ / "hf", at::kFloat);
  const std::vector<Parameter> got = read->parameters(), wanted = other->parameters();
  ASSERT_EQ(got.size(), wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].name, wanted[i].name);
    // Files have the norms of Gemma as 1 + w.
    const bool is_gemma = std::string(GetParam()) == "gemma3";
    EXPECT_TRUE(is_gemma ? got[i].values().allclose(wanted[i].values(), 0, 2e-7)
                         : got[i].values().equal(wanted[i].values()))
        << got[i].name;
  }
  // An adapter of the one is none of another base on the other.
  const json there = computation_of(other->architecture()), here = computation_of(read->architecture());
  EXPECT_THAT(computation_differences(there, here), ::testing::IsEmpty());
  EXPECT_EQ(there.size(), here.size());
}

// Those that PEFT saved, and the same as GGUF files; lora-embed adapts the table of words and the output
// layer.
TEST_P(GoldenGgufModel, CarriesAdapters) {
  if (!fs::exists(folder_ / "f32.gguf")) GTEST_SKIP() << "no base in float32";
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) {
    const std::string name = entry.path().stem().string();
    if (!name.starts_with("lora")) continue;
    const auto load = [&](Model& model) { return load_adapter(entry.path(), target_of(model)); };
    GoldenCounts::compared(kGgufGroup);
    for (const auto& [dtype, tolerance] : {std::pair(at::kFloat, 1e-5), std::pair(at::kDouble, 1e-6)}) {
      const auto model = gguf_model(folder_ / "f32.gguf", dtype);
      const auto adapter = load(*model);
      EXPECT_LT(difference(logits_of(*model, ids_), expected_->tensor(name)), tolerance) << entry.path();
    }
  }
}

// The tokenizer inside gives the ids of the directory's. SentencePiece's removes further spaces, which files
// do not say.
TEST_P(GoldenGgufModel, HasTheTokenizerOfItsDirectory) {
  if (!fs::exists(folder_ / "hf")) GTEST_SKIP() << "no directory";
  const auto read = Tokenizer::load(folder_ / "f32.gguf"), other = Tokenizer::load(folder_ / "hf");
  EXPECT_EQ(read->vocab_size(), other->vocab_size());
  EXPECT_EQ(read->bos_id(), other->bos_id());
  EXPECT_EQ(read->eos_id(), other->eos_id());
  for (const char* text : {"", "The boats came back.", "two spaces\n\nand lines", "1234 na\xC3\xAFve",
                           "\xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x98\x80!", "don't\tstop"}) {
    const auto got = read->encode({text, {}}).ids;
    EXPECT_EQ(got, other->encode({text, {}}).ids) << text;
    EXPECT_EQ(read->decode(got), other->decode(got)) << text;
  }
}

TEST_P(GoldenGgufModel, SavesItsTokenizer) {
  const fs::path file = folder_ / "q8_0.gguf";
  const TemporaryDirectory saved;
  const auto read = Tokenizer::load(file);
  read->save(saved.path());
  const auto other = Tokenizer::load(saved.path());
  EXPECT_EQ(read->vocab_size(), other->vocab_size());
  EXPECT_EQ(read->bos_id(), other->bos_id());
  EXPECT_EQ(read->eos_id(), other->eos_id());
  for (const char* text :
       {"", " ", "The boats came back.", "  two  spaces\n\nand lines ", "1234 na\xC3\xAFve",
        "\xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x98\x80!", "don't\tstop", "a</s> b<s>"}) {
    const auto got = read->encode({text, {}}).ids;
    EXPECT_EQ(got, other->encode({text, {}}).ids) << text;
    EXPECT_EQ(read->decode(got), other->decode(got)) << text;
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, GoldenGgufModel, ::testing::Values("llama", "qwen3", "gpt2", "gemma3"),
                         [](const auto& info) { return std::string(info.param); });

TEST(GoldenGguf, AModelOfNineBlockTypes) {
  const fs::path folder = golden_group(kGgufGroup) / "tiny" / "llama-mix";
  if (golden_group(kGgufGroup).empty() || !fs::exists(folder)) GTEST_SKIP() << "no such case";
  const auto expected = SafetensorsFile::open(folder / "mix.expected.safetensors");
  const at::Tensor wanted = expected->tensor("base");
  EXPECT_LT(difference(logits_of(*gguf_model(folder / "mix.gguf", at::kDouble), ids_of(*expected)), wanted),
            1e-6);
  EXPECT_LT(difference(logits_of(*gguf_model(folder / "mix.gguf", at::kFloat), ids_of(*expected)), wanted),
            1e-5);
  GoldenCounts::compared(kGgufGroup);
}

/// SmolLM2-135M-Instruct, which scripts/fetch-models.sh brings; its numbers need no file of the project's.
class GoldenGgufSmolLm2 : public ::testing::Test {
 protected:
  void SetUp() override {
    const fs::path expected = golden_group(kGgufGroup) / "smollm2-expected.json";
    if (golden_group(kGgufGroup).empty() || !fs::exists(expected)) GTEST_SKIP() << "no such case";
    expected_ = json::parse(read_file(expected));
    model_ = fetched_model("SmolLM2-135M-Instruct.Q4_1.gguf");
    if (!model_.empty()) return;
    GoldenCounts::skipped(kGgufGroup, "SmolLM2 (the file is not there)", cases());
    GTEST_SKIP() << "SmolLM2-135M-Instruct.Q4_1.gguf is not there";
  }

  static fs::path fetched_model(const std::string& name) {
    const auto variable = [](const char* key) {
      const char* value = std::getenv(key);
      return value != nullptr && *value != 0 ? fs::path(value) : fs::path();
    };
    fs::path folder = variable("MSPLORA_MODELS");
    if (folder.empty() && !variable("XDG_CACHE_HOME").empty())
      folder = variable("XDG_CACHE_HOME") / "msplora";
    if (folder.empty()) folder = variable("HOME") / ".cache" / "msplora";
    std::error_code code;
    return fs::exists(folder / name, code) ? folder / name : fs::path();
  }

  int64_t cases() const {
    const std::string test = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    const char* part = test == "Ids" ? "tokenise" : test == "LogProbabilities" ? "score" : "chat";
    return static_cast<int64_t>(expected_[part].size());
  }

  json expected_;
  fs::path model_;
};

TEST_F(GoldenGgufSmolLm2, Ids) {
  const auto tokenizer = Tokenizer::load(model_);
  for (const json& row : expected_["tokenise"]) {
    const auto text = row["text"].get<std::string>();
    EXPECT_EQ(tokenizer->encode({text, {}}).ids, row["ids"].get<std::vector<int32_t>>()) << text;
    GoldenCounts::compared(kGgufGroup);
  }
  for (const json& chat : expected_["chat"]) {
    const auto text = chat["prompt_text"].get<std::string>();
    EXPECT_EQ(tokenizer->encode({text, {}}).ids, chat["prompt_ids"].get<std::vector<int32_t>>()) << text;
  }
  EXPECT_EQ(tokenizer->eos_id(), 2);
}

TEST_F(GoldenGgufSmolLm2, LogProbabilities) {
  const auto model = gguf_model(model_, at::kFloat);
  for (const json& row : expected_["score"]) {
    const auto ids = row["ids"].get<std::vector<int64_t>>();
    const auto wanted = row["dequantised"].get<std::vector<double>>();
    const at::Tensor log_p = at::log_softmax(logits_of(*model, ids), -1);
    ASSERT_EQ(wanted.size() + 1, ids.size());
    for (size_t i = 0; i < wanted.size(); ++i)
      EXPECT_NEAR(log_p[static_cast<int64_t>(i)][ids[i + 1]].item<double>(), wanted[i], 1e-4) << i;
    GoldenCounts::compared(kGgufGroup);
  }
}

TEST_F(GoldenGgufSmolLm2, GreedyIds) {
  const auto model = gguf_model(model_, at::kFloat);
  const auto tokenizer = Tokenizer::load(model_);
  for (const json& chat : expected_["chat"]) {
    auto ids = chat["prompt_ids"].get<std::vector<int64_t>>();
    const auto wanted = chat["dequantised"]["ids"].get<std::vector<int64_t>>();
    std::vector<int64_t> got;
    std::vector<int32_t> tokens;
    while (got.size() < wanted.size()) {
      const at::Tensor logits = logits_of(*model, ids);
      got.push_back(logits[logits.size(0) - 1].argmax().item<int64_t>());
      tokens.push_back(static_cast<int32_t>(got.back()));
      ids.push_back(got.back());
    }
    EXPECT_EQ(got, wanted);
    EXPECT_EQ(tokenizer->decode(tokens), chat["dequantised"]["text"].get<std::string>());
    GoldenCounts::compared(kGgufGroup);
  }
}

}  // namespace
}  // namespace msplora
