#include "msplora/train/gradients.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "msplora/core/error.h"

namespace msplora {
namespace {

NamedTensor with_gradient(const std::string& name, const at::Tensor& gradient) {
  at::Tensor tensor = at::zeros(gradient.sizes(), gradient.scalar_type()).requires_grad_(true);
  tensor.mutable_grad() = gradient;
  return {name, tensor};
}

TEST(Gradients, NormAndClipping) {
  EXPECT_DOUBLE_EQ(sum_of_squares(at::full({100000}, 2.0, at::kFloat)), 400000.0);
  EXPECT_DOUBLE_EQ(clip_factor(5.0, 1.0), 1.0 / (5.0 + 1e-6));
  EXPECT_DOUBLE_EQ(clip_factor(0.5, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_factor(5.0, 0.0), 1.0);
  GradientWatch watch({with_gradient("a", at::full({2}, 3.0, at::kFloat)),
                       with_gradient("b", at::full({2, 1}, 4.0, at::kDouble))});
  EXPECT_DOUBLE_EQ(watch.examine({}, 1.0).norm, std::sqrt(2 * 9.0 + 2 * 16.0));
  EXPECT_DOUBLE_EQ(watch.examine({"b"}, 1.0).norm, std::sqrt(18.0));
}

TEST(Gradients, NamesTensorsThatAreNotFinite) {
  at::Tensor bad = at::zeros({3});
  bad[1] = std::numeric_limits<float>::infinity();
  GradientWatch watch({with_gradient("good", at::ones({3})), with_gradient("bad", bad)});
  EXPECT_EQ(watch.examine({}, 1.0).not_finite, std::vector<std::string>{"bad"});
}

TEST(GradientWatch, StopsForATensorThatNeverGetsAGradient) {
  at::Tensor absent = at::zeros({2}).requires_grad_(true);
  GradientWatch watch(
      {with_gradient("used", at::ones({2})), {"absent", absent}, with_gradient("zero", at::zeros({2}))});
  watch.examine({}, 0.0);  // warm-up: nothing moves, so nothing is known
  watch.examine({}, 0.0);
  watch.examine({}, 0.5);
  watch.examine({}, 1.0);
  try {
    watch.examine({}, 1.0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kConfig);
    EXPECT_NE(error.message().find(": absent"), std::string::npos) << error.what();
    EXPECT_EQ(error.message().find("used"), std::string::npos);
    EXPECT_EQ(error.message().find("zero"), std::string::npos);
  }
}

TEST(GradientWatch, AGradientMayComeToZeroByChance) {
  NamedTensor shift = with_gradient("shift", at::zeros({1}));
  GradientWatch watch({with_gradient("used", at::ones({2})), shift});
  for (int i = 0; i < GradientWatch::kZeroProbation; ++i) EXPECT_NO_THROW(watch.examine({}, 1.0));
  GradientWatch alive = watch;
  EXPECT_THROW(watch.examine({}, 1.0), Error);
  shift.tensor.mutable_grad() = at::full({1}, 1e-12, at::kFloat);
  EXPECT_NO_THROW(alive.examine({}, 1.0));
  shift.tensor.mutable_grad() = at::zeros({1});
  EXPECT_NO_THROW(alive.examine({}, 1.0));
}

TEST(GradientWatch, SaysThatTrainingExplodedWhereItDid) {
  NamedTensor used = with_gradient("used", at::ones({2}));
  const NamedTensor dead = with_gradient("dead", at::zeros({2}));
  for (const bool by_loss : {true, false}) {
    SCOPED_TRACE(by_loss);
    used.tensor.mutable_grad() = at::ones({2});
    GradientWatch watch({used, dead});
    watch.examine({}, 1.0);
    if (!by_loss) used.tensor.mutable_grad() = at::zeros({2});  // saturated
    watch.examine({}, 1.0, by_loss);
    try {
      watch.examine({}, 1.0, by_loss);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kNumerics);
      EXPECT_NE(error.message().find("exploded"), std::string::npos) << error.what();
      EXPECT_NE(error.hint().find("learning rate"), std::string::npos);
    }
  }
}

/// Adam divides by the root of an infinite mean, so that B stays 0 and A never gets a gradient.
TEST(GradientWatch, SquaresBeyondFloat32AreAnExplosion) {
  const NamedTensor up = with_gradient("B", at::full({2}, 1e30, at::kFloat)),
                    down = with_gradient("A", at::zeros({2}));
  GradientWatch watch({up, down});
  for (int i = 0; i < GradientWatch::kProbation; ++i) EXPECT_NO_THROW(watch.examine({}, 1.0));
  try {
    watch.examine({}, 1.0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNumerics);
    EXPECT_NE(error.message().find("exploded"), std::string::npos) << error.what();
    EXPECT_NE(error.hint().find("adapter.alpha"), std::string::npos);
  }
}

/// A head that goes on beside factors that saturated: nobody is to change what is adapted for that.
TEST(GradientWatch, SaysThatNumbersVanishedWhereOnlyAPartHasGradients) {
  const NamedTensor head = with_gradient("head", at::ones({2})), down = with_gradient("A", at::zeros({2}));
  NamedTensor up = with_gradient("B", at::ones({2}));
  GradientWatch watch({head, up, down});
  watch.examine({}, 1.0);
  up.tensor.mutable_grad() = at::zeros({2});
  for (int i = 1; i < GradientWatch::kZeroProbation; ++i) EXPECT_NO_THROW(watch.examine({}, 1.0));
  try {
    watch.examine({}, 1.0);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNumerics);
    EXPECT_NE(error.message().find("overflow or vanish"), std::string::npos) << error.what();
    EXPECT_NE(error.hint().find("adapter.alpha"), std::string::npos);
  }
}

TEST(GradientWatch, GivesFactorsBehindAZeroTimeToStart) {
  NamedTensor late = with_gradient("lora_A", at::zeros({2}));
  GradientWatch watch({late});
  watch.examine({}, 1.0);
  watch.examine({}, 1.0);
  late.tensor.mutable_grad() = at::ones({2});
  watch.examine({}, 1.0);
  late.tensor.mutable_grad() = at::zeros({2});
  for (int i = 0; i < 5; ++i) EXPECT_NO_THROW(watch.examine({}, 1.0));
}

TEST(GradientWatch, DoesNotJudgeFrozenTensors) {
  GradientWatch watch({with_gradient("late_stage", at::zeros({2}))});
  for (int i = 0; i < 10; ++i) EXPECT_NO_THROW(watch.examine({"late_stage"}, 1.0));
}

}  // namespace
}  // namespace msplora
