// What PEFT's files say of decoders beyond factors: layers stored the other way round, and matrices that are
// tied.
#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "adapters/file_helpers.h"
#include "models/small_config.h"
#include "msplora/models/model.h"
#include "msplora/tasks/target.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using namespace testing;  // helpers of the adapter tests
using ::testing::HasSubstr;

struct Decoder {
  std::string model_type, words;  // and its table of words
};
void PrintTo(const Decoder& decoder, std::ostream* out) {
  *out << decoder.model_type;
}

class PeftDecoder : public ::testing::TestWithParam<Decoder> {
 protected:
  std::unique_ptr<Model> tied_model() const {
    ModelLoadOptions options;
    options.task = ModelTask::kCausalLm;
    options.random_init = true;
    options.seed = 5;
    return create_model(model_test::small_config(GetParam().model_type, {{"vocab_size", 30},
                                                                         {"hidden_size", 16},
                                                                         {"num_hidden_layers", 2},
                                                                         {"num_attention_heads", 2},
                                                                         {"intermediate_size", 24},
                                                                         {"max_position_embeddings", 32}}),
                        options);
  }

  /// Writes an adapter that trains the table of words whole, with values that are not the base's.
  void save(Model& model) const {
    AdapterConfig config = config_of("lora");
    config.target_modules = default_target_modules(GetParam().model_type);
    config.modules_to_save = {GetParam().words.substr(GetParam().words.rfind('.') + 1)};
    const auto adapter = create_adapter(config, target_of(model, "base-model"), 1);
    for (const TrainableTensor& entry : adapter->trainable()) entry.tensor.detach().add_(0.25);
    save_peft_adapter(*adapter, directory_.path());
  }

  std::string words_key() const { return "base_model.model." + GetParam().words + ".weight"; }
  fs::path tensors() const { return directory_.path() / "adapter_model.safetensors"; }
  fs::path config() const { return directory_.path() / "adapter_config.json"; }

  std::unique_ptr<Adapter> load(Model& model) const {
    return load_adapter(directory_.path(), target_of(model));
  }
  std::string refusal() const {
    const auto model = tied_model();
    try {
      load(*model);
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  }

  static constexpr const char* kHeadKey = "base_model.model.lm_head.weight";
  TemporaryDirectory directory_;
};

TEST_P(PeftDecoder, SaysHowTheBaseStoresItsLayers) {
  const auto model = tied_model();
  save(*model);
  json file = read_json(config());
  EXPECT_EQ(file.value("fan_in_fan_out", false), GetParam().model_type == "gpt2");
  // The factors are the same whatever it says.
  file["fan_in_fan_out"] = !file.value("fan_in_fan_out", false);
  write_text(config(), file.dump());
  const auto other = tied_model();
  const auto loaded = load(*other);
  const auto tensor = SafetensorsFile::open(tensors());
  EXPECT_TRUE(at::equal(loaded->terms(0)[0].up,
                        tensor->tensor("base_model.model." + loaded->sites()[0].path + ".lora_B.weight")));
}

TEST_P(PeftDecoder, ATiedMatrixIsWrittenForBothOfItsModules) {
  const auto model = tied_model();
  save(*model);
  const auto file = SafetensorsFile::open(tensors());
  ASSERT_TRUE(file->tensors().count(kHeadKey));
  EXPECT_TRUE(at::equal(file->tensor(kHeadKey), file->tensor(words_key())));
  const auto saved = read_json(config())["modules_to_save"].get<std::vector<std::string>>();
  EXPECT_THAT(saved, ::testing::Contains("lm_head"));
  const auto other = tied_model();
  const auto loaded = load(*other);
  for (const Parameter& parameter : other->parameters()) {
    if (parameter.name != GetParam().words + ".weight") continue;
    EXPECT_TRUE(at::equal(parameter.values(), file->tensor(words_key())));
  }
}

TEST_P(PeftDecoder, OneModuleOfATiedMatrixIsRefused) {
  const auto model = tied_model();
  save(*model);
  rewrite(tensors(), [](auto& all) { all.erase(kHeadKey); });
  EXPECT_THAT(refusal(), HasSubstr("lm_head.weight and " + GetParam().words + ".weight are one matrix"));
  json file = read_json(config());
  file["ensure_weight_tying"] = true;
  write_text(config(), file.dump());
  EXPECT_EQ(refusal(), "");
}

TEST_P(PeftDecoder, TwoValuesOfATiedMatrixAreRefused) {
  const auto model = tied_model();
  save(*model);
  rewrite(tensors(), [](auto& all) { all[kHeadKey] = all[kHeadKey] + 1.0; });
  EXPECT_THAT(refusal(), HasSubstr("of which the adapter makes two"));
}

INSTANTIATE_TEST_SUITE_P(Families, PeftDecoder,
                         ::testing::Values(Decoder{"gpt2", "transformer.wte"},
                                           Decoder{"qwen3", "model.embed_tokens"},
                                           Decoder{"gemma2", "model.embed_tokens"}),
                         [](const auto& info) { return info.param.model_type; });

}  // namespace
}  // namespace msplora
