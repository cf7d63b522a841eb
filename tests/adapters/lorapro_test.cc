// LoRA-Pro's own updates against the dense formulas, in float64 and without a training loop.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "adapters/fake_model.h"
#include "adapters/numeric_checks.h"
#include "msplora/adapters/adapter.h"
#include "nn/drawn_tensors.h"

namespace msplora {
namespace {

using testing::FakeModel;
using ::testing::IsEmpty;
using testing::normals;

/// So small that the change of s B A is its first order.
constexpr double kRate = 1e-7;

double frobenius(const at::Tensor& tensor) {
  return tensor.norm().item<double>();
}

/// A square and a wide layer with LoRA-Pro, random factors, and gradients of whole weights to move them by.
struct Pro {
  explicit Pro(const std::string& mode, const std::string& split = "sylvester")
      : model(testing::double_options()) {
    AdapterConfig config;
    config.method = "lorapro";
    config.rank = 3;
    config.alpha = 5.0;  // s = 5/3
    config.target_modules = {"query", "intermediate.dense"};
    config.layers_to_transform = {0};
    config.set("lorapro.mode", mode);
    config.set("lorapro.split", split);
    config.set("lorapro.damping", 0.0);
    adapter = create_adapter(config, model.target(), 1);
    testing::randomize(*adapter, 0.7);
    rule.lr = kRate;
  }

  static constexpr double kScaling = 5.0 / 3.0;

  const LowRankTerm term(size_t site) const { return adapter->terms(site)[0]; }
  at::Tensor down(size_t site) const { return term(site).down.detach().clone(); }
  at::Tensor up(size_t site) const { return term(site).up.detach().clone(); }
  at::Tensor product(size_t site) const { return at::mm(up(site), down(site)) * kScaling; }

  /// The gradient of the weight of a site in a step.
  at::Tensor gradient(size_t site, int64_t step) const {
    const Site& s = adapter->sites()[site];
    return normals({s.out_features, s.in_features}, fmt::format("G {} {}", site, step)) *
           std::pow(3.0, static_cast<double>(step));
  }

  /// What a backward pass through y = (W + s B A) x leaves on the factors.
  void set_gradients(int64_t step) const {
    for (size_t i = 0; i < adapter->sites().size(); ++i) {
      const LowRankTerm t = term(i);
      at::Tensor(t.down).mutable_grad() = at::mm(up(i).t(), gradient(i, step)) * kScaling;
      at::Tensor(t.up).mutable_grad() = at::mm(gradient(i, step), down(i).t()) * kScaling;
    }
  }

  /// P_B G + G P_A - P_B G P_A: the nearest to G that factors can follow.
  at::Tensor projected(size_t site, const at::Tensor& g) const {
    const at::Tensor a = down(site), b = up(site);
    const at::Tensor pa = at::mm(at::mm(a.t(), at::linalg_inv(at::mm(a, a.t()))), a);
    const at::Tensor pb = at::mm(at::mm(b, at::linalg_inv(at::mm(b.t(), b))), b.t());
    return at::mm(pb, g) + at::mm(g, pa) - at::mm(at::mm(pb, g), pa);
  }

