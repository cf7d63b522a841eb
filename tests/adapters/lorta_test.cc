#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <algorithm>
#include <cmath>
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

using testing::FakeModel;
using ::testing::HasSubstr;
using testing::tensor_named;

const std::vector<std::string> kEncoder = {"query", "key", "value", "attention.output.dense"};
const std::vector<std::string> kDecoder = {"q_proj", "k_proj", "v_proj", "o_proj"};

AdapterConfig lorta(int64_t rank = 3, const std::vector<std::string>& targets = kEncoder) {
  AdapterConfig config;
  config.method = "lorta";
  config.rank = rank;
  config.set("lorta.alpha", 5.0);
  config.target_modules = targets;
  return config;
}

/// The CP formula, element by element: G[a, h, b] of one layer and matrix, without the scaling.
double element(const Adapter& adapter, int64_t a, int64_t h, int64_t b, int64_t layer, int64_t matrix) {
  const auto row = [&](const char* name, int64_t i) {
    return tensor_named(adapter, name).detach().select(0, i).contiguous();
  };
  const at::Tensor factors[] = {row("lorta_A", a), row("lorta_B", b), row("lorta_C_h", h),
                                row("lorta_C_l", layer), row("lorta_C_m", matrix)};
  double sum = 0.0;
  for (int64_t p = 0; p < factors[0].size(0); ++p) {
    double product = 1.0;
    for (const at::Tensor& factor : factors) product *= factor.data_ptr<double>()[p];
    sum += product;
  }
  return sum;
}

TEST(Lorta, Counts) {
  const auto count = [](const std::vector<Site>& sites, int64_t layers, int64_t heads, int64_t rank,
                        const std::vector<std::string>& targets) {
    return count_parameters(lorta(rank, targets), sites, layers, AttentionHeads{heads, heads}).total;
  };
  EXPECT_EQ(count(testing::roberta_sites(12, 768), 12, 12, 1, kEncoder), 860);
  EXPECT_EQ(count(testing::roberta_sites(12, 768), 12, 12, 8, kEncoder), 6880);
  EXPECT_EQ(count(testing::roberta_sites(12, 768), 12, 12, 8, {"query"}), 6880);
  EXPECT_EQ(count(testing::roberta_sites(24, 1024), 24, 16, 8, kEncoder), 9056);
  const auto llama = testing::llama_sites(32, 4096);
  EXPECT_EQ(count(llama, 32, 32, 4, kDecoder), 17168);
  EXPECT_EQ(count(llama, 32, 32, 32, kDecoder), 137344);
  EXPECT_EQ(count(llama, 32, 32, 235, kDecoder), 1008620);
  EXPECT_EQ(count(testing::llama_sites(40, 5120), 40, 40, 1, kDecoder), 5332);
}

TEST(Lorta, SlicesAreThoseOfTheTensorInEveryOrientation) {
  for (const char* name : {"semantic", "peft_compat", "litgpt_compat"}) {
    const std::string orientation = name;
    FakeModel model(testing::double_options());
    AdapterConfig config = lorta();
    config.set("lorta.orientation", orientation);
    const auto adapter = create_adapter(config, model.target(), 1);
    testing::randomize(*adapter, 1.0);
    const double scaling = 5.0 / 3.0;
    ASSERT_EQ(adapter->sites().size(), 8u);
    for (size_t i = 0; i < 8; ++i) {
      const int64_t layer = static_cast<int64_t>(i) / 4, matrix = static_cast<int64_t>(i) % 4;
      const bool heads_on_input = orientation == "semantic" ? matrix == 3 : orientation == "peft_compat";
      const at::Tensor delta = adapter->change_of(i).weight.to(at::kDouble);
      for (int64_t a = 0; a < 16; a += 5) {
        for (int64_t inner = 0; inner < 16; ++inner) {
          const double expected = scaling * element(*adapter, a, inner / 4, inner % 4, layer, matrix);
          const double found = (heads_on_input ? delta[a][inner] : delta[inner][a]).item<double>();
          EXPECT_NEAR(found, expected, 1e-5 * std::max(1.0, std::abs(expected))) << orientation << " " << i;
        }
      }
    }
  }
}

TEST(Lorta, ForwardEqualsMergedWeights) {
  FakeModel model(testing::double_options());
  const auto adapter = create_adapter(lorta(), model.target(), 1);
  testing::randomize(*adapter, 1.0);
  testing::expect_merge_equals_forward(*adapter);
}

