#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <numeric>
#include "bench/op_case.h"
#include "msplora/nn/functional.h"

namespace msplora::bench {
namespace {

struct LowRankSizes {
  int64_t rows, in;
  std::vector<int64_t> widths;  // of the outputs, of equal rank, side by side with a column of nobody between
  std::vector<int64_t> ranks;   // of the slices
  double p = 0.0;
  bool is_mixed = false;  // every second slice is without dropout

  int64_t rank() const { return std::accumulate(ranks.begin(), ranks.end(), int64_t{0}); }
  int64_t rank_of_output() const { return rank() / static_cast<int64_t>(widths.size()); }
  std::vector<kernels::LowRankSlice> slices() const {
    std::vector<kernels::LowRankSlice> all;
    int64_t begin = 0;
    for (size_t s = 0; s < ranks.size(); ++s) {
      all.push_back({begin, begin + ranks[s], {100 + s, is_mixed && s % 2 == 1 ? 0.0 : p}});
      begin += ranks[s];
    }
    return all;
  }
};

template <typename T>
struct LowRankOutputs {
  using Exact = kernels::Exact<T>;
  std::vector<typename OpFrame<T>::template Pair<T>> y;
  std::vector<typename OpFrame<T>::template Pair<Exact>> up_t;

  std::vector<kernels::LowRankOutput<T>> of(const LowRankSizes& c) const {
    std::vector<kernels::LowRankOutput<T>> outputs;
    for (size_t i = 0; i < y.size(); ++i) {
      const int64_t begin = static_cast<int64_t>(i) * c.rank_of_output();
      outputs.push_back({begin, begin + c.rank_of_output(), c.widths[i], c.widths[i] + 1, up_t[i].value,
                         y[i].value, y[i].gradient, up_t[i].gradient});
    }
    return outputs;
  }
};

// The frozen product is left away: y and dx hold numbers that the update is added to.
template <typename T>
void build_low_rank(OpFrame<T>& f, const LowRankSizes& c) {
  const int64_t rank = c.rank();
  const auto x = f.input_onto("x", {c.rows, c.in});
  const auto down = f.exact_input("down", {rank, c.in});
  LowRankOutputs<T> outputs;
  double out = 0;
  for (size_t i = 0; i < c.widths.size(); ++i) {
    outputs.up_t.push_back(f.exact_input(fmt::format("up {}", i), {c.rank_of_output(), c.widths[i]}));
    out += static_cast<double>(c.widths[i]);
  }
  std::vector<at::Tensor> before;
  for (size_t i = 0; i < c.widths.size(); ++i) {
    outputs.y.push_back(f.output_onto(fmt::format("y {}", i), {c.rows, c.widths[i]}, 1));
    before.push_back(f.arrays.back().start);
  }
  auto* const z = f.template saved<kernels::Exact<T>>("z", {c.rows, rank});
  auto* const dz = f.template saved<kernels::Exact<T>>("dz", {c.rows, rank});
  const auto slices = c.slices();
  const auto call = [=, precision = f.precision](const auto& body) {
    const auto all = outputs.of(c);
    body(kernels::LowRank<T>{c.rows, c.in, rank, slices.data(), static_cast<int64_t>(slices.size()),
                             all.data(), static_cast<int64_t>(all.size()), x.value, down.value, z,
                             precision});
  };
  const double rows = static_cast<double>(c.rows), in = static_cast<double>(c.in);
  const double shared = static_cast<double>(c.rank_of_output());
  const double masks = c.p > 0 ? kMaskOperations * rows * in * static_cast<double>(slices.size()) : 0;
  const double products = 2 * rows * (in * static_cast<double>(rank) + out * shared);
  f.forward({products + masks, rows * (in + 2 * out) * sizeof(T)},
            [=](const auto& k) { call([&](const auto& op) { k.low_rank(op); }); });
  f.backward({3 * products + masks, rows * (3 * in + out) * sizeof(T)}, [=](const auto& k) {
    call([&](const auto& op) { k.low_rank_backward({op, x.gradient, down.gradient, dz}); });
  });
  f.is_random = c.p > 0;
  f.function = [=](const auto& in_arrays) {
    std::vector<at::Tensor> results;
    for (size_t i = 0; i < c.widths.size(); ++i) {
      const int64_t begin = static_cast<int64_t>(i) * c.rank_of_output(), end = begin + c.rank_of_output();
      std::vector<kernels::LowRankSlice> own;
      for (const kernels::LowRankSlice& slice : slices) {
        if (slice.begin >= begin && slice.end <= end)
          own.push_back({slice.begin - begin, slice.end - begin, slice.mask});
      }
      const at::Tensor& rows_of_x = in_arrays[0];
      const at::Tensor frozen = at::zeros({c.widths[i], c.in}, rows_of_x.options().requires_grad(false));
      results.push_back(before[i].to(rows_of_x.options().requires_grad(false)) +
                        adapted_linear(rows_of_x, frozen, {}, in_arrays[1].narrow(0, begin, end - begin),
                                       in_arrays[2 + i].t(), own));
    }
    return results;
  };
}

}  // namespace

OpCases low_rank_cases() {
  OpCases cases;
  for (const LowRankSizes& c : {LowRankSizes{1, 1, {1}, {1}},
                                {5, 7, {3}, {2}},
                                {4, 5, {3}, {2, 1}, 0.3},
                                {16, 16, {48}, {8, 4, 2}, 0.1},
                                {33, 130, {65}, {8, 4, 2}, 0.05},
                                {100, 192, {192}, {14}},
                                {17, 40, {24}, {5, 1}, 0.5},
                                {33, 130, {65}, {8, 4, 2}, 0.2, true},
                                {33, 130, {35, 33}, {4, 2, 4, 2}, 0.1},
                                {70, 64, {16, 48, 13}, {3, 3, 3}},
                                {1400, 24, {40}, {4, 2}, 0.1}}) {
    std::string what = fmt::format("{} x {}, dropout {}{}, rank {}, to", c.rows, c.in, c.p,
                                   c.is_mixed ? " in part" : "", c.rank());
    for (const int64_t width : c.widths) what += fmt::format(" {}", width);
    cases.small.emplace_back(what, [c](auto& f) { build_low_rank(f, c); });
  }
  cases.of_model = [](const OpSizes& s) {
    const LowRankSizes c{s.tokens(), s.width(), {s.width()}, {8, 4, 2}, s.dropout};
    return std::vector<OpCase>{{"low rank", [c](auto& f) { build_low_rank(f, c); }}};
  };
  cases.float_tolerance = 1e-5;
  cases.bfloat16_tolerance = 1e-2;
  return cases;
}

}  // namespace msplora::bench