  FakeModel model;
  std::unique_ptr<Adapter> adapter;
  StepRule rule;
};

/// Three steps of Adam on the dense projected gradient, each projected again.
TEST(LoraProUpdate, FullModeIsAdamOfTheProjectedGradient) {
  for (const char* split : {"sylvester", "symmetric", "zero"}) {
    Pro pro("full", split);
    pro.rule.gradient_scale = 0.25;  // of clipping
    pro.rule.beta1 = 0.8;
    pro.rule.beta2 = 0.95;
    const size_t sites = pro.adapter->sites().size();
    ASSERT_EQ(sites, 2u);
    const c10::NoGradGuard no_grad;
    std::vector<at::Tensor> first, second;
    for (size_t i = 0; i < sites; ++i) {
      first.push_back(at::zeros_like(pro.product(i)));
      second.push_back(at::zeros_like(pro.product(i)));
    }
    for (int64_t step = 1; step <= 3; ++step) {
      pro.set_gradients(step);
      std::vector<at::Tensor> expected, before;
      for (size_t i = 0; i < sites; ++i) {
        const at::Tensor g = pro.projected(i, pro.gradient(i, step) * 0.25);
        first[i] = first[i] * 0.8 + g * 0.2;
        second[i] = second[i] * 0.95 + g * g * 0.05;
        const at::Tensor u = first[i] / (1.0 - std::pow(0.8, step)) /
                             ((second[i] / (1.0 - std::pow(0.95, step))).sqrt() + 1e-8);
        expected.push_back(pro.projected(i, u) * -kRate);
        before.push_back(pro.product(i));
      }
      pro.adapter->own_update({step - 1, 10}, pro.rule);
      for (size_t i = 0; i < sites; ++i) {
        const at::Tensor change = pro.product(i) - before[i];
        EXPECT_LT(frobenius(change - expected[i]), 1e-5 * frobenius(expected[i]))
            << split << " " << step << " " << i;
      }
    }
    for (const NamedTensor& tensor : pro.adapter->state("adamw").training) {
      for (size_t i = 0; i < sites; ++i) {
        const std::string& path = pro.adapter->sites()[i].path;
        // The factors moved by about 1e-7 meanwhile.
        const bool is_first = tensor.name == path + ".lorapro.exp_avg";
        if (!is_first && tensor.name != path + ".lorapro.exp_avg_sq") continue;
        const at::Tensor& expected = is_first ? first[i] : second[i];
        EXPECT_LT(frobenius(tensor.tensor - expected), 1e-5 * frobenius(expected)) << tensor.name;
      }
    }
  }
}

TEST(LoraProUpdate, WithSgdFullModeFollowsTheProjectedGradientItself) {
  Pro pro("full");
  pro.rule.optimizer = "sgd";
  pro.rule.gradient_scale = 0.25;
  const c10::NoGradGuard no_grad;
  for (int64_t step = 1; step <= 2; ++step) {
    pro.set_gradients(step);
    std::vector<at::Tensor> expected, before;
    for (size_t i = 0; i < pro.adapter->sites().size(); ++i) {
      expected.push_back(pro.projected(i, pro.gradient(i, step)) * (-0.25 * kRate));
      before.push_back(pro.product(i));
    }
    pro.adapter->own_update({step - 1, 10}, pro.rule);
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_LT(frobenius(pro.product(i) - before[i] - expected[i]), 1e-5 * frobenius(expected[i])) << step;
  }
  EXPECT_THAT(pro.adapter->state("sgd").training, IsEmpty());
}

/// Weight decay multiplies s B A by 1 - lr wd, as it would the whole weight.
TEST(LoraProUpdate, FullModeDecaysTheProductAsAWeight) {
  for (const char* optimizer : {"adamw", "sgd"}) {
    Pro pro("full");
    pro.rule = {optimizer, 0.1, 0.2};
    const c10::NoGradGuard no_grad;
    std::vector<at::Tensor> expected;
    for (size_t i = 0; i < pro.adapter->sites().size(); ++i) {
      expected.push_back(pro.product(i) * 0.98);
      at::Tensor(pro.term(i).down).mutable_grad() = at::zeros_like(pro.down(i));
      at::Tensor(pro.term(i).up).mutable_grad() = at::zeros_like(pro.up(i));
    }
    pro.adapter->own_update({0, 10}, pro.rule);
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_LT(frobenius(pro.product(i) - expected[i]), 1e-12 * frobenius(expected[i])) << optimizer;
  }
}

TEST(LoraProUpdate, EfficientModePutsTheNearestStepInPlaceOfTheGradients) {
  Pro pro("efficient");
  EXPECT_THAT(pro.adapter->begin_step({}).updated_by_method, IsEmpty());
  EXPECT_THAT(pro.adapter->state("adamw").training, IsEmpty());
  pro.set_gradients(1);
  const c10::NoGradGuard no_grad;
  const at::Tensor own = pro.term(0).down.grad().clone();
  pro.adapter->gradients_ready({0, 10});
  EXPECT_FALSE(at::equal(pro.term(0).down.grad(), own));
  for (size_t i = 0; i < pro.adapter->sites().size(); ++i) {
    const LowRankTerm t = pro.term(i);
    const at::Tensor effect =
        (at::mm(pro.up(i), t.down.grad()) + at::mm(t.up.grad(), pro.down(i))) * Pro::kScaling;
    const at::Tensor expected = pro.projected(i, pro.gradient(i, 1));
    EXPECT_LT(frobenius(effect - expected), 1e-9 * frobenius(expected)) << i;
  }
}

/// A gradient that is not finite stays for the trainer, which names the tensor and the data.
TEST(LoraProUpdate, LeavesGradientsThatAreNotFiniteToTheTrainer) {
  Pro pro("efficient");
  pro.set_gradients(1);
  const c10::NoGradGuard no_grad;
  at::Tensor gradient = pro.term(0).down.grad();
  gradient[0][0] = INFINITY;
  pro.adapter->gradients_ready({0, 10});
  EXPECT_TRUE(std::isinf(pro.term(0).down.grad()[0][0].item<double>()));
}

}  // namespace
}  // namespace msplora