TEST(Lorta, GradientsAreExact) {
  FakeModel model(testing::double_options());
  const auto adapter = create_adapter(lorta(), model.target(), 1);
  testing::randomize(*adapter, 0.8);
  testing::expect_exact_gradients(*adapter);
}

TEST(Lorta, StartsAtTheBaseAndMovesBFirst) {
  FakeModel model(testing::double_options());
  const auto adapter = create_adapter(lorta(), model.target(), 1);
  testing::expect_base_output(*adapter);
  for (const auto& [name, gradient] : testing::gradients_of(*adapter)) {
    const double largest = gradient.abs().max().item<double>();
    EXPECT_EQ(largest > 0.0, name == "lorta_B") << name;
  }
}

TEST(Lorta, InitialFactorsHaveTheAuthorsBounds) {
  const auto largest = [](double init_scale, const char* name) {
    FakeModel::Options options;
    options.hidden = 64;
    options.heads = 16;
    FakeModel model(options);
    AdapterConfig config = lorta(16);
    config.set("lorta.init_scale", init_scale);
    return tensor_named(*create_adapter(config, model.target(), 3), name).abs().max().item<double>();
  };
  const auto expect_bound = [](double found, double bound) {
    EXPECT_LE(found, bound);
    EXPECT_GT(found, 0.9 * bound);
  };
  expect_bound(largest(0.0, "lorta_A"), 0.25);
  expect_bound(largest(0.0, "lorta_C_h"), std::sqrt(6.0 / 16));
  expect_bound(largest(0.0, "lorta_C_l"), std::sqrt(6.0 / 16));
  expect_bound(largest(1.0, "lorta_C_h"), 0.25);
  EXPECT_EQ(largest(0.0, "lorta_B"), 0.0);
}

TEST(Lorta, ScalingIsOneUnlessAlphaSaysOtherwise) {
  FakeModel model;
  AdapterConfig config = lorta(4);
  config.set("lorta.alpha", nullptr);
  EXPECT_DOUBLE_EQ(create_adapter(config, model.target(), 1)->terms(0)[0].scaling, 1.0);
  config.set("lorta.alpha", 1.0);
  EXPECT_DOUBLE_EQ(create_adapter(config, model.target(), 1)->terms(0)[0].scaling, 0.25);
  config.use_rslora = true;
  EXPECT_DOUBLE_EQ(create_adapter(config, model.target(), 1)->terms(0)[0].scaling, 0.5);
}

/// Reordering the heads of the input of `o` and the rows of C_h alike changes nothing, since heads have no
/// order; with heads on the wrong side it would.
TEST(Lorta, HeadsOfTheOutputProjectionLieOnItsInput) {
  FakeModel model(testing::double_options());
  const auto adapter = create_adapter(lorta(), model.target(), 1);
  testing::randomize(*adapter, 1.0);
  const c10::NoGradGuard no_grad;
  const size_t o = 3;
  ASSERT_EQ(adapter->sites()[o].module, "dense");
  const at::Tensor x = testing::site_input(adapter->sites()[o]);
  const at::Tensor heads = at::tensor({2, 0, 3, 1}, at::kLong);
  const at::Tensor permuted = at::index_select(x.reshape({5, 4, 4}), 1, heads).reshape({5, 16});
  const auto update = [&](const at::Tensor& input) {
    return at::linear(input, adapter->change_of(o).weight.to(at::kDouble));
  };
  const at::Tensor before = update(x);
  at::Tensor c_h = tensor_named(*adapter, "lorta_C_h");
  c_h.copy_(at::index_select(c_h, 0, heads).clone());
  EXPECT_LT((update(permuted) - before).abs().max().item<double>(), 1e-4);
  EXPECT_GT((update(x) - before).abs().max().item<double>(), 1e-2);
}

TEST(Lorta, EveryLayerSharesTheFactors) {
  FakeModel model(testing::double_options());
  const auto adapter = create_adapter(lorta(), model.target(), 1);
  testing::randomize(*adapter, 1.0);
  const auto before = testing::deltas(*adapter);
  {
    const c10::NoGradGuard no_grad;
    at::Tensor(tensor_named(*adapter, "lorta_A")).mul_(2.0);
  }
  size_t moved = 0;
  const auto after = testing::deltas(*adapter);
  for (size_t i = 0; i < after.size(); ++i) moved += at::equal(before[i], after[i]) ? 0 : 1;
  EXPECT_EQ(moved, 8u);
}

