#include "msplora/train/runtime.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <cstdint>
#include <set>
#include <thread>
#include <vector>

#include "msplora/kernels/gemm.h"

namespace msplora {
namespace {

// A thread that asks for the first time what libtorch takes must not be given what another one has set.
TEST(UseThreads, EachThreadKeepsItsNumberAndItsPrecision) {
  std::jthread([] {
    use_threads(3);
    kernels::set_matmul_precision(kernels::Precision::kMedium);
    std::jthread([] {
      use_threads(1);
      kernels::set_matmul_precision(kernels::Precision::kHigh);
      EXPECT_EQ(at::get_num_threads(), 1);
    }).join();
    EXPECT_EQ(at::get_num_threads(), 3);
    EXPECT_EQ(omp_get_max_threads(), 3);
    EXPECT_EQ(kernels::matmul_precision(kernels::Isa::kAmx), kernels::Precision::kMedium);
    // One that has chosen nothing takes what was chosen last.
    std::jthread([] {
      EXPECT_EQ(kernels::matmul_precision(kernels::Isa::kAmx), kernels::Precision::kHigh);
      kernels::set_matmul_precision(kernels::Precision::kExact);
    }).join();
  }).join();
}

#ifdef __GLIBC__
TEST(KeepFreedMemory, TensorsLieWhereFreedOnesOfTheirSizeLay) {
  keep_freed_memory();
  constexpr int kArrays = 64;
  constexpr int64_t kElements = 300'001;
  std::vector<at::Tensor> walls, arrays;
  std::set<const void*> places;
  for (int i = 0; i < kArrays; ++i) {
    arrays.push_back(at::empty({kElements}));
    walls.push_back(at::empty({5'000}));
    places.insert(arrays.back().data_ptr());
  }
  arrays.clear();
  int reused = 0;
  for (int i = 0; i < kArrays; ++i) {
    arrays.push_back(at::empty({kElements}));
    reused += static_cast<int>(places.count(arrays.back().data_ptr()));
  }
  // The heap may have had a hole that fits before.
  EXPECT_GE(reused, kArrays - 4);
}
#endif

TEST(KeepFreedMemory, TensorsAreAlignedResizedAndFreed) {
  keep_freed_memory();
  for (const int64_t elements : {0, 1, 15, 16, 17, 3000}) {
    at::Tensor tensor = at::arange(elements);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 64, 0U) << elements;
    tensor.resize_({2 * elements + 3});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 64, 0U) << elements;
    for (int64_t i = 0; i < elements; ++i) ASSERT_EQ(tensor[i].item<int64_t>(), i);
  }
}

TEST(KeepFreedMemory, TooMuchIsReported) {
  keep_freed_memory();
  EXPECT_ANY_THROW(at::empty({int64_t{1} << 55}));
}

}  // namespace
}  // namespace msplora
