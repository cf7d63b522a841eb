#include <ATen/TensorOperators.h>
#include <ATen/ops/einsum.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
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
#include "adapters/tensor_train.h"
#include "error_text.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using ::testing::ElementsAre;
using testing::FakeModel;
using ::testing::HasSubstr;
using testing::tensor_named;
using Factors = std::vector<int64_t>;

AdapterConfig ttlora(int64_t rank = 3) {
  AdapterConfig config;
  config.method = "ttlora";
  config.target_modules = {"query", "value"};
  config.rank = rank;
  config.alpha = 1.75;
  return config;
}

/// intermediate.dense is [32, 16]: input and output differ.
AdapterConfig wide_config(const std::string& convention = "canonical") {
  AdapterConfig config = ttlora();
  config.target_modules = {"intermediate.dense"};
  config.set("ttlora.convention", convention);
  config.set("ttlora.shape",
             convention == "orig_reconstruct" ? Factors{2, 4, 4, 8, 2} : Factors{8, 2, 2, 4, 4});
  return config;
}

std::vector<at::Tensor> cores_of(const Adapter& adapter, size_t site) {
  std::vector<at::Tensor> cores;
  for (const TrainableTensor& entry : adapter.trainable()) {
    if (entry.name.rfind(adapter.sites()[site].path + ".tt_cores.", 0) == 0) {
      cores.push_back(entry.tensor.detach());
    }
  }
  return cores;
}

/// T as one long row-major vector: cores contracted from the left, nothing else.
at::Tensor full_tensor(const std::vector<at::Tensor>& cores) {
  at::Tensor tensor = cores[0].reshape({-1, cores[0].size(2)});
  for (size_t k = 1; k < cores.size(); ++k) {
    tensor = at::einsum("ar,rns->ans", {tensor, cores[k]}).reshape({-1, cores[k].size(2)});
  }
  return tensor.reshape({-1});
}

/// x T as the authors' contraction loop writes it: x is unfolded by the reversed input factors, each input
/// core sums over the last axis, each output core appends one.
at::Tensor contracted(const at::Tensor& x, const std::vector<at::Tensor>& cores, size_t inputs) {
  const int64_t tokens = x.size(0);
  at::Tensor state = x.unsqueeze(-1);
  for (size_t k = 0; k < inputs; ++k) {
    const int64_t n = cores[k].size(1), r = cores[k].size(0);
    state = at::einsum("tamr,rms->tas", {state.reshape({tokens, -1, n, r}), cores[k]});
  }
  state = state.reshape({tokens, 1, -1});
  for (size_t k = inputs; k < cores.size(); ++k) {
    state = at::einsum("tar,rns->tans", {state, cores[k]}).reshape({tokens, -1, cores[k].size(2)});
  }
  return state.reshape({tokens, -1});
}

int64_t count_with_shape(const std::vector<Site>& sites, int64_t layers, int64_t rank, const Factors& shape) {
  AdapterConfig config = ttlora(rank);
  config.target_modules = {sites.front().module};
  config.set("ttlora.shape", shape);
  return count_parameters(config, sites, layers).total;
}

std::vector<Site> square(int64_t width) {
  return {{"block.0.query", "query", 0, width, width, nullptr}};
}

TEST(Ttlora, CountsOfOneMatrix) {
  const Factors roberta = {12, 8, 8, 2, 2, 2, 8, 12};
  EXPECT_EQ(count_with_shape(square(768), 1, 2, roberta), 168);
  EXPECT_EQ(count_with_shape(square(768), 1, 4, roberta), 576);
  EXPECT_EQ(count_with_shape(square(768), 1, 5, roberta), 870);
  EXPECT_EQ(count_with_shape(square(768), 1, 5, {64, 4, 3, 3, 4, 64}), 990);
  EXPECT_EQ(count_with_shape(square(4096), 1, 5, {16, 16, 16, 16, 16, 16}), 1760);
  EXPECT_EQ(count_with_shape(square(4096), 1, 4, {16, 8, 8, 4, 4, 8, 8, 16}), 768);
}

