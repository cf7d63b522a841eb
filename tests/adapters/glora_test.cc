#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "adapters/fake_model.h"
#include "adapters/file_helpers.h"
#include "adapters/glora_search.h"
#include "adapters/method.h"
#include "adapters/numeric_checks.h"
#include "error_text.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using detail::SiteChoice;
using detail::Support;
using testing::FakeModel;
using ::testing::HasSubstr;
using testing::tensor_named;

AdapterConfig searching(int64_t rank = 3) {
  AdapterConfig config;
  config.method = "glora";
  config.target_modules = {"query", "value"};
  config.rank = rank;
  return config;
}

AdapterConfig fixed(const std::string& a, const std::string& b, const std::string& c, const std::string& d,
                    const std::string& e) {
  AdapterConfig config = searching();
  config.set("glora.search", false);
  config.set("glora.choice_a", a);
  config.set("glora.choice_b", b);
  config.set("glora.choice_c", c);
  config.set("glora.choice_d", d);
  config.set("glora.choice_e", e);
  return config;
}

struct Made {
  explicit Made(const AdapterConfig& config, FakeModel::Options options = testing::double_options())
      : model(options), adapter(create_adapter(config, model.target(), 1)) {
    testing::randomize(*adapter, 0.4);
  }
  FakeModel model;
  std::unique_ptr<Adapter> adapter;
};

int64_t count(const AdapterConfig& config, const std::vector<Site>& sites, int64_t layers) {
  return count_parameters(config, sites, layers).total;
}

TEST(Glora, Counts) {
  AdapterConfig config = fixed("lora", "lora", "lora", "constant", "constant");
  config.rank = 8;
  EXPECT_EQ(count(config, testing::roberta_sites(12, 768), 12), 737520);
  std::vector<Site> llama;  // 3.2-3B: without biases, C, D and E are left out
  for (Site site : testing::llama_sites(28, 3072)) {
    if (site.module == "v_proj") site.out_features = 1024;
    site.has_bias = false;
    llama.push_back(site);
  }
  config.target_modules = {"q_proj", "v_proj"};
  EXPECT_EQ(count(config, llama, 28), 4587520);
  config.set("glora.choice_a", "vector").set("glora.choice_b", "vector");
  EXPECT_EQ(count(config, llama, 28), 229376);
  config.set("glora.add_bias", true);  // C [3072] lora, E constant; still no D
  EXPECT_EQ(count(config, llama, 28), 229376 + 56 * (8 * 3073 + 1));

  std::vector<Site> vit;  // ViT-B/16, everything at once
  for (int64_t l = 0; l < 12; ++l) {
    const std::string block = "blocks." + std::to_string(l) + ".";
    vit.push_back({block + "qkv", "qkv", l, 768, 2304, nullptr});
    vit.push_back({block + "proj", "proj", l, 768, 768, nullptr});
    vit.push_back({block + "fc1", "fc1", l, 768, 3072, nullptr});
    vit.push_back({block + "fc2", "fc2", l, 3072, 768, nullptr});
  }
  AdapterConfig all = searching(4);
  all.target_modules = {"qkv", "proj", "fc1", "fc2"};
  EXPECT_EQ(count(all, vit, 12), 1603776);
}

TEST(Glora, A432ChoicesForALayerWithABias) {
  const auto choices = [](bool has_bias, bool add_bias) {
    size_t product = 1;
    for (const auto& options : detail::site_space(8, 8, 2, has_bias, add_bias).options)
      product *= options.size();
    return product;
  };
  EXPECT_EQ(choices(true, false), 432u);
  EXPECT_EQ(choices(false, false), 16u);
  EXPECT_EQ(choices(false, true), 144u);
}

TEST(Glora, StartsAtTheBase) {
  for (const bool search : {true, false}) {
    FakeModel model(testing::double_options());
    AdapterConfig config = searching();
    config.set("glora.search", search);
    const auto adapter = create_adapter(config, model.target(), 1);
    testing::expect_base_output(*adapter);
  }
}

