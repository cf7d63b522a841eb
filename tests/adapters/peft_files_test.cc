#include <ATen/ops/allclose.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "adapters/file_helpers.h"
#include "error_text.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using namespace testing;  // helpers of the adapter tests
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(PeftFiles, UpdatesAndHeadsComeBack) {
  for (const AdapterConfig& config : all_kinds()) {
    TemporaryDirectory directory;
    FakeModel model, other;
    const auto saved = make_saved(model, config, directory.path(), /*peft=*/true);
    ASSERT_EQ(adapter_form(directory.path()), AdapterForm::kPeft);
    const auto loaded = load_adapter(directory.path(), other.target());
    EXPECT_EQ(loaded->config().method, "lora");
    expect_same_update(*saved, *loaded);
    expect_same_base_parameters(model, other);
    // Written again, it is the same update still.
    TemporaryDirectory second;
    FakeModel third;
    save_peft_adapter(*loaded, second.path());
    expect_same_update(*saved, *load_adapter(second.path(), third.target()));
  }
}

TEST(PeftFiles, LevelsAreConcatenatedWithScalingsFolded) {
  TemporaryDirectory directory;
  FakeModel model;
  const auto adapter = make_saved(model, config_of("msplora"), directory.path(), true);
  const auto file = SafetensorsFile::open(directory.path() / "adapter_model.safetensors");
  std::set<std::string> keys, expected;
  for (const auto& [key, info] : file->tensors()) keys.insert(key);
  for (int layer = 0; layer < 12; ++layer) {
    for (const char* module : {"query", "value"}) {
      for (const char* factor : {"A", "B"}) {
        expected.insert(
            fmt::format("base_model.model.roberta.encoder.layer.{}.attention.self.{}.lora_{}.weight", layer,
                        module, factor));
      }
    }
  }
  for (const char* head : {"dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"}) {
    expected.insert(std::string("base_model.model.classifier.") + head);
  }
  EXPECT_EQ(keys, expected);
  const std::string site = kPrefix + kBlock + "5.attention.self.query.";
  EXPECT_EQ(file->tensors().at(site + "lora_A.weight").shape, (std::vector<int64_t>{14, 16}));
  EXPECT_EQ(file->tensors().at(site + "lora_B.weight").shape, (std::vector<int64_t>{16, 14}));
  EXPECT_EQ(file->metadata().at("format"), "pt");
  const auto terms = adapter->terms(10);
  EXPECT_TRUE(at::equal(file->tensor(site + "lora_B.weight"),
                        at::cat({terms[0].up * 1.5, terms[1].up * 3.0, terms[2].up * 6.0}, 1)));
  EXPECT_EQ(read_json(directory.path() / "adapter_config.json"), json::parse(R"({
    "peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "base-model", "inference_mode": true,
    "r": 14, "lora_alpha": 14, "lora_dropout": 0.0, "target_modules": ["query", "value"], "bias": "none",
    "modules_to_save": ["classifier"], "init_lora_weights": true})"));
}

TEST(PeftFiles, OwnerOnlyWritesPatternsOfFullPaths) {
  TemporaryDirectory directory;
  FakeModel model;
  AdapterConfig config = config_of("msplora");
  config.sharing = "owner_only";
  make_saved(model, config, directory.path(), true);
  const json file = read_json(directory.path() / "adapter_config.json");
  EXPECT_EQ(file["r"], 2);
  EXPECT_EQ(file["lora_alpha"], 2);
  EXPECT_EQ(file["rank_pattern"].size(), 6u);
  EXPECT_EQ(file["rank_pattern"], file["alpha_pattern"]);
  EXPECT_EQ(file["rank_pattern"][R"(^roberta\.encoder\.layer\.0\.attention\.self\.query)"], 14);
  EXPECT_EQ(file["rank_pattern"][R"(^roberta\.encoder\.layer\.8\.attention\.self\.value)"], 6);
  EXPECT_EQ(file["target_modules"], json({"query", "value"}));
}

