#include <fmt/format.h>
#include "bench/op_case.h"
#include "msplora/nn/decoder_functional.h"

namespace msplora::bench {
namespace {

// Gate and up are halves of one array where `is_joint`.
template <typename T>
void build_gated(OpFrame<T>& f, int64_t rows, int64_t width, kernels::Activation kind, bool is_joint) {
  typename OpFrame<T>::template Pair<T> gate{}, up{};
  T *by_gate = nullptr, *by_up = nullptr;
  if (is_joint) {
    gate = f.input("gate and up", {rows, 2 * width});
    up = {gate.value + width, gate.gradient + width};
    by_gate = f.template saved<T>("derivatives", {rows, 2 * width});
    by_up = by_gate + width;
  } else {
    gate = f.input("gate", {rows, width});
    up = f.input("up", {rows, width});
    by_gate = f.template saved<T>("by gate", {rows, width});
    by_up = f.template saved<T>("by up", {rows, width});
  }
  const auto y = f.output("y", {rows, width});
  const int64_t stride = is_joint ? 2 * width : width;
  const auto n = static_cast<double>(rows * width);
  f.forward({(kExpOperations + 8) * n, 5 * n * sizeof(T)}, [=](const auto& k) {
    k.gated_activation({rows, width, stride, kind, gate.value, up.value, y.value, by_gate, by_up});
  });
  f.backward({2 * n, 5 * n * sizeof(T)}, [=](const auto& k) {
    k.gated_activation_backward(
        {rows, width, stride, by_gate, by_up, y.gradient, gate.gradient, up.gradient});
  });
  f.function = [=](const auto& in) {
    return std::vector<at::Tensor>{is_joint ? gated_activation(in[0], kind)
                                            : gated_activation(in[0], in[1], kind)};
  };
}

}  // namespace

OpCases gated_activation_cases() {
  using enum kernels::Activation;
  OpCases cases;
  for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{1, 1}, {3, 7}, {2, 64}, {33, 701}}) {
    for (const bool is_joint : {false, true}) {
      for (const auto& [name, kind] : {std::pair{"silu", kSilu}, {"gelu", kGelu}, {"gelu_tanh", kGeluTanh}}) {
        cases.small.emplace_back(fmt::format("{} x {}, {}{}", rows, width, name, is_joint ? ", joint" : ""),
                                 [=, rows = rows, width = width, kind = kind](auto& f) {
                                   build_gated(f, rows, width, kind, is_joint);
                                 });
      }
    }
  }
  cases.of_model = [](const OpSizes& s) {
    return std::vector<OpCase>{{"gated activation", [s](auto& f) {
                                  build_gated(f, s.tokens(), s.model.intermediate_size(), kSilu, false);
                                }}};
  };
  cases.float_tolerance = 3e-6;
  return cases;
}

}  // namespace msplora::bench
