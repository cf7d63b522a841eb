#include "msplora/federated/aggregator.h"
#include "msplora/core/option_io.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "msplora/core/random.h"
#include "nn/low_rank_algebra.h"

namespace msplora {
namespace {

using testing::HasSubstr;

constexpr int64_t kOut = 24, kIn = 18, kRank = 4;
const std::vector<double> kWeights = {0.1, 0.2, 0.3, 0.25, 0.15};

at::Tensor draw(int64_t rows, int64_t columns, uint64_t seed, double scale) {
  at::Tensor tensor = at::empty({rows, columns}, at::kDouble);
  RandomStream random(seed, "aggregator test");
  for (int64_t i = 0; i < tensor.numel(); ++i) tensor.data_ptr<double>()[i] = scale * random.normal();
  return tensor;
}

FactorPair pair(int64_t rank, uint64_t seed, double scaling = 2.0) {
  return {"layer", draw(rank, kIn, seed, 0.3), draw(kOut, rank, seed + 1000, 0.1), scaling};
}

/// Clients around common factors, as local training from one start gives them.
ClientUpdate client(int64_t index, int64_t rank = kRank, double scaling = 2.0) {
  FactorPair factors = pair(rank, 1, scaling);
  const auto seed = static_cast<uint64_t>(50 + index);
  factors.down = factors.down + draw(rank, kIn, seed, 0.08);
  factors.up = factors.up + draw(kOut, rank, seed + 1000, 0.06);
  return {index, 10 * (index + 1), {factors}, {{"head", draw(2, 3, seed, 1.0)}}};
}

std::vector<ClientUpdate> five_clients() {
  std::vector<ClientUpdate> updates;
  for (int64_t k = 0; k < 5; ++k) updates.push_back(client(k));
  return updates;
}

at::Tensor dense(const FactorPair& factors) {
  return at::mm(factors.up, factors.down) * factors.scaling;
}

at::Tensor ideal(const std::vector<ClientUpdate>& updates, const std::vector<double>& weights) {
  at::Tensor sum = at::zeros({kOut, kIn}, at::kDouble);
  for (size_t k = 0; k < updates.size(); ++k) sum += dense(updates[k].pairs[0]) * weights[k];
  return sum;
}

/// What the next round's model has in place of the ideal update.
at::Tensor used(const Aggregate& aggregate) {
  at::Tensor sum = dense(aggregate.pairs[0]);
  if (!aggregate.merged.empty()) sum = sum + dense(aggregate.merged[0]);
  return sum;
}

double frobenius(const at::Tensor& tensor) {
  return tensor.norm().item<double>();
}

Aggregate run(const std::string& name, const std::vector<ClientUpdate>& updates,
              const std::vector<double>& weights = kWeights, const OptionGroup& options = {},
              int64_t global_rank = kRank) {
  const AggregatorKind& kind = aggregator_kind(name);
  return aggregate(kind, options.empty() ? kind.options : options, {pair(global_rank, 1)}, updates, weights);
}

void set(OptionGroup& options, const std::string& name, const nlohmann::json& value) {
  set_option(options, name, value, "fair");
}

OptionGroup fair(double lambda, const std::string& solver = "closed_form") {
  OptionGroup options = aggregator_kind("lora_fair").options;
  set(options, "lambda", lambda);
  set(options, "solver", solver);
  return options;
}

TEST(LowRankAlgebra, AgreesWithDenseMatrices) {
  const detail::LowRank a{draw(kOut, 5, 1, 1.0), draw(5, kIn, 2, 1.0)};
  const detail::LowRank b{draw(kOut, 3, 3, 1.0), draw(3, kIn, 4, 1.0)};
  const at::Tensor dense_a = at::mm(a.up, a.down), dense_b = at::mm(b.up, b.down);
  EXPECT_NEAR(detail::frobenius_norm(a), frobenius(dense_a), 1e-11);
  EXPECT_NEAR(detail::inner_product(a, b), (dense_a * dense_b).sum().item<double>(), 1e-10);
  EXPECT_NEAR(detail::frobenius_norm(detail::plus(a, b, -0.5)), frobenius(dense_a - dense_b * 0.5), 1e-11);
  EXPECT_LT(detail::frobenius_norm(detail::plus(a, a, -1.0)), 1e-13 * frobenius(dense_a));
  // A stack that is taller than the matrix has rows.
  const detail::LowRank tall{draw(kOut, 40, 5, 1.0), draw(40, kIn, 6, 1.0)};
  EXPECT_NEAR(detail::frobenius_norm(tall), frobenius(at::mm(tall.up, tall.down)), 1e-10);
}

TEST(LowRankAlgebra, TruncatedSvdIsTheDenseOne) {
  const detail::LowRank matrix{draw(kOut, 9, 1, 1.0), draw(9, kIn, 2, 1.0)};
  const at::Tensor whole = at::mm(matrix.up, matrix.down);
  const at::Tensor values = std::get<1>(at::linalg_svd(whole, false));
  for (const int64_t rank : {1, 4, 9}) {
    const detail::TruncatedSvd svd = detail::truncated_svd(matrix, rank);
    const double tail = frobenius(values.slice(0, rank));
    EXPECT_NEAR(svd.tail, tail, 1e-10);
    EXPECT_NEAR(frobenius(whole - at::mm(svd.product.up, svd.product.down)), tail, 1e-10);
    EXPECT_TRUE(
        at::allclose(at::mm(svd.product.down, svd.product.down.t()), at::eye(rank, at::kDouble), 0, 1e-12));
  }
}

class EveryAggregator : public testing::TestWithParam<const char*> {
 protected:
  /// FFA's clients all have the A of the start.
  std::vector<ClientUpdate> updates() const {
    std::vector<ClientUpdate> updates = five_clients();
    if (std::string(GetParam()) == "ffa") {
      for (ClientUpdate& update : updates) update.pairs[0].down = pair(kRank, 1).down;
    }
    return updates;
  }
};

TEST_P(EveryAggregator, OneClientIsItself) {
  const auto one = std::vector<ClientUpdate>{updates()[2]};
  const Aggregate aggregate = run(GetParam(), one, {1.0});
  EXPECT_LT(frobenius(used(aggregate) - dense(one[0].pairs[0])), 1e-13);
  EXPECT_LT(aggregate.total.error, 1e-12);
  EXPECT_NEAR(aggregate.total.cosine, 1.0, 1e-12);
  EXPECT_EQ(aggregate.total.correction, 0.0);
  EXPECT_TRUE(at::equal(aggregate.others[0].tensor, one[0].others[0].tensor));
}

TEST_P(EveryAggregator, EqualClientsAreOne) {
  const ClientUpdate one = updates()[2];
  std::vector<ClientUpdate> same(5, one);
  for (int64_t k = 0; k < 5; ++k) same[static_cast<size_t>(k)].client = k;
  const Aggregate aggregate = run(GetParam(), same);
  EXPECT_LT(frobenius(used(aggregate) - dense(one.pairs[0])), 1e-13);
  EXPECT_EQ(aggregate.total.correction, 0.0);
  EXPECT_TRUE(at::equal(aggregate.others[0].tensor, one.others[0].tensor));
  const std::string name = GetParam();
  if (name == "flora" || name == "flexlora") return;  // they hand out other factors of the same product
  EXPECT_TRUE(at::equal(aggregate.pairs[0].up, one.pairs[0].up));
  EXPECT_TRUE(at::equal(aggregate.pairs[0].down, one.pairs[0].down));
}

TEST_P(EveryAggregator, TheOrderOfTheClientsDoesNotMatter) {
  const auto ordered = updates();
  const Aggregate a = run(GetParam(), ordered);
  const std::vector<size_t> order = {3, 0, 4, 2, 1};
  std::vector<ClientUpdate> shuffled;
  std::vector<double> weights;
  for (const size_t k : order) {
    shuffled.push_back(ordered[k]);
    weights.push_back(kWeights[k]);
  }
  const Aggregate b = run(GetParam(), shuffled, weights);
  EXPECT_TRUE(at::equal(used(a), used(b)));
  // Other names for the same clients change the order of the sums, and so no more than rounding.
  for (size_t k = 0; k < shuffled.size(); ++k) shuffled[k].client = static_cast<int64_t>(k);
  EXPECT_LT(frobenius(used(a) - used(run(GetParam(), shuffled, weights))), 1e-12);
}

TEST_P(EveryAggregator, HeadsAreAveraged) {
  const auto all = updates();
  at::Tensor mean = at::zeros({2, 3}, at::kDouble);
  for (size_t k = 0; k < all.size(); ++k) mean += all[k].others[0].tensor * kWeights[k];
  EXPECT_LT(frobenius(run(GetParam(), all).others[0].tensor - mean), 1e-14);
}

TEST_P(EveryAggregator, ReportsTheErrorOfDenseMatrices) {
  const auto all = updates();
  const Aggregate aggregate = run(GetParam(), all);
  const at::Tensor wanted = ideal(all, kWeights), got = used(aggregate);
  EXPECT_NEAR(aggregate.total.norm, frobenius(wanted), 1e-12);
  EXPECT_NEAR(aggregate.total.error, frobenius(wanted - got) / frobenius(wanted), 1e-12);
  EXPECT_NEAR(aggregate.total.cosine,
              (wanted * got).sum().item<double>() / (frobenius(wanted) * frobenius(got)), 1e-12);
  ASSERT_EQ(aggregate.errors.size(), 1U);
  EXPECT_EQ(aggregate.errors[0].name, "layer");
  EXPECT_NEAR(aggregate.errors[0].error, aggregate.total.error, 1e-15);
}

INSTANTIATE_TEST_SUITE_P(Names, EveryAggregator,
                         testing::Values("fedit", "ffa", "flora", "flexlora", "fedex", "lora_fair"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Aggregators, FedItAveragesFactorsAndFloraFedExAndFfaAreExact) {
  const auto all = five_clients();
  const at::Tensor wanted = ideal(all, kWeights);
  const double averaging_error = run("fedit", all).total.error;
  EXPECT_GT(averaging_error, 0.01);
  for (const char* name : {"flora", "fedex"}) {
    const Aggregate aggregate = run(name, all);
    EXPECT_LT(frobenius(used(aggregate) - wanted), 1e-13 * frobenius(wanted)) << name;
    EXPECT_LT(aggregate.total.error, 1e-13) << name;
  }
  EXPECT_EQ(run("flora", all).merged[0].rank(), 5 * kRank);
  EXPECT_EQ(run("fedex", all).merged[0].rank(), 4 * kRank);
  EXPECT_EQ(frobenius(run("flora", all).pairs[0].up), 0.0);
  auto frozen = all;
  for (ClientUpdate& update : frozen) update.pairs[0].down = pair(kRank, 1).down;
  EXPECT_LT(run("ffa", frozen).total.error, 1e-13);
  // With equal A there is nothing to correct either.
  EXPECT_EQ(run("lora_fair", frozen).total.correction, 0.0);
}

TEST(Aggregators, FlexLoraLeavesTheTailOfTheSingularValues) {
  const auto all = five_clients();
  const at::Tensor wanted = ideal(all, kWeights);
  const at::Tensor values = std::get<1>(at::linalg_svd(wanted, false));
  const Aggregate aggregate = run("flexlora", all);
  EXPECT_NEAR(frobenius(wanted - used(aggregate)), frobenius(values.slice(0, kRank)), 1e-12);
  EXPECT_LT(aggregate.total.error, run("fedit", all).total.error);
  // A rank that reaches that of the sum is exact.
  EXPECT_LT(run("flexlora", all, kWeights, {}, kIn).total.error, 1e-12);
}

TEST(Aggregators, MixedRanksWhereTheyAreDefined) {
  const std::vector<ClientUpdate> mixed = {client(0, 6, 16.0 / 6), client(1, 2, 8.0), client(2, 1, 16.0)};
  const std::vector<double> weights = {0.5, 0.3, 0.2};
  const at::Tensor wanted = ideal(mixed, weights);
  EXPECT_LT(frobenius(used(run("flora", mixed, weights)) - wanted), 1e-13);
  const Aggregate flex = run("flexlora", mixed, weights, {}, 6);
  const at::Tensor values = std::get<1>(at::linalg_svd(wanted, false));
  EXPECT_NEAR(frobenius(wanted - used(flex)), frobenius(values.slice(0, 6)), 1e-12);
  // A client of rank 2 starts from the best approximation of rank 2, whatever its scaling.
  const FactorPair part = truncated(flex.pairs[0], 2, 8.0);
  EXPECT_EQ(part.rank(), 2);
  EXPECT_NEAR(frobenius(wanted - dense(part)), frobenius(values.slice(0, 2)), 1e-12);
  for (const char* name : {"fedit", "ffa", "fedex", "lora_fair"}) {
    try {
      run(name, mixed, weights);
      FAIL() << name;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(),
                  testing::AllOf(HasSubstr("client 1"), HasSubstr("client 2"), HasSubstr("flexlora")));
    }
  }
}

TEST(Aggregators, FlexLoraKeepsDirectionsThatTheClientsDoNotReach) {
  const Aggregate aggregate = run("flexlora", {client(0, 2)}, {1.0});
  const FactorPair& next = aggregate.pairs[0];
  EXPECT_EQ(next.rank(), kRank);
  EXPECT_TRUE(at::equal(next.down.slice(0, 2), pair(kRank, 1).down.slice(0, 2)));
  EXPECT_EQ(frobenius(next.up.slice(1, 2)), 0.0);
  EXPECT_LT(aggregate.total.error, 1e-13);
}

TEST(LoraFair, IsNeverWorseThanAveragingAndGrowsWithLambda) {
  const auto all = five_clients();
  const at::Tensor wanted = ideal(all, kWeights);
  const double averaging = frobenius(wanted - used(run("fedit", all)));
  double last = 0.0;
  for (const double lambda : {0.0, 1e-3, 0.01, 0.1, 1.0, 10.0, 1e3}) {
    const double error = frobenius(wanted - used(run("lora_fair", all, kWeights, fair(lambda))));
    EXPECT_LT(error, averaging) << lambda;
    EXPECT_GE(error, last) << lambda;
    last = error;
  }
  EXPECT_NEAR(frobenius(wanted - used(run("lora_fair", all, kWeights, fair(1e12)))), averaging, 1e-9);
}

TEST(LoraFair, SolvesTheNormalEquation) {
  const auto all = five_clients();
  const double lambda = 0.05;
  const FactorPair mean = run("fedit", all).pairs[0];
  const at::Tensor correction = run("lora_fair", all, kWeights, fair(lambda)).pairs[0].up - mean.up;
  const at::Tensor residual = ideal(all, kWeights) / 2.0 - at::mm(mean.up, mean.down);
  const at::Tensor gradient =
      at::mm(residual - at::mm(correction, mean.down), mean.down.t()) - correction * lambda;
  EXPECT_GT(frobenius(correction), 1e-3);
  EXPECT_LT(frobenius(gradient), 1e-13);
  OptionGroup relative = fair(lambda);
  set(relative, "lambda_relative", true);
  const double scale = at::mm(mean.down, mean.down.t()).trace().item<double>() / kRank;
  EXPECT_LT(frobenius(run("lora_fair", all, kWeights, relative).pairs[0].up -
                      run("lora_fair", all, kWeights, fair(lambda * scale)).pairs[0].up),
            1e-14);
}

TEST(LoraFair, WithoutPenaltyOnlyTheResidualBesideAIsLeft) {
  const auto all = five_clients();
  const FactorPair mean = run("fedit", all).pairs[0];
  const at::Tensor residual = ideal(all, kWeights) - dense(mean);
  const at::Tensor outside =
      at::eye(kIn, at::kDouble) -
      at::mm(at::mm(mean.down.t(), at::linalg_inv(at::mm(mean.down, mean.down.t()))), mean.down);
  EXPECT_NEAR(frobenius(ideal(all, kWeights) - used(run("lora_fair", all, kWeights, fair(0.0)))),
              frobenius(at::mm(residual, outside)), 1e-12);
  // Dependent rows of A leave the correction finite.
  auto dependent = all;
  for (ClientUpdate& update : dependent)
    update.pairs[0].down.select(0, 1).copy_(update.pairs[0].down.select(0, 0));
  const Aggregate aggregate = run("lora_fair", dependent, kWeights, fair(0.0));
  EXPECT_LE(aggregate.total.error, run("fedit", dependent).total.error);
}

TEST(LoraFair, CosineDescentStaysBelowItsStart) {
  const auto all = five_clients();
  const at::Tensor wanted = ideal(all, kWeights);
  const FactorPair mean = run("fedit", all).pairs[0];
  const auto objective = [&](const at::Tensor& up, double lambda) {
    const at::Tensor got = at::mm(up, mean.down);
    return 1.0 - (wanted * got).sum().item<double>() / (frobenius(wanted) * frobenius(got)) +
           lambda * (up - mean.up).square().sum().item<double>();
  };
  const double start = objective(mean.up, 0.0);
  double best = 0.0;
  for (const double lambda : {0.0, 0.01, 1.0}) {
    for (const double step : {0.01, 100.0}) {
      OptionGroup options = fair(lambda, "cosine");
      set(options, "step", step);
      set(options, "iterations", 3000);
      const Aggregate aggregate = run("lora_fair", all, kWeights, options);
      EXPECT_LT(objective(aggregate.pairs[0].up, lambda), start) << lambda << " " << step;
      EXPECT_GT(aggregate.total.cosine, 1.0 - start);
      best = std::max(best, aggregate.total.cosine);
    }
  }
  // With A fixed no correction has a larger cosine than the least-squares one.
  const double limit = run("lora_fair", all, kWeights, fair(0.0)).total.cosine;
  EXPECT_LE(best, limit + 1e-12);
  EXPECT_NEAR(best, limit, 1e-4);
}

/// Eq. 8 is the paper's; the least-squares form is a choice.
TEST(LoraFair, CosineIsTheDefaultAndConvergesAtEverySize) {
  EXPECT_EQ(to_json(aggregator_kind("lora_fair").options)["solver"], "cosine");
  for (const double size : {1e-3, 1.0, 30.0}) {
    auto all = five_clients();
    for (ClientUpdate& update : all) update.pairs[0].up.mul_(size);
    const double none = run("fedit", all).total.cosine;
    const double limit = run("lora_fair", all, kWeights, fair(0.0)).total.cosine;
    OptionGroup options = fair(0.0, "cosine");
    const Aggregate aggregate = run("lora_fair", all, kWeights, options);
    EXPECT_GT(limit, none);
    EXPECT_NEAR(aggregate.total.cosine, limit, 0.01 * (limit - none)) << size;
    // It turns B A and does not stretch it: the size of the averaged product is no part of the objective.
    EXPECT_GT(aggregate.total.correction, 0.0);
    set(options, "lambda", 1e6 / (size * size));  // the penalty is that of the correction's own size
    EXPECT_NEAR(run("lora_fair", all, kWeights, options).total.cosine, none, 1e-3 * (limit - none)) << size;
  }
}

TEST(Aggregators, NameEverythingThatDoesNotFit) {
  auto all = five_clients();
  all[1].pairs[0].down = all[1].pairs[0].down.slice(1, 0, 5);
  all[3].pairs.clear();
  all[4].others.clear();
  try {
    run("fedit", all);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                testing::AllOf(HasSubstr("client 1"), HasSubstr("client 3"), HasSubstr("client 4")));
  }
  EXPECT_THROW(run("fedit", five_clients(), {0.5, 0.5}), Error);
  EXPECT_THROW(run("fedit", five_clients(), {0.3, 0.3, 0.3, 0.3, 0.3}), Error);
  EXPECT_THROW(run("fedit", {}, {}), Error);
  EXPECT_THROW(aggregator_kind("fedlt"), Error);
}

TEST(Aggregators, WeightsAndFiniteness) {
  auto all = five_clients();
  EXPECT_THAT(client_weights(all, "examples"),
              testing::ElementsAre(10.0 / 150, 20.0 / 150, 30.0 / 150, 40.0 / 150, 50.0 / 150));
  EXPECT_THAT(client_weights(all, "uniform"), testing::Each(testing::DoubleEq(0.2)));
  EXPECT_EQ(not_finite_tensor(all[0]), "");
  all[0].pairs[0].up.data_ptr<double>()[3] = std::numeric_limits<double>::infinity();
  EXPECT_EQ(not_finite_tensor(all[0]), "layer (B)");
}

}  // namespace
}  // namespace msplora