TEST(PeftFiles, ModulesWithoutAnUpdateAreNotTargeted) {
  TemporaryDirectory directory;
  FakeModel model;
  AdapterConfig config = config_of("msplora");
  config.sharing = "owner_only";
  config.levels = 1;
  make_saved(model, config, directory.path(), true);
  EXPECT_EQ(read_json(directory.path() / "adapter_config.json")["target_modules"],
            json({kBlock + "0.attention.self.query", kBlock + "0.attention.self.value"}));
}

TEST(PeftFiles, PlainLoraIsWrittenUnchanged) {
  TemporaryDirectory directory;
  FakeModel model;
  AdapterConfig config = config_of("lora");
  config.use_rslora = true;
  config.dropout = 0.05;
  config.bias = "all";
  const auto adapter = make_saved(model, config, directory.path(), true);
  const json file = read_json(directory.path() / "adapter_config.json");
  EXPECT_EQ(file["r"], 8);
  EXPECT_EQ(file["lora_alpha"], 12);
  EXPECT_EQ(file["use_rslora"], true);
  EXPECT_EQ(file["lora_dropout"], 0.05);
  EXPECT_EQ(file["bias"], "all");
  const auto tensors = SafetensorsFile::open(directory.path() / "adapter_model.safetensors");
  EXPECT_TRUE(at::equal(tensors->tensor(kPrefix + kBlock + "0.attention.self.query.lora_B.weight"),
                        adapter->terms(0)[0].up));
  // The bias of a wrapped layer moves into base_layer.
  EXPECT_TRUE(tensors->tensors().count(kPrefix + kBlock + "0.attention.self.query.base_layer.bias"));
  EXPECT_TRUE(tensors->tensors().count(kPrefix + kBlock + "0.attention.self.key.bias"));
  EXPECT_TRUE(tensors->tensors().count(kPrefix + "roberta.embeddings.LayerNorm.bias"));
  EXPECT_TRUE(tensors->tensors().count(kPrefix + "classifier.dense.bias"));
}

TEST(PeftFiles, AllLinearIsSpelledOut) {
  TemporaryDirectory directory;
  FakeModel model;
  AdapterConfig config = config_of("lora");
  config.target_modules = {"all-linear"};
  make_saved(model, config, directory.path(), true);
  // `dense` would be the head's too in versions of PEFT that do not keep it out.
  const json targets = read_json(directory.path() / "adapter_config.json")["target_modules"];
  EXPECT_EQ(targets.size(), 72u);
  EXPECT_EQ(targets[0], kBlock + "0.attention.output.dense");

  TemporaryDirectory second;
  FakeModel::Options options;
  options.llama = true;
  FakeModel decoder(options);
  make_saved(decoder, config, second.path(), true);
  EXPECT_EQ(read_json(second.path() / "adapter_config.json")["target_modules"],
            json({"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"}));
}

TEST(PeftFiles, CausalModelsHaveNoHead) {
  TemporaryDirectory directory;
  FakeModel::Options options;
  options.llama = true;
  options.layers = 4;
  FakeModel model(options), other(options);
  AdapterConfig config = config_of("msplora");
  config.target_modules = {"q_proj", "down_proj"};
  const auto saved = make_saved(model, config, directory.path(), true);
  const json file = read_json(directory.path() / "adapter_config.json");
  EXPECT_EQ(file["task_type"], "CAUSAL_LM");
  EXPECT_FALSE(file.contains("modules_to_save"));
  const auto tensors = SafetensorsFile::open(directory.path() / "adapter_model.safetensors");
  EXPECT_TRUE(tensors->tensors().count("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"));
  expect_same_update(*saved, *load_adapter(directory.path(), other.target()));
}

