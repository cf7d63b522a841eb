#include <ATen/ops/tensor.h>
#include <fmt/format.h>
#include <cmath>
#include "bench/op_case.h"
#include "msplora/nn/decoder_functional.h"

namespace msplora::bench {
namespace {

struct RotarySizes {
  int64_t tokens, heads, head_dim, rotary_dim, gap = 0;
  kernels::RotaryPairs pairs;
  bool is_in_place = false;
};

// Heads are followed by `gap` elements that are not turned.
template <typename T>
void build_rotary(OpFrame<T>& f, const RotarySizes& c, int64_t positions) {
  using Exact = kernels::Exact<T>;
  const int64_t half = c.rotary_dim / 2, width = c.heads * c.head_dim;
  std::vector<Exact> cos, sin;
  for (int64_t i = 0; i < positions * half; ++i) {
    const double angle = 0.37 * static_cast<double>(i);
    cos.push_back(static_cast<float>(std::cos(angle)));  // the same in every type
    sin.push_back(static_cast<float>(std::sin(angle)));
  }
  std::vector<int32_t> position;
  for (int64_t t = 0; t < c.tokens; ++t) position.push_back(static_cast<int32_t>((t * 7 + 2) % positions));
  const auto x = f.input("x", {c.tokens, width}, c.gap), y = f.output("y", {c.tokens, width}, c.gap);
  const auto n = static_cast<double>(c.tokens * width);
  const OpCost cost{3 * n, 2 * n * sizeof(T)};
  const auto turn = [=](const auto& k, bool inverse, const T* from, T* to) {
    for (int64_t t = 0; c.is_in_place && t < c.tokens; ++t)
      std::copy(from + t * (width + c.gap), from + t * (width + c.gap) + width, to + t * (width + c.gap));
    k.rotary({c.tokens, c.heads, c.head_dim, c.rotary_dim, width + c.gap, width + c.gap, c.pairs, inverse,
              position.data(), cos.data(), sin.data(), c.is_in_place ? to : from, to});
  };
  f.forward(cost, [=](const auto& k) { turn(k, false, x.value, y.value); });
  f.backward(cost, [=](const auto& k) { turn(k, true, y.gradient, x.gradient); });
  f.function = [=](const auto& in) {
    const at::Device device = in[0].device();
    const auto values = [&](const std::vector<Exact>& of) {
      return at::tensor(of, at::TensorOptions().dtype(at::CppTypeToScalarType<Exact>()))
          .view({positions, half})
          .to(device);
    };
    const RotaryTable table{values(cos), values(sin), c.rotary_dim};
    return std::vector<at::Tensor>{rotary_(in[0].contiguous(), at::tensor(position, at::kInt).to(device),
                                           c.heads, c.head_dim, table, c.pairs)};
  };
}

}  // namespace

OpCases rotary_cases() {
  OpCases cases;
  for (const auto pairs : {kernels::RotaryPairs::kHalves, kernels::RotaryPairs::kInterleaved}) {
    const char* const kind = pairs == kernels::RotaryPairs::kHalves ? "halves" : "interleaved";
    for (const bool is_in_place : {false, true}) {
      for (const RotarySizes& c : {RotarySizes{1, 1, 2, 2, 0, pairs, is_in_place},
                                   {5, 3, 10, 6, 3, pairs, is_in_place},
                                   {4, 2, 22, 22, 1, pairs, is_in_place},
                                   {70, 8, 64, 64, 0, pairs, is_in_place}}) {
        cases.small.emplace_back(
            fmt::format("{}, {} of {}{}", kind, c.rotary_dim, c.head_dim, is_in_place ? ", in place" : ""),
            [c](auto& f) { build_rotary(f, c, 11); });
      }
    }
  }
  cases.of_model = [](const OpSizes& s) {
    std::vector<OpCase> timed;
    const int64_t head_dim = s.width() / s.model.heads();
    for (const auto pairs : {kernels::RotaryPairs::kHalves, kernels::RotaryPairs::kInterleaved}) {
      const char* const kind =
          pairs == kernels::RotaryPairs::kHalves ? "rotary, halves" : "rotary, interleaved";
      const RotarySizes c{s.tokens(), s.model.heads(), head_dim, head_dim / 2 * 2, 0, pairs};
      timed.emplace_back(kind, [c, s](auto& f) { build_rotary(f, c, s.length); });
    }
    return timed;
  };
  cases.float_tolerance = 1e-6;
  return cases;
}

}  // namespace msplora::bench
