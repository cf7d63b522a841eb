#include <fmt/format.h>
#include "bench/op_case.h"
#include "msplora/nn/decoder_functional.h"

namespace msplora::bench {
namespace {

template <typename T>
void build_rms_norm(OpFrame<T>& f, int64_t rows, int64_t width, bool has_residual, bool is_trained) {
  using Exact = kernels::Exact<T>;
  const auto x = f.input("x", {rows, width});
  typename OpFrame<T>::template Pair<T> residual{}, s{};
  if (has_residual) residual = f.input("residual", {rows, width});
  typename OpFrame<T>::template Pair<Exact> gamma{};
  if (is_trained) {
    gamma = f.exact_input("gamma", {width});
  } else {
    gamma.value = f.exact_constant("gamma", {width});
  }
  const auto y = f.output("y", {rows, width});
  if (has_residual) s = f.output("s", {rows, width});
  const T* const normed = has_residual ? s.value : x.value;
  float* const inverse = f.saved_floats("inverse", {rows});
  const auto n = static_cast<double>(rows * width);
  f.forward({5 * n, 4 * n * sizeof(T)}, [=](const auto& k) {
    k.residual_rms_norm({rows, width, 1e-5, x.value, residual.value, gamma.value, s.value, y.value, inverse});
  });
  f.backward({9 * n, 4 * n * sizeof(T)}, [=](const auto& k) {
    k.residual_rms_norm_backward({rows, width, 1e-5, y.gradient, s.gradient, normed, inverse, gamma.value,
                                  x.gradient, gamma.gradient});
    // One array is the gradient of both.
    if (residual.gradient) std::copy(x.gradient, x.gradient + rows * width, residual.gradient);
  });
  f.function = [=](const auto& in) {
    const NormedSum out =
        residual_rms_norm(in[0], has_residual ? in[1] : at::Tensor(), in[has_residual ? 2 : 1], 1e-5);
    return has_residual ? std::vector<at::Tensor>{out.normed, out.sum} : std::vector<at::Tensor>{out.normed};
  };
}

}  // namespace

OpCases residual_rms_norm_cases() {
  OpCases cases;
  for (const auto& [rows, width] :
       {std::pair<int64_t, int64_t>{1, 2}, {1, 5}, {3, 17}, {5, 32}, {17, 100}, {40, 768}}) {
    for (const bool has_residual : {false, true}) {
      for (const bool is_trained : {false, true}) {
        const std::string what = fmt::format("{} x {}{}{}", rows, width, has_residual ? ", residual" : "",
                                             is_trained ? ", trained" : "");
        cases.small.emplace_back(what, [=, rows = rows, width = width](auto& f) {
          build_rms_norm(f, rows, width, has_residual, is_trained);
        });
        cases.small.back().is_rounded = width > 2;  // a row of two elements has a gradient of almost 0
      }
    }
  }
  cases.of_model = [](const OpSizes& s) {
    return std::vector<OpCase>{
        {"rms norm", [s](auto& f) { build_rms_norm(f, s.tokens(), s.width(), true, false); }}};
  };
  cases.float_tolerance = 2e-5;
  cases.bfloat16_tolerance = 3e-2;
  return cases;
}

}  // namespace msplora::bench
