#include "nn/packed_linear.h"

#include <ATen/ops/randn.h>
#include <c10/util/intrusive_ptr.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <memory>

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

}  // namespace
}  // namespace msplora::detail