TEST(Ttlora, CountsOfModels) {
  AdapterConfig config = ttlora(4);
  config.set("ttlora.shape", {12, 8, 8, 2, 2, 2, 8, 12});
  EXPECT_EQ(count_parameters(config, testing::roberta_sites(12, 768), 12).total, 13824);
  config.rank = 5;
  config.set("ttlora.shape", {64, 4, 3, 3, 4, 64});
  EXPECT_EQ(count_parameters(config, testing::roberta_sites(12, 768), 12).total, 23760);

  const auto llama = [](int64_t layers, int64_t hidden, int64_t kv) {
    std::vector<Site> sites;
    for (const Site& site : testing::llama_sites(layers, hidden)) {
      sites.push_back(site);
      if (site.module == "v_proj") sites.back().out_features = kv;
    }
    return sites;
  };
  config.target_modules = {"q_proj", "v_proj"};
  config.set("ttlora.shape", nlohmann::json::array());
  // 16 x 16 x 16 on both sides is what is chosen without a shape.
  EXPECT_EQ(count_parameters(config, llama(32, 4096, 4096), 32).total, 112640);
  config.set("ttlora.shape_pattern", {{"q_proj", {16, 4, 4, 4, 2, 2, 2, 2, 4, 4, 4, 16}},
                                      {"v_proj", {16, 4, 4, 4, 2, 2, 2, 2, 4, 4, 16}}});
  EXPECT_EQ(count_parameters(config, llama(32, 4096, 1024), 32).total, 58240);
  config.set("ttlora.shape_pattern",
             {{"q_proj", {16, 8, 4, 4, 4, 4, 8, 16}}, {"v_proj", {16, 16, 4, 2, 2, 16, 16}}});
  EXPECT_EQ(count_parameters(config, llama(16, 2048, 512), 16).total, 33920);
}

TEST(Ttlora, ShapesAreChosenByTheDimensions) {
  EXPECT_THAT(detail::small_factors(768), ElementsAre(12, 8, 8));
  EXPECT_THAT(detail::small_factors(4096), ElementsAre(16, 16, 16));
  EXPECT_THAT(detail::small_factors(3072), ElementsAre(16, 16, 12));
  EXPECT_THAT(detail::small_factors(11008), ElementsAre(43, 16, 16));
  EXPECT_THAT(detail::small_factors(16), ElementsAre(16));
  EXPECT_THAT(detail::small_factors(1), ElementsAre(1));
  EXPECT_THAT(detail::small_factors(2 * 289), ElementsAre(17, 17, 2));
  FakeModel::Options options;
  options.hidden = 96;
  options.layers = 1;
  FakeModel model(options);
  const auto cores = cores_of(*create_adapter(ttlora(), model.target(), 1), 0);
  Factors extents;
  for (const at::Tensor& core : cores) extents.push_back(core.size(1));
  EXPECT_THAT(extents, ElementsAre(12, 8, 8, 12));
}

TEST(Ttlora, CanonicalUpdateIsTheTensorInOrder) {
  FakeModel model(testing::double_options());
  const auto adapter = create_adapter(wide_config(), model.target(), 1);
  testing::randomize(*adapter, 0.8);
  for (size_t i = 0; i < adapter->sites().size(); ++i) {
    const at::Tensor expected = 1.75 * full_tensor(cores_of(*adapter, i)).reshape({16, 32}).t();
    EXPECT_LT((adapter->change_of(i).weight - expected).abs().max().item<double>(), 1e-5);
  }
}

TEST(Ttlora, OriginalUpdateIsTheTensorReshapedToTheWeight) {
  FakeModel model(testing::double_options());
  const auto adapter = create_adapter(wide_config("orig_reconstruct"), model.target(), 1);
  testing::randomize(*adapter, 0.8);
  const at::Tensor expected = 1.75 * full_tensor(cores_of(*adapter, 1)).reshape({32, 16});
  EXPECT_LT((adapter->change_of(1).weight - expected).abs().max().item<double>(), 1e-5);
}

