#include "msplora/nn/recompute.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/core/error.h"
#include "msplora/tasks/target.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

PackedInput input_of(int64_t tokens) {
  PackedInput input;
  input.cu_seqlens = {0, 3, static_cast<int32_t>(tokens)};
  input.input_ids = (at::arange(tokens, at::kLong) * 7 + 3).remainder(60);
  return input;
}

/// Gradients of two micro-batches with dropout, accumulated.
std::vector<at::Tensor> gradients(Model& model, const std::vector<at::Tensor>& trained, bool checkpoint) {
  for (const at::Tensor& tensor : trained) tensor.mutable_grad().reset();
  for (uint64_t micro_batch = 0; micro_batch < 2; ++micro_batch) {
    ForwardContext context;
    context.training = true;
    context.micro_batch = micro_batch;
    at::Tensor logits;
    {
      const CheckpointActivations guard(checkpoint);
      logits = model.forward(input_of(11 + static_cast<int64_t>(micro_batch)), context);
    }
    (logits * at::arange(4, at::kFloat).view({2, 2})).sum().backward();
  }
  std::vector<at::Tensor> result;
  for (const at::Tensor& tensor : trained) {
    EXPECT_TRUE(tensor.grad().defined());
    result.push_back(tensor.grad().clone());
  }
  return result;
}

ModelConfig small_model(const std::string& model_type) {
  return tiny_config(model_type, 0.2);
}

class RecomputedModel
    : public ::testing::TestWithParam<std::tuple<std::string, std::string, at::ScalarType>> {};

TEST_P(RecomputedModel, GradientsHaveTheSameBits) {
  const auto& [model_type, method, dtype] = GetParam();
  ModelLoadOptions load;
  load.compute_dtype = dtype;
  load.keep_float32 = method == "full";
  const auto model = create_model(small_model(model_type), load);
  std::unique_ptr<Adapter> adapter;
  std::vector<at::Tensor> trained;
  if (method == "full") {
    for (const TrainableTensor& tensor : all_trainable(model->parameters())) trained.push_back(tensor.tensor);
  } else {
    AdapterConfig config;
    config.method = method;
    config.dropout = 0.1;
    config.target_modules = {"query", "value", "intermediate.dense"};
    if (model_type == "llama") config.target_modules = {"q_proj", "v_proj", "up_proj"};
    adapter = create_adapter(config, target_of(*model), 3);
    c10::NoGradGuard no_grad;
    for (const TrainableTensor& tensor : adapter->trainable()) {
      tensor.tensor.add_(0.01);  // so that the factor beside the zero one has a gradient as well
      trained.push_back(tensor.tensor);
    }
  }
  const std::vector<at::Tensor> expected = gradients(*model, trained, false);
  EXPECT_TRUE(all_equal(gradients(*model, trained, true), expected));
  EXPECT_FALSE(CheckpointActivations::is_on());
}

INSTANTIATE_TEST_SUITE_P(Methods, RecomputedModel,
                         ::testing::Combine(::testing::Values("roberta", "llama"),
                                            ::testing::Values("lora", "msplora", "full"),
                                            ::testing::Values(at::kFloat, at::kBFloat16)));

TEST(Recompute, KeepsNothingOfThePart) {
  const at::Tensor w = at::ones({3}).requires_grad_(true), x = at::ones({3});
  using Weak = c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl>;
  Weak inside(x.getIntrusivePtr());
  int runs = 0;
  const at::Tensor y = recompute_in_backward(x, [&](const at::Tensor& kept) {
    ++runs;
    EXPECT_EQ(is_recomputing(), runs > 1);
    const at::Tensor product = kept * w;
    inside = Weak(product.getIntrusivePtr());
    return product * product;
  });
  EXPECT_TRUE(inside.expired());
  EXPECT_EQ(runs, 1);
  y.sum().backward();
  EXPECT_EQ(runs, 2);
  EXPECT_FALSE(is_recomputing());
  EXPECT_FALSE(x.grad().defined());
  EXPECT_TRUE(at::equal(w.grad(), at::ones({3}) * 2));
}

TEST(Recompute, RunsOnceWhereNothingIsTrained) {
  int runs = 0;
  const auto part = [&](const at::Tensor& kept) {
    ++runs;
    return kept * 2;
  };
  EXPECT_FALSE(recompute_in_backward(at::ones({2}), part).requires_grad());
  const at::Tensor x = at::ones({2}).requires_grad_(true);
  c10::NoGradGuard no_grad;
  EXPECT_FALSE(recompute_in_backward(x, part).requires_grad());
  EXPECT_EQ(runs, 2);
}

TEST(Recompute, ObserversSeeEachMicroBatchOnce) {
  const auto model = create_model(tiny_config(), {});
  int seen = 0;
  auto update = std::make_shared<SiteUpdate>();
  update->observe_input = [&](const at::Tensor&) { ++seen; };
  const at::Tensor down = at::ones({2, 32}).requires_grad_(true), up = at::ones({32, 2}).requires_grad_(true);
  update->low_rank = {{down, up, 1.0, 0.0, 0}};
  for (const Site& site : model->sites()) {
    if (site.layer != 0) continue;
    site.linear->update = update;
    break;
  }
  gradients(*model, {down, up}, true);
  EXPECT_EQ(seen, 2);
}

}  // namespace
}  // namespace msplora
