#include "nn/low_rank_algebra.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>
#include <vector>

namespace msplora::detail {
namespace {

double norm_of(const at::Tensor& matrix) {
  return std::sqrt(matrix.square().sum().item<double>());
}

}  // namespace

LowRank plus(const LowRank& a, const LowRank& b, double scale) {
  if (b.rank() == 0) return a;
  const at::Tensor up = scale == 1.0 ? b.up : b.up * scale;
  if (a.rank() == 0) return {up, b.down};
  return {at::cat({a.up, up}, 1), at::cat({a.down, b.down}, 0)};
}

double frobenius_norm(const LowRank& matrix) {
  if (matrix.rank() == 0) return 0.0;
  const at::Tensor left = std::get<1>(at::linalg_qr(matrix.up, "r"));
  const at::Tensor right = std::get<1>(at::linalg_qr(matrix.down.t(), "r"));
  return norm_of(at::mm(left, right.t()));
}

double inner_product(const LowRank& a, const LowRank& b) {
  if (a.rank() == 0 || b.rank() == 0) return 0.0;
  return (at::mm(a.up.t(), b.up) * at::mm(a.down, b.down.t())).sum().item<double>();
}

ThinSvd thin_svd(const LowRank& matrix) {
  const auto [left, left_core] = at::linalg_qr(matrix.up);
  const auto [right, right_core] = at::linalg_qr(matrix.down.t());
  const auto [u, s, v] = at::linalg_svd(at::mm(left_core, right_core.t()), /*full_matrices=*/false);
  return {at::mm(left, u), s, at::mm(right, v.t())};
}

TruncatedSvd truncated_svd(const LowRank& matrix, int64_t rank) {
  const auto [left, values, right] = thin_svd(matrix);
  const int64_t kept = std::min(rank, values.size(0));
  TruncatedSvd result;
  result.product.up = left.slice(1, 0, kept) * values.slice(0, 0, kept);
  result.product.down = right.slice(1, 0, kept).t();
  result.tail = norm_of(values.slice(0, kept));
  return result;
}

at::Tensor weighted_mean(const std::vector<at::Tensor>& tensors, const std::vector<double>& weights) {
  at::Tensor mean = tensors.front().clone();
  for (size_t k = 1; k < tensors.size(); ++k) mean.add_(tensors[k] - tensors.front(), weights[k]);
  return mean;
}

}  // namespace msplora::detail
