#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include "bench/op_case.h"
#include "msplora/kernels/gemm.h"
#include "msplora/nn/functional.h"
#include "nn/matmul.h"

namespace msplora::bench {
namespace {

struct ProductSizes {
  int64_t rows, inner, width;
};

/// What is asked for beside the product.
struct Asked {
  bool bias = false, factor = false, add = false, activation = false, update = false;
  bool is_gated = false;       // width: of y
  bool has_halves = false;     // of factor
  bool is_transposed = false;  // W is stored as [width, inner]
  bool is_turned = false;      // and packed as its transpose
};

constexpr int64_t kUpdateRank = 5;

/// Low-rank updates: two parts with columns of nobody beside and between them, which begin and end inside of
/// panels.
std::vector<kernels::GemmUpdate> updates_of(int64_t width, const float* up_t) {
  const int64_t third = width / 3;
  std::vector<kernels::GemmUpdate> parts = {{0, 2, width > 2 ? 1 : 0, width > 2 ? third : width, up_t}};
  if (third > 1) parts.push_back({2, kUpdateRank, width - third, third - 1, up_t + 2 * width});
  return parts;
}

at::Tensor update_sum(const at::Tensor& z, const at::Tensor& up_t, int64_t width) {
  at::Tensor dense = at::zeros({kUpdateRank, width}, up_t.options().dtype(at::kDouble));
  const std::vector<float> places(static_cast<size_t>(kUpdateRank * width));
  for (const kernels::GemmUpdate& part : updates_of(width, places.data())) {
    const int64_t rank = part.end - part.begin;
    const at::Tensor from = up_t.view({-1}).narrow(0, part.up_t - places.data(), rank * part.width);
    dense.narrow(0, part.begin, rank).narrow(1, part.column, part.width).copy_(from.view({rank, part.width}));
  }
  return at::matmul(z.to(at::kDouble), dense);
}

constexpr auto kGate = kernels::Activation::kSilu;

// Whole panels of every instruction set.
int64_t half_of(int64_t width) {
  constexpr int64_t kPanels = 96;
  return (width + kPanels - 1) / kPanels * kPanels;
}

// The product as libtorch's operations give it; `in` holds x, W and what is asked for, `width` is that of y.
at::Tensor composed_product(const Asked& asked, const std::vector<at::Tensor>& in, const at::Tensor& before,
                            int64_t width) {
  size_t at = 2;
  const int64_t half = half_of(width);
  at::Tensor sum = detail::matmul(in[0], asked.is_transposed ? in[1].t() : in[1]);
  if (asked.bias) sum = sum + in[at++];
  const at::Tensor times = asked.factor ? in[at++] : at::Tensor();
  if (asked.update) sum = sum + update_sum(in[at], in[at + 1], sum.size(1)).to(sum.scalar_type());
  if (asked.is_gated) return activation(sum.narrow(1, 0, width), kGate) * sum.narrow(1, half, width);
  if (asked.has_halves) {
    sum = at::cat({sum, at::zeros({sum.size(0), half - width}, sum.options())}, 1);
    sum = at::cat({sum, sum}, 1);
  }
  if (times.defined()) sum = sum * times;
  if (asked.add) sum = sum + before.to(sum.options());
  return asked.activation ? activation(sum, kernels::Activation::kGelu) : sum;
}

template <typename T>
void build_product(OpFrame<T>& f, const ProductSizes& p, const Asked& asked) {
  const int64_t rows = p.rows, inner = p.inner, half = half_of(p.width);
  const int64_t width = asked.is_gated ? 2 * half : p.width, factors = asked.has_halves ? 2 * half : width;
  T* const x = f.constant("x", {rows, inner});
  T* const w =
      f.constant("w", asked.is_transposed ? at::IntArrayRef{width, inner} : at::IntArrayRef{inner, width});
  const float* const bias = asked.bias ? f.float_constant("bias", {width}) : nullptr;
  const T* const factor = asked.factor ? f.constant("factor", {rows, factors}) : nullptr;
  const float* const z = asked.update ? f.float_constant("z", {rows, kUpdateRank}) : nullptr;
  const float* const up_t = asked.update ? f.float_constant("up", {kUpdateRank, width}) : nullptr;
  const int64_t columns = asked.is_gated ? p.width : factors;
  const auto y = asked.add ? f.output_onto("y", {rows, columns}) : f.output("y", {rows, columns});
  const at::Tensor before = f.arrays.back().start;
  if (asked.is_gated) f.arrays.back().slack = 3;  // the gate is rounded, too
  T* const derivative = asked.activation ? f.template saved<T>("derivative", {rows, width}) : nullptr;
  // Steep around 0, where sums of many terms round: compared as a whole.
  if (asked.activation) f.arrays.back().slack = 20;
  const double sums = static_cast<double>(rows * width);
  const double numbers = static_cast<double>(rows * inner + inner * width) + sums;
  std::shared_ptr<T[]> packed;
  f.forward({0.0, numbers * sizeof(T), 2.0 * static_cast<double>(inner) * sums},
            [=, precision = f.precision](const auto& k) mutable {
              // Of parts, each direction has a packed copy of its own.
              const bool is_turned = asked.is_turned && precision == kernels::Precision::kExact;
              if (!packed) {
                int64_t elements = 0;
                const int64_t row = asked.is_transposed ? 1 : width, column = asked.is_transposed ? inner : 1;
                kernels::PackGemm<T> pack{inner, width, row, column, {}, w, nullptr, &elements};
                if (is_turned) pack = {width, inner, column, row, {}, w, nullptr, &elements};
                pack.precision = precision;
                k.pack_gemm(pack);
                packed = std::shared_ptr<T[]>(new T[static_cast<size_t>(elements)]);
                pack.packed = packed.get();
                k.pack_gemm(pack);
              }
              kernels::PackedGemm<T> op;
              op.rows = rows, op.inner = inner, op.width = width;
              op.x = x, op.packed = packed.get(), op.is_transposed = is_turned, op.bias = bias,
              op.factor = factor, op.add = asked.add, op.y = y.value;
              op.is_activated = asked.activation;
              if (asked.is_gated) op.activation = kGate, op.gated_width = columns;
              if (asked.has_halves) op.half_width = half;
              op.derivative = derivative;
              const auto updates =
                  asked.update ? updates_of(width, up_t) : std::vector<kernels::GemmUpdate>();
              op.z = z, op.rank = kUpdateRank;
              op.updates = updates.data(), op.num_updates = static_cast<int64_t>(updates.size());
              op.precision = precision;
              k.packed_gemm(op);
            });
  f.function = [=, y_width = p.width](const auto& in) {
    return std::vector<at::Tensor>{composed_product(asked, in, before, y_width)};
  };
}

// As a layer multiplies that is frozen.
template <typename T>
void build_gradient(OpFrame<T>& f, const ProductSizes& p) {
  const bool has_own_copy = kernels::packs_both_directions<T>(kernels::active_isa(), f.precision);
  build_product(f, p, {.is_transposed = true, .is_turned = !has_own_copy});
}

// Odd sizes around tiles and panels of every instruction set, and an inner dimension of several ranges.
constexpr ProductSizes kProducts[] = {{1, 2, 1},    {3, 8, 5},     {8, 48, 48},   {9, 50, 49},
                                      {33, 96, 95}, {130, 64, 97}, {20, 7000, 9}, {2, 3500, 500}};

OpCases products(const std::vector<std::pair<std::string, Asked>>& questions) {
  OpCases cases;
  for (const auto& [name, asked] : questions) {
    for (const ProductSizes& p : kProducts) {
      cases.small.emplace_back(fmt::format("{} x {} x {}, {}", p.rows, p.inner, p.width, name),
                               [p, asked = asked](auto& f) { build_product(f, p, asked); });
    }
  }
  cases.float_tolerance = 1e-5;
  cases.bfloat16_tolerance = 4e-3;
  return cases;
}

}  // namespace

// Layouts differ between instruction sets: what is packed is read by a product.
OpCases pack_gemm_cases() {
  return products({{"rows of W", {}}, {"columns of W", {.is_transposed = true}}});
}

OpCases packed_gemm_cases() {
  OpCases cases = products(
      {{"bias", {.bias = true}},
       {"add", {.add = true}},
       {"factor", {.factor = true, .is_transposed = true}},
       {"bias and activation", {.bias = true, .activation = true}},
       {"activation", {.activation = true, .is_transposed = true}},
       {"bias and update", {.bias = true, .update = true}},
       {"activation of an update", {.activation = true, .update = true}},
       {"gated", {.activation = true, .is_gated = true}},
       {"gated, bias and update", {.bias = true, .activation = true, .update = true, .is_gated = true}},
       {"factor of two halves",
        {.factor = true, .has_halves = true, .is_transposed = true, .is_turned = true}},
       {"packed as its transpose", {.add = true, .is_turned = true}},
       {"packed as its transpose, factor", {.factor = true, .is_transposed = true, .is_turned = true}},
       {"all but activation", {.bias = true, .factor = true, .add = true, .update = true}}});
  cases.of_model = [](const OpSizes& s) {
    const ProductSizes p{s.tokens(), s.width(), s.model.intermediate_size()};
    const ProductSizes back{p.rows, p.width, p.inner};
    return std::vector<OpCase>{{"packed product", [p](auto& f) { build_product(f, p, {.bias = true}); }},
                               {"its gradient", [back](auto& f) { build_gradient(f, back); }}};
  };
  return cases;
}

}  // namespace msplora::bench
