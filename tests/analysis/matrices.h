#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svdvals.h>

#include <string>
#include <tuple>
#include <vector>

#include "msplora/core/random.h"

namespace msplora::testing {

/// Standard normal, float64.
inline at::Tensor normal_matrix(int64_t rows, int64_t columns, const std::string& name) {
  at::Tensor matrix = at::empty({rows, columns}, at::kDouble);
  RandomStream random(7, name);
  for (int64_t i = 0; i < matrix.numel(); ++i) matrix.data_ptr<double>()[i] = random.normal();
  return matrix;
}

inline at::Tensor random_basis(int64_t rows, int64_t columns, const std::string& name) {
  return std::get<0>(at::linalg_qr(normal_matrix(rows, columns, name))).contiguous();
}

inline std::vector<double> dense_values(const at::Tensor& matrix) {
  const at::Tensor values = at::linalg_svdvals(matrix.to(at::kDouble)).contiguous();
  return {values.data_ptr<double>(), values.data_ptr<double>() + values.size(0)};
}

}  // namespace msplora::testing
