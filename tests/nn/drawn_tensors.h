#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>
#include <string>

#include "msplora/core/random.h"
#include "msplora/kernels/gemm.h"

namespace msplora::testing {

/// Standard normal numbers, a function of (seed, name).
inline at::Tensor normals(at::IntArrayRef shape, const std::string& name, at::ScalarType dtype = at::kDouble,
                          uint64_t seed = 1) {
  at::Tensor tensor = at::empty(shape, at::kDouble);
  RandomStream stream(seed, name);
  for (int64_t i = 0; i < tensor.numel(); ++i) tensor.data_ptr<double>()[i] = stream.normal();
  return tensor.to(dtype);
}

/// The largest deviation over the largest magnitude.
inline double relative_difference(const at::Tensor& got, const at::Tensor& expected) {
  const at::Tensor exact = expected.to(at::kDouble);
  return ((got.to(at::kDouble) - exact).abs().max() / exact.abs().max()).item<double>();
}

/// Kernels of a lower instruction set while one lives.
class LowerIsa {
 public:
  explicit LowerIsa(kernels::Isa isa) : before_(kernels::active_isa()) { kernels::set_isa(isa); }
  ~LowerIsa() { kernels::set_isa(before_); }
  LowerIsa(const LowerIsa&) = delete;
  LowerIsa& operator=(const LowerIsa&) = delete;

 private:
  kernels::Isa before_;
};

/// Products of floats in this precision while one lives.
class ChosenPrecision {
 public:
  explicit ChosenPrecision(kernels::Precision precision) { kernels::set_matmul_precision(precision); }
  ~ChosenPrecision() { kernels::set_matmul_precision(kernels::Precision::kExact); }
  ChosenPrecision(const ChosenPrecision&) = delete;
  ChosenPrecision& operator=(const ChosenPrecision&) = delete;
};

}  // namespace msplora::testing
