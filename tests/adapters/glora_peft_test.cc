// GLoRA adapters as PEFT's GLORA tuner writes and reads them.
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "adapters/fake_model.h"
#include "adapters/file_helpers.h"
#include "adapters/numeric_checks.h"
#include "error_text.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using nlohmann::json;
using testing::FakeModel;
using ::testing::HasSubstr;
using testing::kPrefix;

AdapterConfig glora(bool search) {
  AdapterConfig config;
  config.method = "glora";
  config.rank = 3;
  config.target_modules = {"query", "value"};
  config.set("glora.search", search);
  return config;
}

/// Every layer's output is the same with either adapter.
void expect_same_outputs(const Adapter& a, const Adapter& b) {
  ASSERT_EQ(a.sites().size(), b.sites().size());
  for (size_t i = 0; i < a.sites().size(); ++i) {
    const at::Tensor left = testing::site_output(a.sites()[i]), right = testing::site_output(b.sites()[i]);
    EXPECT_TRUE(at::allclose(left, right, 1e-5, 1e-6)) << a.sites()[i].path;
  }
}

struct Saved {
  explicit Saved(const AdapterConfig& config, const json& state = nullptr,
                 const FakeModel::Options& options = FakeModel::Options())
      : model(options), other(options), adapter(create_adapter(config, model.target(), 1)) {
    testing::randomize(*adapter, 0.4);
    if (!state.is_null()) adapter->restore(state, RestorePhase::kValues);
  }
  /// Writes and reads it again, on another model with the same weights.
  std::unique_ptr<Adapter> round_trip() {
    save_peft_adapter(*adapter, directory.path());
    return load_adapter(directory.path(), other.target());
  }
  json config() const { return testing::read_json(directory.path() / "adapter_config.json"); }

  FakeModel model, other;
  std::unique_ptr<Adapter> adapter;
  TemporaryDirectory directory;
};

/// Another choice for every layer, as a search may find them.
json varied_choices(const Adapter& adapter) {
  const std::vector<std::string> matrix = {"none", "constant", "vector", "lora"},
                                 input = {"none", "vector", "lora"}, output = {"none", "constant", "vector"};
  json choices;
  for (size_t i = 0; i < adapter.sites().size(); ++i) {
    choices[adapter.sites()[i].path] = {{"A", matrix[i % 4]},
                                        {"B", matrix[(i / 2 + 1) % 4]},
                                        {"C", input[i % 3]},
                                        {"D", output[(i + 1) % 3]},
                                        {"E", output[(i / 3) % 3]}};
  }
  return {{"choices", choices}};
}

TEST(GloraPeft, EqualChoicesKeepTheirForms) {
  for (const std::vector<std::string>& forms : {std::vector<std::string>{"lora", "lora", "constant"},
                                                {"vector", "vector", "vector"},
                                                {"constant", "lora", "vector"}}) {
    AdapterConfig config = glora(false);
    config.set("glora.choice_a", forms[0]).set("glora.choice_b", forms[0]);
    config.set("glora.choice_c", forms[1]);
    config.set("glora.choice_d", forms[2]).set("glora.choice_e", forms[2]);
    Saved saved(config);
    const auto loaded = saved.round_trip();
    EXPECT_EQ(saved.config()["peft_type"], "GLORA");
    EXPECT_EQ(saved.config()["config_A_B"], forms[0]);
    EXPECT_EQ(saved.config()["config_C"], forms[1]);
    EXPECT_EQ(saved.config()["config_D_E"], forms[2]);
    EXPECT_EQ(saved.config()["r"], 3);
    EXPECT_EQ(loaded->config().get("glora.choice_e"), forms[2]);
    expect_same_outputs(*saved.adapter, *loaded);
  }
}

TEST(GloraPeft, SearchedChoicesAreSpecialCasesOfTheLargest) {
  const Saved plan(glora(true));
  Saved saved(glora(true), varied_choices(*plan.adapter));
  const auto loaded = saved.round_trip();
  EXPECT_EQ(saved.config()["config_A_B"], "lora");
  EXPECT_EQ(saved.config()["config_C"], "lora");
  EXPECT_EQ(saved.config()["config_D_E"], "vector");
  EXPECT_EQ(loaded->config().get("glora.search"), false);
  expect_same_outputs(*saved.adapter, *loaded);
}

