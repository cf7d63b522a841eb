#include <fmt/format.h>
#include "bench/op_case.h"
#include "msplora/nn/functional.h"

namespace msplora::bench {
namespace {

constexpr double kGeluOperations = kExpOperations + 17;

// y and f'(x), which backward multiplies by: both kernels.
template <typename T>
void build_activate(OpFrame<T>& f, at::IntArrayRef shape, kernels::Activation kind) {
  const auto x = f.input("x", shape), y = f.output("y", shape);
  T* const derivative = f.template saved<T>("derivative", shape);
  const int64_t n = f.arrays.back().value.numel();
  const auto elements = static_cast<double>(n);
  f.forward({kGeluOperations * elements, 3 * elements * sizeof(T)}, [=](const auto& k) {
    k.activate({n, kind, x.value, y.value, derivative});
  });
  f.backward({elements, 3 * elements * sizeof(T)}, [=](const auto& k) {
    k.multiply({n, derivative, y.gradient, x.gradient});
  });
  f.function = [=](const auto& in) { return std::vector<at::Tensor>{activation(in[0], kind)}; };
}

template <typename T>
void build_value(OpFrame<T>& f, int64_t n, kernels::Activation kind) {
  T* const x = f.constant("x", {n});
  const auto y = f.output("y", {n});
  f.forward({}, [=](const auto& k) { k.activate({n, kind, x, y.value, nullptr}); });
  f.function = [=](const auto& in) { return std::vector<at::Tensor>{activation(in[0], kind)}; };
}

template <typename T>
void build_multiply(OpFrame<T>& f, int64_t n, bool is_in_place) {
  T *const a = f.constant("a", {n}), *const b = f.constant("b", {n});
  const auto y = f.output("y", {n});
  f.forward({}, [=](const auto& k) {
    if (is_in_place) std::copy(b, b + n, y.value);
    k.multiply({n, a, is_in_place ? y.value : b, y.value});
  });
  f.function = [](const auto& in) { return std::vector<at::Tensor>{in[0] * in[1]}; };
}

}  // namespace

OpCases activate_cases() {
  OpCases cases;
  for (const char* name : {"gelu", "gelu_new", "relu", "silu", "tanh"}) {
    const kernels::Activation kind = activation_from_name(name);
    for (const int64_t n : {1, 3, 16, 100, 20011}) {
      const std::string what = fmt::format("{} of {}", name, n);
      cases.small.emplace_back(what, [=](auto& f) { build_activate(f, {n}, kind); });
      cases.small.emplace_back(what + " alone", [=](auto& f) { build_value(f, n, kind); });
    }
  }
  cases.of_model = [](const OpSizes& s) {
    return std::vector<OpCase>{
        {"gelu", [s](auto& f) {
           build_activate(f, {s.tokens(), s.model.intermediate_size()}, kernels::Activation::kGelu);
         }}};
  };
  cases.float_tolerance = 4e-6;
  return cases;
}

// Timed as the backward pass of gelu.
OpCases multiply_cases() {
  OpCases cases;
  for (const int64_t n : {1, 17, 333, 20011}) {
    for (const bool is_in_place : {false, true}) {
      cases.small.emplace_back(fmt::format("{} elements{}", n, is_in_place ? ", in place" : ""),
                               [=](auto& f) { build_multiply(f, n, is_in_place); });
    }
  }
  cases.float_tolerance = 1e-7;
  cases.bfloat16_tolerance = 5e-3;
  return cases;
}

}  // namespace msplora::bench
