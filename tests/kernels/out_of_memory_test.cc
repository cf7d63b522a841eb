// Scratch memory that runs out within a parallel region ends as std::bad_alloc of the call, on every thread.
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <new>
#include <vector>

#include "kernels/kernel_helpers.h"

namespace msplora::kernels {
namespace {

class OutOfMemory : public KernelsOfEveryIsa {};

#ifndef __SANITIZE_ADDRESS__
void limit_memory_to_what_is_used() {
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlim_t most = static_cast<rlim_t>(pages) * static_cast<rlim_t>(getpagesize()) + (rlim_t{1} << 29);
  const rlimit limit{most, most};
  setrlimit(RLIMIT_AS, &limit);
}

/// Of more keys than there is memory for their scores; none is read.
template <typename T>
void attend_to_too_much() {
  constexpr int64_t kQueries = 64, kDim = 16;
  const AttentionSegment segment{0, kQueries, 0, 1 << 29, 0, 0};
  std::vector<T> rows(kQueries * kDim);
  Attention<T> op;
  op.segments = &segment;
  op.num_segments = op.heads = op.kv_heads = 1;
  op.head_dim = op.q_stride = op.k_stride = op.v_stride = op.o_stride = kDim;
  op.q = op.k = op.v = rows.data();
  op.o = rows.data();
  limit_memory_to_what_is_used();
  try {
    attention(op);
  } catch (const std::bad_alloc&) {
    _exit(0);
  }
  _exit(3);
}

TEST_P(OutOfMemory, IsAnExceptionOfTheCall) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(attend_to_too_much<float>(), testing::ExitedWithCode(0), "");
  EXPECT_EXIT(attend_to_too_much<Bfloat16>(), testing::ExitedWithCode(0), "");
}

INSTANTIATE_TEST_SUITE_P(Isa, OutOfMemory, ::testing::ValuesIn(available_isas()),
                         [](const auto& info) { return to_string(info.param); });
#endif

}  // namespace
}  // namespace msplora::kernels
