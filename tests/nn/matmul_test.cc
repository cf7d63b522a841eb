#include "nn/matmul.h"

#include <ATen/ops/matmul.h>
#include <gtest/gtest.h>

#include "nn/drawn_tensors.h"

namespace msplora {
namespace {

/// Sums of many terms are as exact as the type that they are rounded to, on every processor.
TEST(Matmul, SumsAreWide) {
  const at::Tensor x = testing::normals({5, 5000}, "x").abs(), w = testing::normals({7, 5000}, "w").abs(),
                   b = testing::normals({7}, "b");
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf, at::kFloat, at::kDouble}) {
    const at::Tensor a = x.to(dtype), weight = w.to(dtype), bias = b.to(dtype);
    const at::Tensor product = at::matmul(a.to(at::kDouble), weight.to(at::kDouble).t());
    const double bound = dtype == at::kBFloat16 ? 0x1p-8
                         : dtype == at::kHalf   ? 0x1p-11
                         : dtype == at::kFloat  ? 1e-6
                                                : 1e-14;
    EXPECT_LE(testing::relative_difference(detail::matmul(a, weight.t()), product), bound);
    EXPECT_LE(testing::relative_difference(detail::linear(a, weight), product), bound);
    EXPECT_LE(testing::relative_difference(detail::linear(a, weight, bias), product + bias.to(at::kDouble)),
              bound);
    EXPECT_LE(
        testing::relative_difference(detail::matmul(a.narrow(0, 0, 1), weight.t()), product.narrow(0, 0, 1)),
        bound);
    EXPECT_EQ(detail::linear(a, weight).scalar_type(), dtype);
  }
}

}  // namespace
}  // namespace msplora