TEST(GloraPeft, LayersWithoutBiasHaveZeros) {
  FakeModel::Options options;
  options.llama = true;
  AdapterConfig config = glora(false);
  config.target_modules = {"q_proj", "v_proj"};
  Saved saved(config, nullptr, options);
  const auto loaded = saved.round_trip();
  expect_same_outputs(*saved.adapter, *loaded);
  const auto file = SafetensorsFile::open(saved.directory.path() / "adapter_model.safetensors");
  const std::string path = kPrefix + saved.adapter->sites()[0].path;
  EXPECT_EQ(file->tensor(path + ".glora_C.zeros").sizes(), (std::vector<int64_t>{16, 1}));
  EXPECT_EQ(file->tensor(path + ".glora_E.zeros").sizes(), (std::vector<int64_t>{16}));

  config.set("glora.add_bias", true);
  Saved with_bias(config, nullptr, options);
  EXPECT_THAT(error_text([&] { save_peft_adapter(*with_bias.adapter, with_bias.directory.path()); }),
              HasSubstr("has no bias, and PEFT's GLORA does without C and E there"));
}

TEST(GloraPeft, ModulesAreNamedWherePeftCouldNotSelectThem) {
  AdapterConfig config = glora(false);
  config.layers_to_transform = {1, 3};
  config.modules_to_save = {"layer.2.output"};
  Saved saved(config);
  const auto loaded = saved.round_trip();
  EXPECT_EQ(saved.config()["target_modules"].size(), 4u);
  EXPECT_THAT(saved.config()["target_modules"].get<std::vector<std::string>>(),
              ::testing::Contains("roberta.encoder.layer.3.attention.self.value"));
  expect_same_outputs(*saved.adapter, *loaded);
  testing::expect_same_base_parameters(saved.model, saved.other);
}

/// A file as PEFT 0.18 writes it, by hand: W + W * a + b with one column each, bias as it is.
class ForeignGlora : public ::testing::Test {
 protected:
  void SetUp() override {
    config_ = {
        {"peft_type", "GLORA"}, {"r", 4},         {"target_modules", {"query"}}, {"config_A_B", "vector"},
        {"config_C", "none"},   {"bias", "none"}, {"config_D_E", "none"},        {"init_weights", true}};
    const AdapterTarget target = model_.target();
    for (const Site& site : target.sites) {
      if (site.module != "query") continue;
      const std::string name = kPrefix + site.path;
      tensors_[name + ".glora_A.X"] = at::full({16, 1}, 0.5);
      tensors_[name + ".glora_B.X"] = at::full({16, 1}, 2.0);
      for (const char* absent : {".glora_C.zeros", ".glora_D.zeros", ".glora_E.zeros"}) {
        tensors_[name + absent] = at::zeros({16}).to(at::kBFloat16);
      }
    }
    for (const Parameter& parameter : model_.parameters()) {
      if (parameter.name.rfind("classifier", 0) == 0)
        tensors_[kPrefix + parameter.name] = parameter.values().clone();
    }
  }

  std::unique_ptr<Adapter> load() {
    testing::write_text(directory_.path() / "adapter_config.json", config_.dump());
    std::vector<NamedTensor> list;
    for (const auto& [name, tensor] : tensors_) list.push_back({name, tensor});
    write_safetensors(directory_.path() / "adapter_model.safetensors", list, {});
    return load_adapter(directory_.path(), model_.target());
  }
  std::string load_error() {
    return error_text([&] { load(); });
  }

  FakeModel model_;
  json config_;
  std::map<std::string, at::Tensor> tensors_;
  TemporaryDirectory directory_;
};

TEST_F(ForeignGlora, IsReadWithItsFormula) {
  const auto adapter = load();
  ASSERT_EQ(adapter->sites().size(), 12u);
  const at::Tensor weight = adapter->sites()[5].linear->weight->values();
  EXPECT_TRUE(at::allclose(adapter->change_of(5).weight, weight * 0.5 + 2.0, 1e-6, 1e-6));
  EXPECT_FALSE(adapter->change_of(5).bias.defined());
}

TEST_F(ForeignGlora, NullTargetsFollowTheTensors) {
  config_["target_modules"] = nullptr;
  EXPECT_EQ(load()->sites().size(), 12u);
}

TEST_F(ForeignGlora, WrongEntriesAndTensorsAreNamed) {
  config_["config_A_B"] = "matrix";
  config_["r"] = "four";
  const std::string text = load_error();
  EXPECT_THAT(text, HasSubstr("config_A_B: expected one of lora, vector, constant, none, found \"matrix\""));
  EXPECT_THAT(text, HasSubstr("r: expected a whole number"));
  config_["config_A_B"] = "lora";
  config_["r"] = 4;
  EXPECT_THAT(load_error(), HasSubstr("glora_A.Xd"));
}

}  // namespace
}  // namespace msplora
