// One model, used by several threads at a time: kept products are made on use, and run side by side.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "msplora/nn/joint_linear.h"
#include "msplora/nn/linear.h"
#include "nn/drawn_tensors.h"

namespace msplora {
namespace {

using testing::normals;

constexpr int kThreads = 6, kPasses = 8;

/// Runs body(thread) on all threads, which begin together.
void on_all_threads(const std::function<void(int)>& body) {
  std::atomic<int> waiting{kThreads};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      at::set_num_threads(1);
      --waiting;
      while (waiting > 0) std::this_thread::yield();
      body(t);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

/// Output and gradient of x, of lengths that differ from thread to thread and pass to pass.
struct ThreadOutcome {
  at::Tensor y, dx;
};

void expect_same_as_alone(const std::function<ThreadOutcome(int64_t rows)>& pass_of_fresh,
                          const std::function<ThreadOutcome(int64_t rows)>& pass_of_shared) {
  const auto rows_of = [](int thread, int pass) { return 32 + 64 * ((thread + pass) % 10) + 7 * thread; };
  std::vector<std::vector<ThreadOutcome>> outcomes(kThreads);
  on_all_threads([&](int thread) {
    for (int pass = 0; pass < kPasses; ++pass)
      outcomes[static_cast<size_t>(thread)].push_back(pass_of_shared(rows_of(thread, pass)));
  });
  for (int thread = 0; thread < kThreads; ++thread) {
    for (int pass = 0; pass < kPasses; ++pass) {
      const ThreadOutcome expected = pass_of_fresh(rows_of(thread, pass));
      const ThreadOutcome& got = outcomes[static_cast<size_t>(thread)][static_cast<size_t>(pass)];
      EXPECT_TRUE(got.y.equal(expected.y)) << "thread " << thread << ", pass " << pass;
      EXPECT_TRUE(got.dx.equal(expected.dx)) << "thread " << thread << ", pass " << pass;
    }
  }
}

at::Tensor input_of(int64_t rows, at::ScalarType dtype) {
  return normals({rows, 96}, "x", dtype).requires_grad_(true);
}

TEST(SeveralThreads, ShareALinearLayer) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (const bool with_bias : {false, true}) {
      const auto make = [&] {
        return Linear("layer", normals({128, 96}, "w", dtype),
                      with_bias ? normals({128}, "b", at::kFloat) : at::Tensor());
      };
      const auto pass = [&](const Linear& layer, int64_t rows) {
        const at::Tensor x = input_of(rows, dtype), y = layer.forward(x, {});
        y.sum().backward();
        return ThreadOutcome{y.detach(), x.grad()};
      };
      const Linear shared = make(), alone = make();
      expect_same_as_alone([&](int64_t rows) { return pass(alone, rows); },
                           [&](int64_t rows) { return pass(shared, rows); });
    }
  }
}

TEST(SeveralThreads, ShareAJointProduct) {
  std::vector<Linear> layers;
  for (const char* name : {"query", "key", "value"})
    layers.emplace_back(name, normals({64, 96}, name, at::kFloat), at::Tensor());
  const auto pass = [&](const JointLinear& joint, int64_t rows) {
    const at::Tensor x = input_of(rows, at::kFloat);
    const auto out = joint.forward(x, {&layers[0], &layers[1], &layers[2]}, {});
    if (!out) {
      ADD_FAILURE() << "no joint product";
      return ThreadOutcome{x, x};
    }
    out->y.sum().backward();
    return ThreadOutcome{out->y.detach(), x.grad()};
  };
  const JointLinear shared, alone;
  expect_same_as_alone([&](int64_t rows) { return pass(alone, rows); },
                       [&](int64_t rows) { return pass(shared, rows); });
}

}  // namespace
}  // namespace msplora
