#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernel_helpers.h"
#include "msplora/kernels/gemm.h"

namespace msplora::kernels {
namespace {

class PackedGemmOfEveryIsa : public KernelsOfEveryIsa {};

template <typename T>
std::vector<T> drawn(int64_t n, const char* name) {
  const std::vector<float> values = normals(static_cast<size_t>(n), name);
  if constexpr (std::is_same_v<T, float>) {
    return values;
  } else {
    return to_bf16(values);
  }
}

/// x W, with W packed as it is or as its transpose.
template <typename T>
std::vector<float> product(int64_t rows, int64_t inner, int64_t width, bool is_turned) {
  const std::vector<T> x = drawn<T>(rows * inner, "x"), w = drawn<T>(inner * width, "w");
  std::vector<T> y(static_cast<size_t>(rows * width));
  PackGemm<T> pack{inner, width, width, 1, active_isa(), w.data(), nullptr, nullptr};
  if (is_turned) pack = {width, inner, 1, width, active_isa(), w.data(), nullptr, nullptr};
  std::vector<T> packed(static_cast<size_t>(packed_gemm_elements<T>(active_isa(), pack.inner, pack.width)));
  pack.packed = packed.data();
  pack_gemm<T>(pack);
  PackedGemm<T> op;
  op.rows = rows;
  op.inner = inner;
  op.width = width;
  op.isa = active_isa();
  op.x = x.data();
  op.packed = packed.data();
  op.is_transposed = is_turned;
  op.y = y.data();
  packed_gemm<T>(op);
  std::vector<float> values;
  for (const T value : y) values.push_back(to_float(value));
  return values;
}

// Odd sizes around panels of every instruction set, blocks of rows, and an inner dimension of several ranges.
TEST_P(PackedGemmOfEveryIsa, PanelsThatAreTurnedChangeNoBit) {
  const std::vector<std::vector<int64_t>> sizes = {{1, 2, 1},    {8, 48, 48},   {9, 50, 49},
                                                   {33, 96, 95}, {20, 7000, 9}, {1100, 34, 50}};
  for (const std::vector<int64_t>& s : sizes) {
    EXPECT_EQ(product<float>(s[0], s[1], s[2], true), product<float>(s[0], s[1], s[2], false)) << s[1];
    EXPECT_EQ(product<Bfloat16>(s[0], s[1], s[2], true), product<Bfloat16>(s[0], s[1], s[2], false)) << s[1];
  }
}

// The gradient of a vocabulary: -1 for one of very many, little for all others. Added one by one to what the
// first leaves, each would be rounded up by a fifth of itself: 9e-4 in all.
TEST_P(PackedGemmOfEveryIsa, ManySmallTermsBehindALargeOneKeepTheirSum) {
  constexpr int64_t kInner = 49152;
  const std::vector<float> w(kInner, 1.0F);
  std::vector<float> packed(static_cast<size_t>(packed_gemm_elements<float>(active_isa(), kInner, 1)));
  pack_gemm<float>({kInner, 1, 1, 1, active_isa(), w.data(), packed.data(), nullptr});
  for (const int64_t rows : {1, 20}) {
    std::vector<float> x(static_cast<size_t>(rows * kInner), 1e-7F), y(static_cast<size_t>(rows));
    for (int64_t row = 0; row < rows; ++row) x[static_cast<size_t>(row * kInner + 3)] = -1;
    PackedGemm<float> op;
    op.rows = rows;
    op.width = 1;
    op.inner = kInner;
    op.isa = active_isa();
    op.x = x.data(), op.packed = packed.data(), op.y = y.data();
    packed_gemm<float>(op);
    for (const float sum : y) EXPECT_NEAR(sum, -1 + 1e-7 * (kInner - 1), 6e-5) << rows;
  }
}

// A row has the same product alone as among others.
TEST_P(PackedGemmOfEveryIsa, RowsDoNotDependOnHowManyThereAre) {
  const std::vector<float> many = product<float>(20, 7000, 9, false), one = product<float>(1, 7000, 9, false);
  // The same x and W are drawn, the first row of x first.
  EXPECT_EQ(std::vector<float>(many.begin(), many.begin() + 9), one);
}

INSTANTIATE_TEST_SUITE_P(Isa, PackedGemmOfEveryIsa, ::testing::ValuesIn(available_isas()),
                         [](const auto& info) { return to_string(info.param); });

}  // namespace
}  // namespace msplora::kernels
