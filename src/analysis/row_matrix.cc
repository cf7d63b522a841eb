#include "analysis/row_matrix.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "msplora/core/random.h"

namespace msplora::analysis {
namespace {

constexpr int64_t kRowsAtATime = 512;
constexpr int64_t kMoreDirections = 8;  // the block is larger than what is wanted, which speeds convergence
constexpr int kMostIterations = 300;
constexpr double kSettled = 1e-12;

template <class Use>
void for_row_blocks(const RowMatrix& matrix, const Use& use) {
  for (int64_t begin = 0; begin < matrix.out; begin += kRowsAtATime) {
    const int64_t end = std::min(begin + kRowsAtATime, matrix.out);
    use(begin, end, matrix.rows(begin, end));
  }
}

at::Tensor start_vectors(int64_t rows, int64_t columns) {
  at::Tensor start = at::empty({rows, columns}, at::kDouble);
  double* values = start.data_ptr<double>();
  RandomStream random(0, "analysis.start");
  for (int64_t i = 0; i < start.numel(); ++i) values[i] = random.normal();
  return start;
}

}  // namespace

double RowMatrix::norm() const {
  double sum = 0.0;
  for_row_blocks(
      *this, [&](int64_t, int64_t, const at::Tensor& block) { sum += block.square().sum().item<double>(); });
  return std::sqrt(sum);
}

at::Tensor RowMatrix::times(const at::Tensor& v) const {
  std::vector<at::Tensor> parts;
  for_row_blocks(*this,
                 [&](int64_t, int64_t, const at::Tensor& block) { parts.push_back(at::mm(block, v)); });
  return at::cat(parts, 0);
}

at::Tensor RowMatrix::turned_times(const at::Tensor& u) const {
  at::Tensor sum = at::zeros({in, u.size(1)}, at::kDouble);
  for_row_blocks(*this, [&](int64_t begin, int64_t end, const at::Tensor& block) {
    sum.addmm_(block.t(), u.slice(0, begin, end));
  });
  return sum;
}

double projected_norm(const RowMatrix& matrix, const at::Tensor& u, const at::Tensor& v) {
  if (u.size(1) == 0 || v.size(1) == 0) return 0.0;
  return std::sqrt(at::mm(u.t(), matrix.times(v)).square().sum().item<double>());
}

Directions leading_directions(const RowMatrix& matrix, int64_t k) {
  const int64_t smaller = std::min(matrix.out, matrix.in);
  const int64_t wanted = std::min(k, smaller), block = std::min(k + kMoreDirections, smaller);
  at::Tensor right = start_vectors(matrix.in, block);
  at::Tensor before = at::zeros({wanted}, at::kDouble);
  msplora::detail::ThinSvd svd;
  for (int iteration = 0; iteration < kMostIterations; ++iteration) {
    const at::Tensor left = std::get<0>(at::linalg_qr(matrix.times(right)));
    const auto [p, s, r] = at::linalg_svd(matrix.turned_times(left), /*full_matrices=*/false);
    svd = {at::mm(left, r.t()), s, p};
    right = p;
    const at::Tensor now = s.slice(0, 0, wanted);
    const double first = now[0].item<double>();
    const bool is_settled = (now - before).abs().max().item<double>() <= kSettled * first;
    before = now;
    if (is_settled) break;
  }
  Directions directions = without_noise(
      {svd.left.slice(1, 0, wanted), svd.values.slice(0, 0, wanted), svd.right.slice(1, 0, wanted)});
  directions.norm = matrix.norm();
  directions.is_leading = wanted < smaller;
  return directions;
}

}  // namespace msplora::analysis
