#include "nn/packed_linear.h"

#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <c10/util/intrusive_ptr.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <memory>

#include "msplora/kernels/gemm.h"
#include "nn/drawn_tensors.h"

namespace msplora::detail {
namespace {

using Kept = c10::weak_intrusive_ptr<PackedLinear>;

/// A packed copy is as large as its matrix: one that nobody uses any more must be gone.
TEST(PackedLinear, IsFreedWithItsWeightAndWithItsLayer) {
  Weight weight(at::randn({128, 128}));
  auto product = std::make_unique<KeptProduct>();
  if (!product->of({&weight})) GTEST_SKIP() << "nothing is packed for this processor";
  const Kept first(product->of({&weight}));
  EXPECT_FALSE(first.expired());
  EXPECT_EQ(first.use_count(), 1u);

  weight.set(at::randn({128, 128}));
  const Kept second(product->of({&weight}));
  EXPECT_TRUE(first.expired());
  EXPECT_FALSE(second.expired());

  product.reset();
  EXPECT_TRUE(second.expired());
}

// Forward and backward, which then reads a packed copy of its own.
TEST(PackedLinear, MultipliesInThePrecisionThatWasChosenWhenItWasPacked) {
  for (const kernels::Isa isa : kernels::available_isas()) {
    const testing::LowerIsa chosen(isa);
    const at::Tensor w = testing::normals({96, 128}, "w", at::kFloat),
                     x = testing::normals({50, 128}, "x", at::kFloat),
                     dy = testing::normals({50, 96}, "dy", at::kFloat);
    double errors[2][2] = {};
    for (const int i : {0, 1}) {
      const testing::ChosenPrecision precision(i == 0 ? kernels::Precision::kHigh
                                                      : kernels::Precision::kMedium);
      const Weight weight(w);
      const auto product = PackedLinear::make({&weight});
      if (!product) continue;
      const at::Tensor exact = w.to(at::kDouble);
      errors[i][0] =
          testing::relative_difference(product->forward(x, {}), at::matmul(x.to(at::kDouble), exact.t()));
      errors[i][1] =
          testing::relative_difference(product->backward(dy), at::matmul(dy.to(at::kDouble), exact));
    }
    for (const int direction : {0, 1}) {
      EXPECT_LT(errors[0][direction], 1e-6) << to_string(isa);
      EXPECT_LT(errors[1][direction], 4e-5) << to_string(isa);
      if (isa == kernels::Isa::kAmx) {
        EXPECT_GT(errors[1][direction], 2 * errors[0][direction]);
      }
    }
  }
}

}  // namespace
}  // namespace msplora::detail