/// An adapter as PEFT 0.x and others write them: fewer keys, half precision, other spellings.
class ForeignAdapter {
 public:
  explicit ForeignAdapter(json config) {
    for (int layer = 0; layer < 12; ++layer) {
      const std::string site = kPrefix + kBlock + std::to_string(layer) + ".attention.self.query.";
      tensors_.push_back({site + "lora_A.weight", at::full({4, 16}, 0.25).to(at::kHalf)});
      tensors_.push_back({site + "lora_B.weight", at::full({16, 4}, 0.5).to(at::kBFloat16)});
    }
    config.update({{"peft_type", "LORA"}});
    write_text(path() / "adapter_config.json", config.dump());
  }
  void add(const std::string& name, at::Tensor tensor) { tensors_.push_back({name, std::move(tensor)}); }
  void add_head() {
    add(kPrefix + "classifier.modules_to_save.dense.weight", at::full({16, 16}, 0.5));
    add(kPrefix + "classifier.modules_to_save.dense.bias", at::full({16}, 0.5));
    add(kPrefix + "classifier.modules_to_save.default.out_proj.weight", at::full({3, 16}, 0.5));
    add(kPrefix + "classifier.out_proj.bias", at::full({3}, 0.5));
    add(kPrefix + "classifier.original_module.out_proj.bias", at::full({3}, 9.0));
  }
  const std::filesystem::path& path() const { return directory_.path(); }
  std::unique_ptr<Adapter> load(const AdapterTarget& target) {
    write_safetensors(path() / "adapter_model.safetensors", tensors_, {{"format", "pt"}});
    return load_adapter(path(), target);
  }
  std::string load_error() {
    FakeModel model;
    return error_text([&] { load(model.target()); });
  }

 private:
  TemporaryDirectory directory_;
  std::vector<NamedTensor> tensors_;
};

TEST(PeftFiles, ForeignAdapterWithDefaultsHalfPrecisionAndOldSpellings) {
  ForeignAdapter foreign({{"r", 4},
                          {"target_modules", {"query"}},
                          {"task_type", "SEQ_CLS"},
                          {"modules_to_save", {"classifier", "score"}},
                          {"base_model_name_or_path", "hub/name"},
                          {"some_future_option", 3}});
  foreign.add_head();
  FakeModel model;
  const auto adapter = foreign.load(model.target());
  EXPECT_EQ(adapter->recorded_base(), "hub/name");
  EXPECT_EQ(adapter->config().alpha, 8.0);  // PEFT's default
  EXPECT_EQ(adapter->terms(0)[0].down.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::allclose(adapter->change_of(3).weight, at::full({16, 16}, 4 * 0.25 * 0.5 * 2.0)));
  EXPECT_TRUE(at::equal(model.parameter("classifier.out_proj.bias"), at::full({3}, 0.5)));
  EXPECT_TRUE(at::equal(model.parameter("classifier.dense.weight"), at::full({16, 16}, 0.5)));
}

TEST(PeftFiles, NullTargetsAreTakenFromTheTensors) {
  ForeignAdapter foreign({{"r", 4}, {"lora_alpha", 4}, {"target_modules", nullptr}});
  foreign.add_head();
  FakeModel model;
  EXPECT_EQ(foreign.load(model.target())->sites().size(), 12u);
}

TEST(PeftFiles, PatternsApplyInTheOrderOfTheFile) {
  // Sorted, "layer.1.attention.self.query" comes before "query"; in the file it comes after, so "query" wins.
  TemporaryDirectory directory;
  write_text(directory.path() / "adapter_config.json",
             R"({"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["query"],
                 "rank_pattern": {"query": 4, "layer.1.attention.self.query": 2}})");
  ForeignAdapter tensors({{"r", 4}, {"target_modules", {"query"}}});
  tensors.add_head();
  FakeModel model;
  tensors.load(model.target());
  std::filesystem::copy(tensors.path() / "adapter_model.safetensors",
                        directory.path() / "adapter_model.safetensors");
  FakeModel other;
  const auto adapter = load_adapter(directory.path(), other.target());
  EXPECT_EQ(adapter->terms(1)[0].down.size(0), 4);
  EXPECT_DOUBLE_EQ(adapter->terms(1)[0].scaling, 2.0);
}