TEST(Ttlora, ContractionFormIsTheLoopOverCores) {
  FakeModel model(testing::double_options());
  const auto adapter = create_adapter(wide_config("lanl_contract"), model.target(), 1);
  testing::randomize(*adapter, 0.8);
  const c10::NoGradGuard no_grad;
  const Site& site = adapter->sites()[0];
  const at::Tensor x = testing::site_input(site);
  const at::Tensor expected = at::linear(x, site.linear->weight->values(), site.linear->bias) +
                              1.75 * contracted(x, cores_of(*adapter, 0), 2);
  EXPECT_LT((testing::site_output(site) - expected).abs().max().item<double>(), 1e-10);
  // The same cores in the canonical order are another operator.
  FakeModel other(testing::double_options());
  const auto canonical = create_adapter(wide_config(), other.target(), 1);
  testing::randomize(*canonical, 0.8);
  EXPECT_GT((canonical->change_of(0).weight - adapter->change_of(0).weight).abs().max().item<double>(), 0.1);
}

TEST(Ttlora, ForwardEqualsMergedWeightsAndGradientsAreExact) {
  for (const char* convention : {"canonical", "orig_reconstruct", "lanl_contract"}) {
    FakeModel model(testing::double_options());
    const auto adapter = create_adapter(wide_config(convention), model.target(), 1);
    testing::randomize(*adapter, 0.8);
    testing::expect_merge_equals_forward(*adapter);
    testing::expect_exact_gradients(*adapter);
  }
}

TEST(Ttlora, TwoCoresAreALora) {
  FakeModel model(testing::double_options()), other(testing::double_options());
  AdapterConfig config = wide_config();
  config.set("ttlora.shape", {16, 32});
  const auto train = create_adapter(config, model.target(), 1);
  testing::randomize(*train, 0.5);
  AdapterConfig lora = config;
  lora.method = "lora";
  lora.set("ttlora.shape", nlohmann::json::array());
  lora.alpha = config.alpha * 3.0;  // scaling alpha / r equals TT-LoRA's alpha
  const auto plain = create_adapter(lora, other.target(), 1);
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < train->sites().size(); ++i) {
    const auto cores = cores_of(*train, i);
    const LowRankTerm term = plain->terms(i)[0];
    at::Tensor(term.down).copy_(cores[0].reshape({16, 3}).t());
    at::Tensor(term.up).copy_(cores[1].reshape({3, 32}).t());
    const at::Tensor left = testing::site_output(train->sites()[i]);
    const at::Tensor right = testing::site_output(plain->sites()[i]);
    EXPECT_LT((left - right).abs().max().item<double>(), 1e-12);
  }
}

TEST(Ttlora, InitialCores) {
  FakeModel model(testing::double_options());
  const auto direct = create_adapter(wide_config(), model.target(), 1);
  for (const at::Tensor& core : cores_of(*direct, 0)) EXPECT_NEAR(core.norm().item<double>(), 1.0, 1e-6);
  EXPECT_GT(direct->change_of(0).weight.abs().max().item<double>(), 0.0);
  EXPECT_FALSE(at::equal(direct->change_of(0).weight, direct->change_of(1).weight));
  AdapterConfig config = wide_config();
  config.set("ttlora.init", "zero_last");
  FakeModel other(testing::double_options());
  const auto zero = create_adapter(config, other.target(), 1);
  testing::expect_base_output(*zero);
  for (const auto& [name, gradient] : testing::gradients_of(*zero)) {
    const double largest = gradient.abs().max().item<double>();
    EXPECT_EQ(largest > 0.0, name.ends_with(".4")) << name;
  }
}

