#include "msplora/nn/device.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>
#include <gtest/gtest.h>

#include "msplora/core/error.h"
#include "nn/drawn_tensors.h"
#include "nn/pretend_device.h"

namespace msplora {
namespace {

TEST(Device, NamesAreCheckedAndWhatIsNotThereIsRefused) {
  EXPECT_TRUE(parse_device("cpu").is_cpu());
  for (const char* name : {"", "gpu", "cuda:", "cuda:x", "cuda:1234", "cpu:0"}) {
    EXPECT_FALSE(is_device_name(name)) << name;
    EXPECT_THROW(parse_device(name), Error) << name;
  }
  if (at::hasCUDA()) {
    EXPECT_TRUE(parse_device("cuda").is_cuda());
  } else {
    EXPECT_THROW(parse_device("cuda"), Error);
    EXPECT_THROW(parse_device("cuda:1"), Error);
  }
}

TEST(PretendDevice, ComputesAndRefusesTensorsOfTheCpu) {
  if (at::hasCUDA()) GTEST_SKIP() << "the tests take the real device";
  const at::Tensor a = testing::normals({3, 4}, "a"), b = testing::normals({4, 5}, "b");
  const at::Tensor there = a.to(testing::pretend_device());
  EXPECT_EQ(testing::relative_difference(at::mm(there, b.to(there.device())).cpu(), at::mm(a, b)), 0.0);
  EXPECT_ANY_THROW(at::mm(there, b));
  at::Tensor leaf = there.clone().requires_grad_(true);
  at::mm(leaf, b.to(there.device())).sum().backward();
  EXPECT_TRUE(leaf.grad().device() == testing::pretend_device());
}

}  // namespace
}  // namespace msplora