TEST(PeftFiles, ReasonsForRefusal) {
  const auto error = [](json config) { return ForeignAdapter(std::move(config)).load_error(); };
  const std::string text = error({{"use_qalora", true},
                                  {"lora_bias", true},
                                  {"init_lora_weights", "pissa_niter_4"},
                                  {"layer_replication", {{0, 4}}},
                                  {"target_modules", {"query"}}});
  EXPECT_THAT(text, HasSubstr("use_qalora: QALoRA"));
  EXPECT_THAT(text, HasSubstr("lora_bias: biases of lora_B"));
  EXPECT_THAT(text, HasSubstr("init_lora_weights: `pissa_niter_4` also changed the base weights"));
  EXPECT_THAT(text, HasSubstr("layer_replication"));
  EXPECT_THAT(error({{"r", "four"}, {"target_modules", 3}}),
              HasSubstr("r: expected a whole number, found \"four\""));
  EXPECT_THAT(error({{"r", "four"}, {"target_modules", 3}}),
              HasSubstr("target_modules: expected a list of names"));
  EXPECT_THAT(error({{"r", -4}, {"target_modules", {"query"}}}),
              HasSubstr("adapter_config.json: r: must be at least 1, but is -4"));
  EXPECT_THAT(error({{"r", 4}, {"target_modules", {"q_proj"}}}),
              AllOf(HasSubstr("adapter_config.json: target_modules: `q_proj` matches no linear layer"),
                    Not(HasSubstr("adapter.target_modules"))));
  EXPECT_THAT(error({{"r", 4}, {"target_modules", {"q_proj"}}, {"base_model_name_or_path", "org/llama"}}),
              HasSubstr("the adapter was made for org/llama; is the model that base?"));
  EXPECT_THAT(error({{"r", 4}, {"target_modules", "query"}}),
              AllOf(HasSubstr("adapter_config.json: target_modules: `query` matches no linear layer"),
                    Not(HasSubstr("nearest"))));
  EXPECT_THAT(error({{"r", 4}, {"target_modules", {"query"}}, {"lora_dropout", 2}, {"lora_alpha", -1}}),
              AllOf(HasSubstr("json: lora_dropout: must be"), HasSubstr("json: lora_alpha: must be")));
  EXPECT_THAT(error({{"r", 4}, {"target_modules", {"query"}}, {"task_type", "CAUSAL_LM"}}),
              HasSubstr("made for CAUSAL_LM"));

  ForeignAdapter other({{"r", 4}, {"target_modules", {"query"}}});
  rewrite_json(other.path() / "adapter_config.json", [](json& file) { file["peft_type"] = "LOKR"; });
  EXPECT_THAT(other.load_error(), HasSubstr("`LOKR` adapters cannot be read"));
  rewrite_json(other.path() / "adapter_config.json", [](json& file) { file.erase("peft_type"); });
  EXPECT_THAT(other.load_error(), HasSubstr("peft_type: missing"));
}

TEST(PeftFiles, AHeadStoredTwiceMustBeTheSameTwice) {
  ForeignAdapter foreign({{"r", 4}, {"target_modules", {"query"}}});
  foreign.add_head();
  foreign.add(kPrefix + "classifier.dense.bias", at::full({16}, 0.5));
  FakeModel model;
  {
    const auto adapter = foreign.load(model.target());
    EXPECT_TRUE(at::equal(model.parameter("classifier.dense.bias"), at::full({16}, 0.5)));
  }
  foreign.add(kPrefix + "classifier.modules_to_save.out_proj.bias", at::full({3}, 0.25));
  EXPECT_THAT(foreign.load_error(), AllOf(HasSubstr("has other values than"),
                                          HasSubstr("classifier.modules_to_save.out_proj.bias")));
}

TEST(PeftFiles, WithoutAHeadTheOneOfTheBaseStays) {
  ForeignAdapter foreign({{"r", 4}, {"target_modules", {"query"}}, {"task_type", "SEQ_CLS"}});
  FakeModel model;
  const at::Tensor head = model.parameter("classifier.out_proj.weight").clone();
  const auto adapter = foreign.load(model.target());
  EXPECT_TRUE(at::equal(model.parameter("classifier.out_proj.weight"), head));
  // A part of a head is a damaged file.
  foreign.add(kPrefix + "classifier.out_proj.bias", at::full({3}, 0.5));
  EXPECT_THAT(foreign.load_error(), HasSubstr("missing (3)"));
}

