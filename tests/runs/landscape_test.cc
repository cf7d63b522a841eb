#include "msplora/runs/landscape.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/randn_like.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "error_text.h"
#include "msplora/adapters/planning.h"
#include "train/adapted_run.h"

namespace msplora {
namespace {

AdapterConfig config_of(const std::string& method, int64_t rank) {
  AdapterConfig config;
  config.method = method;
  config.rank = rank;
  config.target_modules = {"query", "value"};
  return config_for_method(config, method);
}

/// A tiny classifier in float64 with an adapter whose factors are drawn at random.
struct Tuned : AdaptedRun {
  explicit Tuned(const AdapterConfig& config) : AdaptedRun(config, at::kDouble) {
    const c10::NoGradGuard no_grad;
    at::manual_seed(3);
    for (const TrainableTensor& tensor : adapter->trainable()) {
      at::Tensor values = tensor.tensor;
      if (tensor.group == ParameterGroup::kAdapter) values.copy_(at::randn_like(values) * 0.2);
    }
  }
  Landscape measure(const LandscapeOptions& options) {
    return measure_landscape(*model, *adapter, *task, all_of(validation), options);
  }
};

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

TEST(Landscape, LeavesModelAndAdapterAsTheyWere) {
  Tuned tuned(config_of("lora", 2));
  const at::Tensor before = tuned.logits();
  const double loss = tuned.measure({}).loss;
  EXPECT_TRUE(at::equal(tuned.logits(), before));
  EXPECT_TRUE(tuned.adapter->attached());
  for (const TrainableTensor& tensor : tuned.adapter->trainable())
    EXPECT_FALSE(tensor.tensor.grad().defined()) << tensor.name;
  // The loss is that of the adapted model, although the adapter was merged.
  const at::Tensor logits = before.to(at::kDouble);
  double expected = 0.0;
  for (size_t i = 0; i < tuned.validation.size(); ++i)
    expected -= logits[static_cast<int64_t>(i)].log_softmax(0)[tuned.validation[i].label].item<double>();
  EXPECT_NEAR(loss, expected / static_cast<double>(tuned.validation.size()), 1e-6);
}

TEST(Landscape, RisesFollowTheGradientAndTheStrength) {
  Tuned tuned(config_of("lora", 2));
  double square = 0.0;
  for (size_t i = 0; i < tuned.adapter->sites().size(); ++i) {
    const Site& site = tuned.adapter->sites()[i];
    const at::Tensor weight = site.linear->weight->values() + tuned.adapter->change_of(i).weight;
    square += weight.square().sum().item<double>();
  }
  LandscapeOptions options;
  options.strengths = {1e-6, 0.0, 0.5};
  options.draws = 3;
  const Landscape found = tuned.measure(options);
  // To first order, uphill is the step's length times the norm of the gradient.
  EXPECT_NEAR((found.around[0].uphill - found.loss) / (1e-7 * std::sqrt(square) * found.gradient_norm), 1.0,
              1e-4);
  EXPECT_THAT(found.around[1].random, testing::Each(testing::DoubleNear(found.loss, 1e-7)));
  EXPECT_THAT(found.around[2].random, testing::SizeIs(3));
  EXPECT_NE(found.around[2].random[0], found.around[2].random[1]);
  EXPECT_GT(std::abs(mean(found.around[2].random) - found.loss), 1e-4);
  // The draws are those of the seed.
  EXPECT_EQ(tuned.measure(options).around[2].random, found.around[2].random);
}

TEST(Landscape, FactorsFollowWhatTheySpan) {
  LandscapeOptions none;
  none.strengths.clear();
  const Landscape narrow = Tuned(config_of("lora", 2)).measure(none);
  EXPECT_GT(*narrow.nearest_cosine, *narrow.plain_cosine);
  EXPECT_LT(*narrow.nearest_cosine, 0.99);
  // Factors of full rank span everything.
  EXPECT_NEAR(*Tuned(config_of("lora", 32)).measure(none).nearest_cosine, 1.0, 1e-9);
  // Of shared factors the nearest change is not known; of an update that is no sum of pairs, nothing.
  const Landscape shared = Tuned(config_of("msplora", 4)).measure(none);
  EXPECT_TRUE(shared.plain_cosine);
  EXPECT_FALSE(shared.nearest_cosine);
  EXPECT_FALSE(Tuned(config_of("glora", 2)).measure(none).plain_cosine);
}

/// Gradients of the mean loss of all examples, in whatever asks for some.
void backward(Tuned& tuned) {
  std::vector<uint32_t> all(tuned.validation.size());
  std::iota(all.begin(), all.end(), 0u);
  const Batch batch = tuned.task->collate(all_of(tuned.validation), all, kEvaluationEpoch);
  (tuned.task->loss_sum(*tuned.model, batch, {}) / static_cast<double>(all.size())).backward();
}

TEST(Landscape, LayersAreComparedByTheirGradients) {
  Tuned tuned(config_of("lora", 2));
  LandscapeOptions none;
  none.strengths.clear();
  const Landscape found = tuned.measure(none);
  // The same with the changes added by hand.
  std::map<std::string, std::vector<at::Tensor>> gradients;
  for (size_t i = 0; i < tuned.adapter->sites().size(); ++i) {
    Weight& weight = *tuned.adapter->sites()[i].linear->weight;
    weight.set((weight.values() + tuned.adapter->change_of(i).weight).detach().requires_grad_(true));
  }
  tuned.adapter->detach();
  backward(tuned);
  for (const Site& site : tuned.adapter->sites())
    gradients[site.module].push_back(site.linear->weight->tensor().grad().flatten());
  ASSERT_EQ(found.layers.size(), 2u);
  for (const Landscape::Layers& stack : found.layers) {
    EXPECT_THAT(stack.layers, testing::ElementsAre(0, 1, 2));
    double sum = 0.0;
    for (size_t i = 0; i < 3; ++i) {
      for (size_t j = 0; j < 3; ++j) {
        const at::Tensor &a = gradients[stack.module][i], &b = gradients[stack.module][j];
        const double expected = (a.dot(b) / (a.norm() * b.norm())).item<double>();
        EXPECT_NEAR(stack.cosines[i][j], expected, 1e-9) << stack.module << i << j;
        if (i != j) sum += expected;
      }
    }
    EXPECT_NEAR(stack.mean, sum / 6.0, 1e-9);
  }
}

TEST(Landscape, MethodsWithoutUpdatesAreRefused) {
  EXPECT_THAT(error_text([] { Tuned(config_of("bitfit", 2)).measure({}); }),
              testing::HasSubstr("method `bitfit` puts no update on a layer"));
}

TEST(Landscape, APlainStepIsThatOfTheOptimizer) {
  // One step of gradient descent on the factors moves the loss by what the cosine says.
  Tuned tuned(config_of("msplora", 4));
  LandscapeOptions none;
  none.strengths.clear();
  const Landscape found = tuned.measure(none);
  backward(tuned);
  double decrease = 0.0, change = 0.0;  // <E, G> = sum of squares of the factors' gradients; |E|^2
  for (const TrainableTensor& tensor : tuned.adapter->trainable()) {
    if (tensor.group == ParameterGroup::kAdapter)
      decrease += tensor.tensor.grad().square().sum().item<double>();
  }
  for (size_t i = 0; i < tuned.adapter->sites().size(); ++i) {
    at::Tensor effect;
    for (const LowRankTerm& term : tuned.adapter->terms(i)) {
      const at::Tensor one =
          (term.up.detach().mm(term.down.grad()) + term.up.grad().mm(term.down.detach())) * term.scaling;
      effect = effect.defined() ? effect + one : one;
    }
    change += effect.square().sum().item<double>();
  }
  EXPECT_NEAR(*found.plain_cosine, decrease / (std::sqrt(change) * found.gradient_norm), 1e-6);
}

}  // namespace
}  // namespace msplora