TEST(Ttlora, SvdAtFullRankGivesTheMatrixBack) {
  const at::Tensor matrix = testing::drawn("matrix", {16, 32});
  const Factors factors = {4, 4, 4, 8};
  std::vector<at::Tensor> filler;
  for (const auto& shape : detail::core_shapes(factors, 32)) filler.push_back(testing::drawn("f", shape));
  const auto cores = detail::tensor_train_svd(matrix, factors, 32, filler);
  EXPECT_LT((full_tensor(cores).reshape({16, 32}) - matrix).abs().max().item<double>(), 1e-12);
  // Columns beyond a bond's width are there to be trained.
  EXPECT_TRUE(at::equal(cores[0].narrow(2, 4, 28), filler[0].narrow(2, 4, 28)));
  const auto sides = detail::sides_at_cut(cores, 2);
  EXPECT_LT((at::mm(sides.left, sides.right) - matrix).abs().max().item<double>(), 1e-12);
}

/// The drawn matrix has the authors' bound; every convention decomposes it for its own order of indices.
TEST(Ttlora, SvdStartDecomposesTheSameMatrixInEveryConvention) {
  std::vector<at::Tensor> found;
  for (const char* convention : {"canonical", "orig_reconstruct", "lanl_contract"}) {
    FakeModel model(testing::double_options());
    AdapterConfig config = wide_config(convention);
    config.rank = 16;  // full at the cut
    config.set("ttlora.shape",
               std::string(convention) == "orig_reconstruct" ? Factors{32, 4, 4} : Factors{4, 4, 32});
    config.set("ttlora.init", "tt_svd");
    config.alpha = 1.0;
    found.push_back(create_adapter(config, model.target(), 1)->change_of(0).weight);
  }
  EXPECT_LT((found[0] - found[1]).abs().max().item<double>(), 1e-6);
  EXPECT_LT((found[0] - found[2]).abs().max().item<double>(), 1e-6);
  const double bound = std::sqrt(2.0 / (3.0 * 16.0));
  EXPECT_LE(found[0].abs().max().item<double>(), bound * 1.0001);
  EXPECT_GT(found[0].abs().max().item<double>(), 0.95 * bound);
}

TEST(Ttlora, FilesGiveTheSameUpdate) {
  for (const bool peft : {false, true}) {
    TemporaryDirectory directory;
    FakeModel model, other;
    const auto adapter = create_adapter(wide_config("lanl_contract"), model.target(), 1);
    testing::randomize(*adapter, 0.8);
    peft ? save_peft_adapter(*adapter, directory.path()) : save_native_adapter(*adapter, directory.path());
    const auto loaded = load_adapter(directory.path(), other.target());
    testing::expect_same_update(*adapter, *loaded);
    if (peft) {
      EXPECT_EQ(loaded->terms(0)[0].down.size(0), 3);
    }
  }
}

TEST(Ttlora, RefusesShapesWithoutACut) {
  AdapterConfig config = ttlora(4);
  config.set("ttlora.shape", {64, 16, 9, 64});
  config.use_rslora = true;
  const auto sites = testing::roberta_sites(12, 768);
  const std::string text = error_text([&] { count_parameters(config, sites, 12); });
  EXPECT_THAT(text, HasSubstr("[64, 16, 9, 64] must be factors of 768, then factors of 768"));
  EXPECT_THAT(text, HasSubstr("query [768, 768] x12, value [768, 768] x12"));
  EXPECT_THAT(text, HasSubstr("for example [12, 8, 8, 8, 8, 12]"));
  EXPECT_THAT(text, HasSubstr("adapter.use_rslora: has no effect with method ttlora"));
  config.use_rslora = false;
  config.set("ttlora.shape_pattern", {{"qery", {768, 768}}, {"(", {2}}, {"query", nlohmann::json::array()}});
  const std::string rest = error_text([&] { count_parameters(config, sites, 12); });
  EXPECT_THAT(rest, HasSubstr("`qery` matches no targeted module"));
  EXPECT_THAT(rest, HasSubstr("is no regular expression"));
  EXPECT_THAT(rest, HasSubstr("the shape of `query` is empty"));
  config.set("ttlora.shape_pattern", {{"query", {1, 768, 768}}});
  EXPECT_THAT(error_text([&] { count_parameters(config, sites, 12); }), HasSubstr("must be at least 2"));
}

}  // namespace
}  // namespace msplora
