#include <fmt/format.h>
#include "bench/op_case.h"
#include "msplora/nn/functional.h"

namespace msplora::bench {
namespace {

template <typename T>
void build_dropout(OpFrame<T>& f, at::IntArrayRef shape, kernels::DropoutMask mask) {
  const auto x = f.input("x", shape), y = f.output("y", shape);
  const int64_t n = f.arrays.back().value.numel();
  const auto elements = static_cast<double>(n);
  const OpCost cost{kMaskOperations * elements, 2 * elements * sizeof(T)};
  f.forward(cost, [=](const auto& k) { k.dropout({n, mask, x.value, y.value}); });
  f.backward(cost, [=](const auto& k) { k.dropout({n, mask, y.gradient, x.gradient}); });
  f.is_random = mask.active();
  f.function = [=](const auto& in) { return std::vector<at::Tensor>{dropout(in[0], mask)}; };
}

}  // namespace

OpCases dropout_cases() {
  OpCases cases;
  for (const int64_t n : {1, 15, 127, 128, 129, 1000, 40001}) {
    cases.small.emplace_back(fmt::format("{} elements", n), [n](auto& f) {
      build_dropout(f, {n}, {0x123456789ABCDEFull + static_cast<uint64_t>(n), 0.1});
    });
  }
  cases.of_model = [](const OpSizes& s) {
    return std::vector<OpCase>{{"dropout", [s](auto& f) {
                                  build_dropout(f, {s.tokens(), s.width()}, {7, s.dropout});
                                }}};
  };
  cases.float_tolerance = 1e-6;
  cases.bfloat16_tolerance = 5e-3;
  return cases;
}

}  // namespace msplora::bench