TEST(PeftFiles, ModulesToSaveAreWrittenForPeftsRule) {
  // PEFT takes a name for the end of any path, so `norm` is `input_layernorm` too.
  FakeModel::Options options;
  options.llama = true;
  options.layers = 2;
  FakeModel model(options), other(options);
  AdapterConfig config = config_of("lora");
  config.target_modules = {"q_proj"};
  config.modules_to_save = {"norm"};
  AdapterTarget target = model.target(), second = other.target();
  for (AdapterTarget* each : {&target, &second}) {
    for (const char* name : {"model.norm.weight", "model.layers.0.input_layernorm.weight"})
      each->parameters.push_back({name, at::full({16}, each == &target ? 2.0 : 1.0)});
  }
  TemporaryDirectory directory;
  const auto adapter = create_adapter(config, target, 3);
  randomize(*adapter);
  save_peft_adapter(*adapter, directory.path());
  const std::filesystem::path file = directory.path() / "adapter_config.json";
  EXPECT_EQ(read_json(file)["modules_to_save"], json({"model.norm"}));
  load_adapter(directory.path(), second);
  EXPECT_EQ(second.parameters.back().values()[0].item<float>(), 1.0f);

  // Read, `norm` is what PEFT takes it for.
  rewrite_json(file, [](json& config) { config["modules_to_save"] = {"norm"}; });
  EXPECT_THAT(error_text([&] { load_adapter(directory.path(), second); }),
              HasSubstr("missing (1):\n    base_model.model.model.layers.0.input_layernorm.weight"));
  config.modules_to_save = {"norm", "input_layernorm"};
  TemporaryDirectory both;
  FakeModel third(options);
  AdapterTarget target3 = third.target();
  for (size_t i = target.parameters.size() - 2; i < target.parameters.size(); ++i)
    target3.parameters.push_back({target.parameters[i].name, at::full({16}, 3.0)});
  save_peft_adapter(*create_adapter(config, target3, 3), both.path());
  EXPECT_EQ(read_json(both.path() / "adapter_config.json")["modules_to_save"],
            json({"norm", "input_layernorm"}));
}

TEST(PeftFiles, TensorsThatDoNotFitAreListedTogether) {
  ForeignAdapter foreign({{"r", 4}, {"target_modules", {"query", "value"}}});
  foreign.add(kPrefix + "roberta.encoder.layer.12.attention.self.query.lora_A.weight", at::zeros({4, 16}));
  foreign.add(kPrefix + kBlock + "0.attention.self.value.lora_A.weight", at::zeros({4, 8}));
  const std::string text = foreign.load_error();
  EXPECT_THAT(text, HasSubstr("missing (23)"));  // of value; the head of the base is used
  EXPECT_THAT(text, HasSubstr(kPrefix + kBlock + "1.attention.self.value.lora_A.weight"));
  EXPECT_THAT(text, HasSubstr("and 3 more"));
  EXPECT_THAT(text, HasSubstr("mis-shaped (1)"));
  EXPECT_THAT(text, HasSubstr("unexpected (1):\n    base_model.model.roberta.encoder.layer.12"));
}

TEST(PeftFiles, TensorsOfOtherMethods) {
  ForeignAdapter foreign({{"r", 4}, {"target_modules", {"query"}}});
  foreign.add(kPrefix + kBlock + "0.attention.self.query.lora_B.bias", at::zeros({16}));
  foreign.add(kPrefix + kBlock + "0.attention.self.value.lora_A_0.weight", at::zeros({4, 16}));
  foreign.add(kBlock + "0.attention.self.query.lora_A.weight", at::zeros({4, 16}));
  const std::string text = foreign.load_error();
  EXPECT_THAT(text, HasSubstr("a bias of lora_B"));
  EXPECT_THAT(text, HasSubstr("MSPLoRA authors' released code"));
  EXPECT_THAT(text, HasSubstr("does not begin with base_model.model."));
}

TEST(PeftFiles, PickledWeightsAreNotRead) {
  TemporaryDirectory directory;
  write_text(directory.path() / "adapter_config.json", R"({"peft_type": "LORA"})");
  write_text(directory.path() / "adapter_model.bin", "x");
  FakeModel model;
  EXPECT_THAT(error_text([&] { load_adapter(directory.path(), model.target()); }),
              HasSubstr("safe_serialization=True"));
}

}  // namespace
}  // namespace msplora
