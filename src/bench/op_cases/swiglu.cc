#include <fmt/format.h>
#include "bench/op_case.h"
#include "msplora/nn/decoder_functional.h"

namespace msplora::bench {
namespace {

// Gate and up are halves of one array where `is_joint`.
template <typename T>
void build_swiglu(OpFrame<T>& f, int64_t rows, int64_t width, bool is_joint, int64_t gap) {
  typename OpFrame<T>::template Pair<T> gate{}, up{};
  if (is_joint) {
    gate = f.input("gate and up", {rows, 2 * width}, gap);
    up = {gate.value + width, gate.gradient + width};
  } else {
    gate = f.input("gate", {rows, width}, gap);
    up = f.input("up", {rows, width}, gap);
  }
  const auto y = f.output("y", {rows, width});
  const int64_t stride = (is_joint ? 2 * width : width) + gap;
  const auto op = [=] {
    return kernels::SwiGlu<T>{rows, width, stride, stride, width, gate.value, up.value, y.value};
  };
  const auto n = static_cast<double>(rows * width);
  f.forward({(kExpOperations + 4) * n, 3 * n * sizeof(T)}, [=](const auto& k) { k.swiglu(op()); });
  f.backward({(kExpOperations + 9) * n, 5 * n * sizeof(T)}, [=](const auto& k) {
    k.swiglu_backward({op(), y.gradient, gate.gradient, up.gradient});
  });
  f.function = [=](const auto& in) {
    return std::vector<at::Tensor>{is_joint ? swiglu(in[0]) : swiglu(in[0], in[1])};
  };
}

}  // namespace

OpCases swiglu_cases() {
  OpCases cases;
  for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{1, 1}, {3, 7}, {2, 64}, {33, 701}}) {
    for (const bool is_joint : {false, true}) {
      cases.small.emplace_back(
          fmt::format("{} x {}{}", rows, width, is_joint ? ", joint" : ""),
          [=, rows = rows, width = width](auto& f) { build_swiglu(f, rows, width, is_joint, 1); });
    }
  }
  cases.of_model = [](const OpSizes& s) {
    return std::vector<OpCase>{
        {"swiglu", [s](auto& f) { build_swiglu(f, s.tokens(), s.model.intermediate_size(), false, 0); }}};
  };
  cases.float_tolerance = 3e-6;
  return cases;
}

}  // namespace msplora::bench
