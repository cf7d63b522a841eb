#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "adapters/file_helpers.h"
#include "error_text.h"
#include "msplora/adapters/fingerprint.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using namespace testing;  // helpers of the adapter tests
using ::testing::HasSubstr;

TEST(NativeFiles, EveryBitComesBack) {
  for (const AdapterConfig& config : all_kinds()) {
    TemporaryDirectory directory;
    FakeModel model, other;
    const auto saved = make_saved(model, config, directory.path(), /*peft=*/false);
    ASSERT_EQ(adapter_form(directory.path()), AdapterForm::kNative);
    const auto loaded = load_adapter(directory.path(), other.target());
    ASSERT_EQ(loaded->trainable().size(), saved->trainable().size());
    for (size_t i = 0; i < saved->trainable().size(); ++i) {
      EXPECT_EQ(loaded->trainable()[i].name, saved->trainable()[i].name);
      EXPECT_EQ(loaded->trainable()[i].group, saved->trainable()[i].group);
      EXPECT_EQ(loaded->trainable()[i].level, saved->trainable()[i].level);
      EXPECT_TRUE(at::equal(loaded->trainable()[i].tensor, saved->trainable()[i].tensor));
    }
    EXPECT_TRUE(loaded->attached());
    EXPECT_EQ(loaded->recorded_base(), "base-model");
    EXPECT_EQ(loaded->config().sharing, config.sharing);
    EXPECT_EQ(loaded->config().alphas, config.alphas);
    expect_same_base_parameters(model, other);
    expect_same_update(*saved, *loaded);
  }
}

TEST(NativeFiles, SharedTensorsAreStoredOnce) {
  TemporaryDirectory directory;
  FakeModel model;
  make_saved(model, config_of("msplora"), directory.path(), false);
  const auto file = SafetensorsFile::open(directory.path() / "adapter.safetensors");
  EXPECT_EQ(file->tensors().size(), 64u + 4u);
  EXPECT_TRUE(file->tensors().count(kBlock + "8.attention.self.query.lora_B.1.weight"));
  EXPECT_FALSE(file->tensors().count(kBlock + "9.attention.self.query.lora_B.1.weight"));
  const json header = read_json(directory.path() / "adapter.json");
  EXPECT_EQ(header["plan"]["groups"].size(), 32u);
  EXPECT_EQ(header["config"]["rank"], 8);
}

TEST(NativeFiles, HeadOnlyRoundTrip) {
  TemporaryDirectory directory;
  FakeModel model, other;
  make_saved(model, config_of("none"), directory.path(), false);
  load_adapter(directory.path(), other.target());
  expect_same_base_parameters(model, other);
  const auto adapter = create_adapter(config_of("none"), model.target(), 1);
  EXPECT_THAT(error_text([&] { save_peft_adapter(*adapter, directory.path()); }),
              HasSubstr("method `none` has no low-rank update"));
}

TEST(NativeFiles, AnotherBaseIsRefused) {
  TemporaryDirectory directory;
  FakeModel model;
  AdapterTarget target = model.target();
  target.base_fingerprint = fingerprint(model.parameters(), target.head_modules);
  save_native_adapter(*create_adapter(config_of("msplora"), target, 1), directory.path());
  EXPECT_EQ(error_text([&] { load_adapter(directory.path(), target); }), "no error");

  FakeModel::Options options;
  options.seed = 2;
  FakeModel other(options);
  AdapterTarget wrong = other.target();
  wrong.base_fingerprint = fingerprint(other.parameters(), wrong.head_modules);
  EXPECT_THAT(error_text([&] { load_adapter(directory.path(), wrong); }),
              HasSubstr("trained on another base"));
  wrong = other.target();
  wrong.model_type = "bert";
  wrong.task_type = "CAUSAL_LM";
  std::string text = error_text([&] { load_adapter(directory.path(), wrong); });
  EXPECT_THAT(text, HasSubstr("made for model_type `roberta`, the model has `bert`"));
  EXPECT_THAT(text, HasSubstr("made for task `SEQ_CLS`, the model has `CAUSAL_LM`"));
  options.layers = 6;
  FakeModel shallow(options);
  EXPECT_THAT(error_text([&] { load_adapter(directory.path(), shallow.target()); }),
              HasSubstr("num_layers `12`, the model has `6`"));
}

TEST(NativeFiles, ABaseThatComputesOtherwiseIsRefused) {
  TemporaryDirectory directory;
  FakeModel model;
  AdapterTarget target = model.target();
  target.base_computation = {{"rope_theta", 10000.0}, {"norm_eps", 1e-5}};
  save_native_adapter(*create_adapter(config_of("msplora"), target, 1), directory.path());
  EXPECT_EQ(error_text([&] { load_adapter(directory.path(), target); }), "no error");
  AdapterTarget changed = target;
  changed.base_computation["rope_theta"] = 500000.0;
  EXPECT_THAT(
      error_text([&] { load_adapter(directory.path(), changed); }),
      HasSubstr("trained on a base that computes otherwise: rope_theta: 10000.0 there, 500000.0 here"));
  // A run is not resumed on it either.
  target.base_fingerprint = changed.base_fingerprint = 7;
  EXPECT_NE(run_fingerprint(changed), run_fingerprint(target));
  EXPECT_EQ(run_fingerprint(target), run_fingerprint(AdapterTarget(target)));
  target.base_fingerprint = changed.base_fingerprint = 0;
  EXPECT_EQ(run_fingerprint(changed), 0U);
  // Files of before say nothing of it, and programs of before did not ask.
  json header = read_json(directory.path() / "adapter.json");
  EXPECT_EQ(header["version"], 1);
  header["base"].erase("computation");
  write_text(directory.path() / "adapter.json", header.dump());
  EXPECT_EQ(error_text([&] { load_adapter(directory.path(), changed); }), "no error");
}