TEST(Lorta, GroupedQueryNeedsAFactorOfItsOwn) {
  FakeModel::Options options = testing::double_options();
  options.llama = true;
  options.kv_heads = 2;
  FakeModel model(options);
  AdapterConfig config = lorta(3, kDecoder);
  std::string text = error_text([&] { create_adapter(config, model.target(), 1); });
  EXPECT_THAT(text, HasSubstr("4 attention heads, but 2 for keys and values"));
  EXPECT_THAT(text, HasSubstr("adapter.lorta.grouped_query"));
  config.set("lorta.grouped_query", true);
  config.set("lorta.orientation", "peft_compat");
  EXPECT_THAT(error_text([&] { create_adapter(config, model.target(), 1); }),
              HasSubstr("the authors' programs need equal numbers"));
  config.set("lorta.orientation", "semantic");
  const auto adapter = create_adapter(config, model.target(), 1);
  EXPECT_EQ(adapter->trainable_count(ParameterGroup::kAdapter), 3 * (16 + 4 + 4 + 2 + 4 + 2));
  testing::randomize(*adapter, 1.0);
  testing::expect_merge_equals_forward(*adapter);
  testing::expect_exact_gradients(*adapter);
  // Queries and outputs alone need nothing else.
  FakeModel other(options);
  EXPECT_NO_THROW(create_adapter(lorta(3, {"q_proj", "o_proj"}), other.target(), 1));
}

TEST(Lorta, FilesGiveTheSameUpdate) {
  for (const bool peft : {false, true}) {
    TemporaryDirectory directory;
    FakeModel model, other;
    const auto adapter = create_adapter(lorta(), model.target(), 1);
    testing::randomize(*adapter, 1.0);
    peft ? save_peft_adapter(*adapter, directory.path()) : save_native_adapter(*adapter, directory.path());
    const auto loaded = load_adapter(directory.path(), other.target());
    EXPECT_EQ(loaded->config().method, peft ? "lora" : "lorta");
    const auto left = testing::deltas(*adapter), right = testing::deltas(*loaded);
    for (size_t i = 0; i < left.size(); ++i) {
      EXPECT_LE((left[i] - right[i]).abs().max().item<double>(), peft ? 1e-5 : 0.0);
    }
    if (peft) {
      EXPECT_EQ(loaded->terms(0)[0].down.size(0), 3);
    }
  }
}

TEST(Lorta, RefusesWhatIsNoProjectionOfAttention) {
  FakeModel model;
  AdapterConfig config = lorta(8, {"query", "intermediate.dense"});
  EXPECT_THAT(error_text([&] { create_adapter(config, model.target(), 1); }),
              HasSubstr("not dense [32, 16] x12"));
  std::vector<Site> gpt2 = {
      {"transformer.h.0.attn.c_attn", "c_attn", 0, 16, 48, nullptr, true, LinearRole::kQkv}};
  config.target_modules = {"c_attn"};
  EXPECT_THAT(error_text([&] {
                count_parameters(config, gpt2, 1, AttentionHeads{4, 4});
              }),
              HasSubstr("query, key and value in one matrix"));
  EXPECT_THAT(error_text([&] { count_parameters(lorta(), model.target().sites, 12); }),
              HasSubstr("the number of attention heads is not known"));
  EXPECT_THAT(error_text([&] {
                count_parameters(lorta(), model.target().sites, 12, AttentionHeads{3, 3});
              }),
              HasSubstr("does not fit a tensor of 3 heads"));
}

TEST(Lorta, RefusesOptionsOfOthers) {
  FakeModel model;
  AdapterConfig config = lorta();
  config.alpha = 4.0;
  config.init = "gaussian";
  config.ranks = {4};
  config.set("ttlora.init", "tt_svd");
  config.set("glora.search", false);
  const std::string text = error_text([&] { create_adapter(config, model.target(), 1); });
  EXPECT_THAT(text, HasSubstr("adapter.lorta.alpha"));
  EXPECT_THAT(text, HasSubstr("adapter.init: has no effect with method lorta"));
  EXPECT_THAT(text, HasSubstr("adapter.ranks: belongs to method msplora; lorta would ignore it"));
  EXPECT_THAT(text, HasSubstr("adapter.ttlora.init: belongs to method ttlora"));
  EXPECT_THAT(text, HasSubstr("adapter.glora.search: belongs to method glora"));
}

}  // namespace
}  // namespace msplora
