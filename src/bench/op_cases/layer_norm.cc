#include <fmt/format.h>
#include "bench/op_case.h"
#include "msplora/nn/functional.h"

namespace msplora::bench {
namespace {

template <typename T>
void build_layer_norm(OpFrame<T>& f, int64_t rows, int64_t width, kernels::DropoutMask mask,
                      bool has_residual, bool is_trained) {
  using Exact = kernels::Exact<T>;
  const auto x = f.input("x", {rows, width});
  typename OpFrame<T>::template Pair<T> residual{};
  if (has_residual) residual = f.input("residual", {rows, width});
  typename OpFrame<T>::template Pair<Exact> gamma{}, beta{};
  if (is_trained) {
    gamma = f.exact_input("gamma", {width});
    beta = f.exact_input("beta", {width});
  } else {
    gamma.value = f.exact_constant("gamma", {width});
    beta.value = f.exact_constant("beta", {width});
  }
  const auto y = f.output("y", {rows, width});
  T* const s = f.template saved<T>("s", {rows, width});
  float *const mean = f.saved_floats("mean", {rows}), *const rstd = f.saved_floats("rstd", {rows});
  const auto n = static_cast<double>(rows * width);
  const double masks = mask.active() ? kMaskOperations : 0;
  f.forward({(masks + 9) * n, 4 * n * sizeof(T)}, [=](const auto& k) {
    k.residual_layer_norm(
        {rows, width, 1e-5, mask, x.value, residual.value, gamma.value, beta.value, s, y.value, mean, rstd});
  });
  f.backward({(masks + 13) * n, 4 * n * sizeof(T)}, [=](const auto& k) {
    k.residual_layer_norm_backward({rows, width, 1e-5, mask, y.gradient, s, mean, rstd, gamma.value,
                                    x.gradient, residual.gradient, gamma.gradient, beta.gradient});
  });
  f.is_random = mask.active();
  f.function = [=](const auto& in) {
    const size_t gamma_at = has_residual ? 2 : 1;
    return std::vector<at::Tensor>{residual_layer_norm(in[0], has_residual ? in[1] : at::Tensor(),
                                                       in[gamma_at], in[gamma_at + 1], 1e-5, mask)};
  };
}

}  // namespace

OpCases residual_layer_norm_cases() {
  OpCases cases;
  for (const auto& [rows, width] :
       {std::pair<int64_t, int64_t>{1, 5}, {3, 7}, {5, 32}, {17, 100}, {40, 768}}) {
    for (const double p : {0.0, 0.25}) {
      for (const bool has_residual : {false, true}) {
        for (const bool is_trained : {false, true}) {
          const std::string what =
              fmt::format("{} x {}, dropout {}{}{}", rows, width, p, has_residual ? ", residual" : "",
                          is_trained ? ", trained" : "");
          cases.small.emplace_back(what, [=, rows = rows, width = width](auto& f) {
            build_layer_norm(f, rows, width, {99, p}, has_residual, is_trained);
          });
          cases.small.back().is_rounded = width > 5;
        }
      }
    }
  }
  cases.of_model = [](const OpSizes& s) {
    return std::vector<OpCase>{{"norm", [s](auto& f) {
                                  build_layer_norm(f, s.tokens(), s.width(), {7, s.dropout}, true, false);
                                }}};
  };
  cases.float_tolerance = 2e-5;
  cases.bfloat16_tolerance = 3e-2;
  return cases;
}

}  // namespace msplora::bench