TEST(Glora, ForwardEqualsMergedWeightAndBias) {
  for (const AdapterConfig& config : {searching(), fixed("lora", "lora", "lora", "constant", "constant"),
                                      fixed("vector", "vector", "vector", "vector", "vector"),
                                      fixed("constant", "constant", "none", "constant", "none"),
                                      fixed("none", "constant", "lora", "none", "constant"),
                                      fixed("lora", "none", "vector", "none", "none")}) {
    testing::expect_merge_equals_forward(*Made(config).adapter);
  }
}

TEST(Glora, GradientsAreExact) {
  testing::expect_exact_gradients(*Made(searching()).adapter);
  testing::expect_exact_gradients(*Made(fixed("vector", "constant", "vector", "constant", "vector")).adapter);
  testing::expect_exact_gradients(*Made(fixed("constant", "vector", "none", "vector", "constant")).adapter);
  FakeModel::Options options = testing::double_options();
  options.llama = true;
  AdapterConfig config = searching();
  config.target_modules = {"q_proj"};
  config.set("glora.add_bias", true);
  testing::expect_exact_gradients(*Made(config, options).adapter);
}

TEST(Glora, CShiftsTheInput) {
  const Made made(fixed("none", "none", "vector", "none", "none"));
  const c10::NoGradGuard no_grad;
  const Site& site = made.adapter->sites()[1];
  const at::Tensor shift = tensor_named(*made.adapter, site.path + ".glora_C.X").reshape({1, -1});
  const at::Tensor expected =
      at::linear(testing::site_input(site) + shift, site.linear->weight->values(), site.linear->bias);
  EXPECT_LT((testing::site_output(site) - expected).abs().max().item<double>(), 1e-12);
}

TEST(Glora, AVectorScalesRows) {
  const Made made(fixed("vector", "none", "none", "none", "none"));
  const c10::NoGradGuard no_grad;
  const Site& site = made.adapter->sites()[1];
  const at::Tensor a = tensor_named(*made.adapter, site.path + ".glora_A.X");  // [out, 1]
  const at::Tensor expected =
      at::linear(testing::site_input(site), site.linear->weight->values() * (a + 1.0), site.linear->bias);
  EXPECT_LT((testing::site_output(site) - expected).abs().max().item<double>(), 1e-12);
}

/// Every support alone and all together, from the formula: y = (W + W * A + B) x + b + b * D + E + W C.
TEST(Glora, EverySupportIsWhatTheFormulaSays) {
  const char* kForms[] = {"lora", "vector", "constant", "none"};
  std::vector<AdapterConfig> configs = {fixed("lora", "lora", "lora", "vector", "vector"),
                                        fixed("vector", "vector", "vector", "constant", "constant"),
                                        fixed("constant", "constant", "lora", "vector", "constant")};
  for (const char* form : kForms) {
    if (std::string(form) == "none") continue;
    configs.push_back(fixed(form, "none", "none", "none", "none"));
    configs.push_back(fixed("none", form, "none", "none", "none"));
    if (std::string(form) != "constant") configs.push_back(fixed("none", "none", form, "none", "none"));
    if (std::string(form) == "lora") continue;
    configs.push_back(fixed("none", "none", "none", form, "none"));
    configs.push_back(fixed("none", "none", "none", "none", form));
  }
  for (AdapterConfig& config : configs) {
    config.target_modules = {"query", "intermediate.dense"};  // square and not
    const Made made(config);
    const c10::NoGradGuard no_grad;
    for (const Site& site : made.adapter->sites()) {
      const auto part = [&](char support, const std::string& form, std::vector<int64_t> shape) {
        const std::string name = site.path + ".glora_" + support;
        if (form == "none") return at::zeros({1}, at::kDouble).expand(shape);
        if (form != "lora") return tensor_named(*made.adapter, name + ".X").expand(shape);
        const at::Tensor product =
            at::mm(tensor_named(*made.adapter, name + ".Xd"), tensor_named(*made.adapter, name + ".Xu"));
        return product.reshape(shape);
      };
      const auto choice = [&](char support) {
        return config.get(std::string("glora.choice_") + support).get<std::string>();
      };
      const at::Tensor w = site.linear->weight->values(), b = site.linear->bias;
      const std::vector<int64_t> matrix = {site.out_features, site.in_features};
      const at::Tensor weight = w + w * part('A', choice('a'), matrix) + part('B', choice('b'), matrix);
      const at::Tensor bias = b + b * part('D', choice('d'), {site.out_features}) +
                              part('E', choice('e'), {site.out_features}) +
                              at::mm(w, part('C', choice('c'), {site.in_features, 1})).reshape({-1});
      const at::Tensor expected = at::linear(testing::site_input(site), weight, bias);
      EXPECT_LT((testing::site_output(site) - expected).abs().max().item<double>(), 1e-12)
          << site.path << " " << choice('a') << " " << choice('b') << " " << choice('c') << " " << choice('d')
          << " " << choice('e');
    }
  }
}

