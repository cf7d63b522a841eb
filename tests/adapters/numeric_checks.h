#pragma once

#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "adapters/fake_model.h"
#include "nn/drawn_tensors.h"

/// Checks of what an adapter computes, on layers of float64 (FakeModel::Options::dtype).
namespace msplora::testing {

inline FakeModel::Options double_options() {
  FakeModel::Options options;
  options.layers = 2;
  options.dtype = at::kDouble;
  options.bias_dtype = at::kDouble;
  return options;
}

inline at::Tensor drawn(const std::string& name, std::vector<int64_t> shape) {
  return normals(shape, name, at::kDouble, 17);
}

inline at::Tensor site_input(const Site& site) {
  return drawn("x." + site.path, {5, site.in_features});
}

inline at::Tensor site_output(const Site& site) {
  return site.linear->forward(site_input(site), ForwardContext{});
}

/// A number that depends on the outputs of every adapted layer.
inline at::Tensor loss_of(const Adapter& adapter) {
  at::Tensor loss = at::zeros({}, at::kDouble);
  for (const Site& site : adapter.sites()) {
    loss = loss + (site_output(site) * drawn("g." + site.path, {5, site.out_features})).sum();
  }
  return loss;
}

/// Gradients of the adapter's own tensors, by name; an undefined one is absent.
inline std::map<std::string, at::Tensor> gradients_of(const Adapter& adapter) {
  for (const TrainableTensor& entry : adapter.trainable()) at::Tensor(entry.tensor).mutable_grad().reset();
  loss_of(adapter).backward();
  std::map<std::string, at::Tensor> gradients;
  for (const TrainableTensor& entry : adapter.trainable()) {
    if (entry.group == ParameterGroup::kAdapter && entry.tensor.grad().defined()) {
      gradients[entry.name] = entry.tensor.grad().clone();
    }
  }
  return gradients;
}

/// Some elements of every tensor of the adapter against central differences.
inline void expect_exact_gradients(const Adapter& adapter) {
  const auto gradients = gradients_of(adapter);
  const c10::NoGradGuard no_grad;
  constexpr double kStep = 1e-5;
  for (const TrainableTensor& entry : adapter.trainable()) {
    if (entry.group != ParameterGroup::kAdapter) continue;
    ASSERT_EQ(entry.tensor.scalar_type(), at::kDouble) << entry.name;
    ASSERT_EQ(gradients.count(entry.name), 1u) << entry.name;
    const at::Tensor gradient = gradients.at(entry.name).contiguous();
    EXPECT_GT(gradient.abs().max().item<double>(), 0.0) << entry.name;
    double* values = entry.tensor.data_ptr<double>();
    const int64_t count = entry.tensor.numel(), stride = std::max<int64_t>(1, count / 5);
    for (int64_t i = 0; i < count; i += stride) {
      const double kept = values[i];
      values[i] = kept + kStep;
      const double above = loss_of(adapter).item<double>();
      values[i] = kept - kStep;
      const double below = loss_of(adapter).item<double>();
      values[i] = kept;
      const double numeric = (above - below) / (2 * kStep), exact = gradient.data_ptr<double>()[i];
      EXPECT_NEAR(exact, numeric, 1e-6 * std::max(1.0, std::abs(numeric))) << entry.name << " at " << i;
    }
  }
}

/// Forward equals the plain layer with the changes added to weight and bias, and differs from the base.
inline void expect_merge_equals_forward(const Adapter& adapter) {
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < adapter.sites().size(); ++i) {
    const Site& site = adapter.sites()[i];
    const at::Tensor x = site_input(site), adapted = site_output(site);
    const at::Tensor weight = site.linear->weight->values() + adapter.change_of(i).weight.to(at::kDouble);
    at::Tensor bias = site.linear->bias;
    if (const at::Tensor change = adapter.change_of(i).bias; change.defined()) {
      bias = bias.defined() ? bias + change : change;
    }
    const double tolerance = 1e-5 * std::max(1.0, adapted.abs().max().item<double>());
    EXPECT_LT((adapted - at::linear(x, weight, bias)).abs().max().item<double>(), tolerance) << site.path;
    const at::Tensor base = at::linear(x, site.linear->weight->values(), site.linear->bias);
    EXPECT_GT((adapted - base).abs().max().item<double>(), 1e-3) << site.path;
  }
}

/// Whether every adapted layer computes what it computes without the adapter, bit for bit.
inline void expect_base_output(const Adapter& adapter) {
  const c10::NoGradGuard no_grad;
  for (const Site& site : adapter.sites()) {
    const at::Tensor base = at::linear(site_input(site), site.linear->weight->values(), site.linear->bias);
    EXPECT_EQ((site_output(site) - base).abs().max().item<double>(), 0.0) << site.path;
  }
}

}  // namespace msplora::testing