TEST(NativeFiles, AnotherNumberOfLabels) {
  TemporaryDirectory directory;
  FakeModel model;
  make_saved(model, config_of("msplora"), directory.path(), false);
  FakeModel::Options options;
  options.labels = 2;
  FakeModel other(options);
  const at::Tensor before = other.parameter("classifier.dense.weight").clone();
  const std::string text = error_text([&] { load_adapter(directory.path(), other.target()); });
  EXPECT_THAT(text, HasSubstr("classifier.out_proj.weight: expected [2, 16], found [3, 16]"));
  EXPECT_THAT(text, HasSubstr("a head of 3 outputs, the model has 2"));
  // Nothing was half loaded.
  EXPECT_TRUE(at::equal(other.parameter("classifier.dense.weight"), before));
  EXPECT_EQ(other.linear(kBlock + "0.attention.self.query").update, nullptr);
}

TEST(NativeFiles, DamagedFiles) {
  TemporaryDirectory directory;
  const auto& path = directory.path();
  FakeModel model;
  make_saved(model, config_of("msplora"), path, false);
  const std::string good = read_file(path / "adapter.json");
  const auto load = [&] {
    FakeModel other;
    return error_text([&] { load_adapter(path, other.target()); });
  };

  write_text(path / "adapter.json", good.substr(0, good.size() / 2));
  EXPECT_THAT(load(), HasSubstr("adapter.json: expected JSON, found an end at byte"));
  write_text(path / "adapter.json", "[]");
  EXPECT_THAT(load(), HasSubstr("expected a JSON object"));
  json header = json::parse(good);
  header["config"]["ranq"] = 3;
  header["config"]["alpha"] = "high";
  write_text(path / "adapter.json", header.dump());
  EXPECT_THAT(load(), HasSubstr("config.ranq: unknown option"));
  EXPECT_THAT(load(), HasSubstr("config.alpha: wrong type"));
  header = json::parse(good);
  header["version"] = 9;
  write_text(path / "adapter.json", header.dump());
  EXPECT_THAT(load(), HasSubstr("expected 1, found 9"));
  header = json::parse(good);
  header["plan"]["groups"][0]["scaling"] = 1.0;
  write_text(path / "adapter.json", header.dump());
  EXPECT_THAT(load(), HasSubstr("the sharing plan of the file differs"));
  header = json::parse(good);
  header["config"]["rank"] = 4;
  write_text(path / "adapter.json", header.dump());
  EXPECT_THAT(load(), HasSubstr("mis-shaped (64)"));
  write_text(path / "adapter.json", good);

  rewrite(path / "adapter.safetensors", [](auto& tensors) {
    tensors.erase(kBlock + "0.attention.self.query.lora_A.0.weight");
    tensors["extra"] = at::zeros({2});
    tensors[kBlock + "1.attention.self.value.lora_B.2.weight"] = at::zeros({3, 3});
  });
  const std::string text = load();
  EXPECT_THAT(text, HasSubstr("missing (1):\n    " + kBlock + "0.attention.self.query.lora_A.0.weight"));
  EXPECT_THAT(text, HasSubstr("unexpected (1):\n    extra"));
  EXPECT_THAT(text, HasSubstr("1.attention.self.value.lora_B.2.weight: expected [16, 2], found [3, 3]"));

  FakeModel again;
  make_saved(again, config_of("msplora"), path, false);
  rewrite(path / "adapter.safetensors",
          [](auto& tensors) { tensors["classifier.dense.bias"][3] = std::nan(""); });
  EXPECT_THAT(load(), HasSubstr("NaN or infinity"));
  EXPECT_THAT(load(), HasSubstr("classifier.dense.bias"));
  std::filesystem::remove(path / "adapter.safetensors");
  EXPECT_NE(load(), "no error");
}

TEST(AdapterFiles, MissingDirectoryAndEmptyDirectory) {
  TemporaryDirectory directory;
  FakeModel model;
  EXPECT_EQ(adapter_form(directory.path()), AdapterForm::kNone);
  EXPECT_THAT(error_text([&] { load_adapter(directory.path(), model.target()); }),
              HasSubstr("holds no adapter"));
  EXPECT_THAT(error_text([&] { load_adapter(directory.path() / "x", model.target()); }),
              HasSubstr("no such directory"));
}

}  // namespace
}  // namespace msplora