/// The supernet starts as the authors' (Xavier), fixed choices as PEFT's tuner (Kaiming, a = sqrt 5); what is
/// multiplied with it starts at 0.
TEST(Glora, TheStartIsThatOfTheAuthorsOrOfPeft) {
  FakeModel::Options options;
  options.hidden = 64;
  options.layers = 2;
  for (const bool search : {true, false}) {
    FakeModel model(options);
    AdapterConfig config = searching(8);
    config.set("glora.search", search);
    const auto adapter = create_adapter(config, model.target(), 1);
    for (const TrainableTensor& entry : adapter->trainable()) {
      if (entry.group != ParameterGroup::kAdapter) continue;
      const double largest = entry.tensor.abs().max().item<double>();
      if (!entry.name.ends_with(".Xu")) {
        EXPECT_EQ(largest, 0.0) << entry.name;
        continue;
      }
      const auto columns = static_cast<double>(entry.tensor.size(1));
      const double bound = search ? std::sqrt(6.0 / (8.0 + columns)) : 1.0 / std::sqrt(columns);
      EXPECT_LE(largest, bound) << entry.name;
      EXPECT_GT(largest, 0.6 * bound) << entry.name;
    }
  }
}

TEST(Glora, BAloneIsALora) {
  const Made made(fixed("none", "lora", "none", "none", "none"));
  FakeModel other(testing::double_options());
  AdapterConfig config;
  config.method = "lora";
  config.rank = 3;
  config.alpha = 3.0;
  const auto lora = create_adapter(config, other.target(), 1);
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < made.adapter->sites().size(); ++i) {
    const Site& site = made.adapter->sites()[i];
    const LowRankTerm term = lora->terms(i)[0];
    at::Tensor(term.up).copy_(tensor_named(*made.adapter, site.path + ".glora_B.Xd"));
    at::Tensor(term.down).copy_(tensor_named(*made.adapter, site.path + ".glora_B.Xu"));
    EXPECT_TRUE(at::equal(testing::site_output(site), testing::site_output(lora->sites()[i])));
  }
}

TEST(Glora, OnlyBHasALoraForm) {
  for (const char* form : {"lora", "vector", "constant"}) {
    TemporaryDirectory directory;
    const Made made(fixed("none", form, "none", "none", "none"), FakeModel::Options());
    save_peft_adapter(*made.adapter, directory.path());
    FakeModel other;
    const auto loaded = load_adapter(directory.path(), other.target());
    testing::expect_same_update(*made.adapter, *loaded);
  }
  const Made made(fixed("none", "lora", "none", "none", "constant"));
  EXPECT_THAT(detail::method_of(*made.adapter).peft.no_lora_form(*made.adapter),
              HasSubstr("only support B has a LoRA form"));
}

