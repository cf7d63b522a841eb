#include "msplora/tasks/intrinsic_dimension.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/random.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

at::Tensor normals(int64_t rows, int64_t columns, const std::string& name) {
  at::Tensor tensor = at::empty({rows, columns}, at::kDouble);
  RandomStream stream(2, name);
  for (int64_t i = 0; i < tensor.numel(); ++i) tensor.data_ptr<double>()[i] = stream.normal();
  return tensor;
}

at::Tensor line(std::vector<double> points) {
  return at::tensor(points, at::kDouble).unsqueeze(1);
}

// mu = 3, 2, 1.5, 1.5: worked out by hand.
TEST(TwoNn, OfFourPointsOnALine) {
  const at::Tensor points = line({0, 1, 3, 7});
  EXPECT_NEAR(two_nn_dimension(points, TwoNnEstimator::kRegression), 1.678822, 1e-6);
  EXPECT_NEAR(two_nn_dimension(points, TwoNnEstimator::kLikelihood), 1.536872, 1e-6);
  EXPECT_NEAR(two_nn_dimension(points, TwoNnEstimator::kUnbiased), 1.152653, 1e-6);
  // Equal points count once, and the order does not matter.
  const at::Tensor repeated = line({7, 0, 0, 3, 1, 7, 1});
  EXPECT_EQ(two_nn_dimension(repeated, TwoNnEstimator::kRegression),
            two_nn_dimension(points, TwoNnEstimator::kRegression));
}

TEST(TwoNn, FindsTheDimensionOfEmbeddedGaussians) {
  for (const int64_t d : {1, 2, 5, 10}) {
    const at::Tensor flat = normals(1200, d, "points " + std::to_string(d));
    const at::Tensor basis = std::get<0>(at::linalg_qr(normals(60, d, "basis")));
    const at::Tensor points = at::mm(flat, basis.t());
    const double tolerance = (d == 10 ? 0.15 : 0.1) * static_cast<double>(d);
    for (const TwoNnEstimator estimator :
         {TwoNnEstimator::kRegression, TwoNnEstimator::kLikelihood, TwoNnEstimator::kUnbiased}) {
      EXPECT_NEAR(two_nn_dimension(points, estimator), static_cast<double>(d), tolerance) << d;
    }
    // Neither rotation nor translation nor scale matters.
    const at::Tensor rotation = std::get<0>(at::linalg_qr(normals(60, 60, "rotation")));
    const at::Tensor moved = at::mm(points, rotation) * 37.0 + 5.0;
    EXPECT_NEAR(two_nn_dimension(moved, TwoNnEstimator::kRegression),
                two_nn_dimension(points, TwoNnEstimator::kRegression), 1e-6 * static_cast<double>(d));
  }
}

TEST(TwoNn, RefusesWhatHasNoDimension) {
  const auto dimension = [](const at::Tensor& points) {
    return two_nn_dimension(points, TwoNnEstimator::kRegression);
  };
  EXPECT_EQ(dimension(line({4, 4, 4})), 0.0);
  EXPECT_THROW(dimension(line({1, 1, 1, 2})), Error);
  EXPECT_THROW(dimension(line({0, 1, NAN, 3})), Error);
  EXPECT_THROW(dimension(at::eye(6, at::kDouble)), Error);  // every distance is the same
}

TEST(DimensionProfile, HasOneValueForTheEmbeddingsAndEveryBlock) {
  ModelLoadOptions load;
  load.num_labels = 2;
  load.seed = 5;
  const auto model = create_model(tiny_config(0.3), load);
  const auto examples = tiny_examples(300, 1);
  GeLoraOptions options;
  options.samples = 200;
  const DimensionProfile profile = dimension_profile(*model, all_of(examples), options, 3);
  EXPECT_EQ(profile.examples, 200);
  ASSERT_EQ(profile.dimensions.size(), 4u);
  for (const double d : profile.dimensions) {
    EXPECT_GT(d, 1.0);
    EXPECT_LT(d, 32.0);
  }
  // No dropout, the same choice of examples: the same numbers, however the batches are cut.
  const DimensionProfile again = dimension_profile(*model, all_of(examples), options, 3, 100);
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(again.dimensions[i], profile.dimensions[i], 1e-3);
  EXPECT_NE(dimension_profile(*model, all_of(examples), options, 4).dimensions[3], profile.dimensions[3]);
  options.pooling = "last";
  EXPECT_NE(dimension_profile(*model, all_of(examples), options, 3).dimensions[3], profile.dimensions[3]);
}

TEST(DimensionProfile, ModelsShowTheStatesOfEveryLayer) {
  ModelLoadOptions load;
  load.num_labels = 2;
  load.seed = 5;
  const auto model = create_model(tiny_config(), load);
  PackedInput input;
  input.input_ids = at::tensor(std::vector<int64_t>{11, 12, 13, 14, 15}, at::kLong);
  input.cu_seqlens = {0, 2, 5};
  std::vector<at::Tensor> seen;
  ForwardContext context;
  context.observe_hidden = [&](int64_t layer, const at::Tensor& hidden) {
    EXPECT_EQ(layer, static_cast<int64_t>(seen.size()));
    EXPECT_EQ(hidden.size(0), 5);
    seen.push_back(hidden);
  };
  model->forward(input, context);
  EXPECT_EQ(seen.size(), 4u);
}

}  // namespace
}  // namespace msplora
