#include "adapters/tensor_train.h"

#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cstddef>
#include <functional>
#include <numeric>
#include <vector>

namespace msplora::detail {
namespace {

constexpr int64_t kLargest = 16;

int64_t sum_of(const std::vector<int64_t>& values) {
  return std::accumulate(values.begin(), values.end(), int64_t{0});
}

bool is_better(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  if (b.empty()) return true;
  return a.size() != b.size() ? a.size() < b.size() : sum_of(a) < sum_of(b);
}

/// Every way to write n as a product of falling factors from 2 to `largest`.
void for_each_product(int64_t n, int64_t largest, std::vector<int64_t>& factors,
                      const std::function<void(const std::vector<int64_t>&)>& visit) {
  if (n == 1) return visit(factors);
  for (int64_t factor = std::min(n, largest); factor >= 2; --factor) {
    if (n % factor != 0) continue;
    factors.push_back(factor);
    for_each_product(n / factor, factor, factors, visit);
    factors.pop_back();
  }
}

}  // namespace

std::vector<int64_t> small_factors(int64_t n) {
  int64_t smooth = 1, rest = n;
  for (int64_t factor = 2; factor <= kLargest; ++factor) {
    for (; rest % factor == 0; rest /= factor) smooth *= factor;
  }
  std::vector<int64_t> best, factors;
  if (smooth > 1) {
    for_each_product(smooth, kLargest, factors, [&](const std::vector<int64_t>& found) {
      if (is_better(found, best)) best = found;
    });
  }
  for (int64_t prime = kLargest + 1; rest > 1; ++prime) {
    if (prime * prime > rest) prime = rest;
    for (; rest % prime == 0; rest /= prime) best.push_back(prime);
  }
  if (best.empty()) best.push_back(1);
  std::sort(best.rbegin(), best.rend());
  return best;
}

size_t find_cut(const std::vector<int64_t>& factors, int64_t first, int64_t second) {
  const auto product = [](auto begin, auto end) {
    return std::accumulate(begin, end, int64_t{1}, std::multiplies<>());
  };
  for (size_t cut = 1; cut < factors.size(); ++cut) {
    const auto middle = factors.begin() + static_cast<std::ptrdiff_t>(cut);
    if (product(factors.begin(), middle) == first && product(middle, factors.end()) == second) return cut;
  }
  return 0;
}

std::vector<std::vector<int64_t>> core_shapes(const std::vector<int64_t>& factors, int64_t rank) {
  std::vector<std::vector<int64_t>> shapes;
  for (size_t k = 0; k < factors.size(); ++k) {
    shapes.push_back({k == 0 ? 1 : rank, factors[k], k + 1 == factors.size() ? 1 : rank});
  }
  return shapes;
}

TrainSides sides_at_cut(const std::vector<at::Tensor>& cores, size_t cut) {
  const auto as_rows = [](const at::Tensor& core) { return core.reshape({-1, core.size(2)}); };
  const auto as_columns = [](const at::Tensor& core) { return core.reshape({core.size(0), -1}); };
  at::Tensor left = as_rows(cores[0]);
  for (size_t k = 1; k < cut; ++k) {
    left = at::mm(left, as_columns(cores[k])).reshape({-1, cores[k].size(2)});
  }
  at::Tensor right = as_columns(cores.back());
  for (size_t k = cores.size() - 1; k-- > cut;) {
    right = at::mm(as_rows(cores[k]), right).reshape({cores[k].size(0), -1});
  }
  return {left, right};
}

std::vector<at::Tensor> tensor_train_svd(const at::Tensor& tensor, const std::vector<int64_t>& factors,
                                         int64_t rank, const std::vector<at::Tensor>& filler) {
  std::vector<at::Tensor> cores;
  at::Tensor rest = tensor.to(at::kDouble).reshape({1, -1});
  for (size_t k = 0; k + 1 < factors.size(); ++k) {
    const at::Tensor matrix = rest.reshape({rest.size(0) * factors[k], -1});
    const auto [u, s, vt] = at::linalg_svd(matrix, /*full_matrices=*/false);
    const int64_t kept = std::min(rank, s.size(0));
    at::Tensor core = filler[k].to(at::kDouble, /*non_blocking=*/false, /*copy=*/true);
    core.reshape({-1, rank}).narrow(1, 0, kept).copy_(u.narrow(1, 0, kept));
    cores.push_back(core);
    rest = at::zeros({rank, matrix.size(1)}, matrix.options());
    rest.narrow(0, 0, kept).copy_(s.narrow(0, 0, kept).unsqueeze(1) * vt.narrow(0, 0, kept));
  }
  cores.push_back(rest.reshape({rank, factors.back(), 1}));
  return cores;
}

}  // namespace msplora::detail
