#include <ATen/TensorOperators.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nll_loss.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>
#include <algorithm>
#include "bench/op_case.h"

namespace msplora::bench {
namespace {

// By all threads, as it is timed.
template <typename T>
void copy_rows(const T* from, int64_t rows, int64_t width, T* to) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; ++row)
    std::copy(from + row * width, from + (row + 1) * width, to + row * width);
}

template <typename T>
void build_cross_entropy(OpFrame<T>& f, int64_t rows, int64_t classes, double cap) {
  std::vector<int64_t> labels;
  for (int64_t row = 0; row < rows; ++row) labels.push_back((row * 5 + 1) % classes);
  const auto logits = f.input("logits", {rows, classes});
  double* const losses = f.losses("losses", {rows});
  T* const scratch = f.constant("scratch", {rows, classes});
  double* const again = f.template saved<double>("losses with gradient", {rows});
  const auto n = static_cast<double>(rows * classes);
  f.forward({(kExpOperations + 2) * n, n * sizeof(T)}, [=](const auto& k) {
    T* const z = cap > 0 ? scratch : logits.value;  // without a cap nothing is written
    if (cap > 0) copy_rows(logits.value, rows, classes, z);
    k.cross_entropy_rows({rows, classes, cap, labels.data(), false, z, losses});
  });
  // In place: the gradient takes the place of the logits.
  f.backward({2 * (kExpOperations + 2) * n, 3 * n * sizeof(T)}, [=](const auto& k) {
    copy_rows(logits.value, rows, classes, logits.gradient);
    k.cross_entropy_rows({rows, classes, cap, labels.data(), true, logits.gradient, again});
  });
  f.function = [=](const auto& in) {
    at::Tensor z = in[0].to(at::kDouble);
    if (cap > 0) z = at::tanh(z / cap) * cap;
    return std::vector<at::Tensor>{at::nll_loss(
        at::log_softmax(z, 1), at::tensor(labels, at::kLong).to(in[0].device()), {}, at::Reduction::None)};
  };
}

}  // namespace

OpCases cross_entropy_rows_cases() {
  OpCases cases;
  for (const auto& [rows, classes] :
       {std::pair<int64_t, int64_t>{1, 2}, {3, 3}, {4, 16}, {5, 21}, {7, 5003}}) {
    for (const double cap : {0.0, 1.5}) {
      cases.small.emplace_back(
          fmt::format("{} x {}, cap {}", rows, classes, cap),
          [=, rows = rows, classes = classes](auto& f) { build_cross_entropy(f, rows, classes, cap); });
    }
  }
  cases.of_model = [](const OpSizes& s) {
    const int64_t rows = std::min<int64_t>(64, s.tokens());
    return std::vector<OpCase>{{fmt::format("cross entropy, {} rows", rows),
                                [=](auto& f) { build_cross_entropy(f, rows, s.model.vocab_size(), 0.0); }}};
  };
  cases.float_tolerance = 3e-6;
  return cases;
}

}  // namespace msplora::bench