TEST(Glora, LayersWithoutBiasGetOneOnlyWhenAsked) {
  FakeModel::Options options = testing::double_options();
  options.llama = true;
  AdapterConfig config = searching();
  config.target_modules = {"q_proj"};
  const Made without(config, options);
  EXPECT_FALSE(without.adapter->change_of(0).bias.defined());
  testing::expect_merge_equals_forward(*without.adapter);
  config.set("glora.add_bias", true);
  const Made with(config, options);
  EXPECT_TRUE(with.adapter->change_of(0).bias.defined());
  testing::expect_merge_equals_forward(*with.adapter);
}

TEST(Glora, Bfloat16WeightsAreScaledInFloat32) {
  FakeModel::Options options;
  options.layers = 2;
  options.dtype = at::kBFloat16;
  const Made made(searching(), options);
  const c10::NoGradGuard no_grad;
  const Site& site = made.adapter->sites()[0];
  const at::Tensor x = testing::site_input(site).to(at::kBFloat16);
  const at::Tensor found = site.linear->forward(x, ForwardContext{});
  EXPECT_EQ(found.scalar_type(), at::kBFloat16);
  const at::Tensor weight = site.linear->weight->values().to(at::kFloat) + made.adapter->change_of(0).weight;
  const at::Tensor bias = site.linear->bias + made.adapter->change_of(0).bias;
  const at::Tensor expected = at::linear(x.to(at::kFloat), weight, bias);
  EXPECT_LT((found.to(at::kFloat) - expected).abs().max().item<double>(),
            0.03 * expected.abs().max().item<double>());
}

/// Forms are slices of the same tensors: a vector is the first column, a number the first element.
TEST(Glora, EveryStepTrainsTheDrawnFormsAlone) {
  Made made(searching());
  Adapter& adapter = *made.adapter;
  std::set<std::string> all;
  for (const TrainableTensor& entry : adapter.trainable()) {
    if (entry.group == ParameterGroup::kAdapter) all.insert(entry.name);
  }
  std::set<std::string> trained;
  std::set<std::set<std::string>> sets;
  for (int64_t step = 0; step < 60; ++step) {
    const std::set<std::string> frozen = adapter.begin_step({step, 60}).frozen;
    sets.insert(frozen);
    const auto gradients = testing::gradients_of(adapter);
    for (const std::string& name : all) {
      const bool moves = gradients.count(name) > 0 && gradients.at(name).abs().max().item<double>() > 0.0;
      EXPECT_EQ(moves, frozen.count(name) == 0) << name << " in step " << step;
      if (moves) trained.insert(name);
    }
  }
  EXPECT_GT(sets.size(), 50u);
  EXPECT_EQ(trained, all);
  // A step's draw depends on the seed and the step alone.
  Made again(searching());
  again.adapter->begin_step({7, 60});
  adapter.begin_step({7, 60});
  EXPECT_EQ(again.adapter->begin_step({7, 60}).frozen, adapter.begin_step({7, 60}).frozen);
}

TEST(Glora, RefusesContradictoryOptions) {
  FakeModel model;
  AdapterConfig config = searching();
  config.alpha = 4.0;
  config.dropout = 0.1;
  config.set("glora.choice_a", "none");
  config.set("glora.parents", 60);
  config.set("glora.min_parameters", 2000000);
  const std::string text = error_text([&] { create_adapter(config, model.target(), 1); });
  EXPECT_THAT(text, HasSubstr("adapter.alpha: has no effect with method glora"));
  EXPECT_THAT(text, HasSubstr("adapter.dropout: has no effect with method glora"));
  EXPECT_THAT(text, HasSubstr("adapter.glora.choice_a: has no effect, since the choices are searched"));
  EXPECT_THAT(text, HasSubstr("adapter.glora.parents: 60, but the population is 50"));
  EXPECT_THAT(text, HasSubstr("2000000 is above max_parameters, 1000000"));
  EXPECT_THAT(text, HasSubstr("but all supports together have"));
  config = fixed("none", "none", "none", "none", "none");
  EXPECT_THAT(error_text([&] { create_adapter(config, model.target(), 1); }),
              HasSubstr("the choices leave no support to train"));
}

}  // namespace
}  // namespace msplora
