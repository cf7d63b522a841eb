// Runs that are parts of longer ones, and gradient descent without moments.
#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "temporary_directory.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

class RateSink : public EventSink {
 public:
  explicit RateSink(std::vector<double>& rates) : rates_(rates) {}
  void on_step(const StepReport& report) override { rates_.push_back(report.lr); }

 private:
  std::vector<double>& rates_;
};

TEST(PartialRun, TakesItsPlaceInTheScheduleAndWritesNothing) {
  TemporaryDirectory directory;
  TinyRun run;
  run.validate = false;
  run.options.lr = 1.0e-2;
  run.options.max_steps = 3;
  std::vector<double> rates;
  TrainingData& data = run.make_data();
  TrainerSetup setup = run.setup(directory.path());
  setup.sinks.clear();
  setup.sinks.push_back(std::make_unique<RateSink>(rates));
  setup.directory.clear();
  setup.keeps_checkpoints = false;
  setup.schedule_begin = 6;
  setup.schedule_steps = 12;
  const TrainingResult result = Trainer(std::move(setup), data).run();
  EXPECT_EQ(result.steps, 3);
  EXPECT_EQ(result.total_steps, 3);
  EXPECT_THAT(rates, testing::Pointwise(testing::DoubleNear(1e-12), {6.0e-2 / 12, 5.0e-2 / 12, 4.0e-2 / 12}));
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(Sgd, StepByHand) {
  at::Tensor p = at::full({2}, 2.0), q = at::full({2}, 2.0);
  p.mutable_grad() = at::full({2}, 3.0);
  q.mutable_grad() = at::full({2}, 3.0);
  Sgd optimizer({{"group", 0.1, 0.5, {{"p", p}, {"q", q}}}});
  optimizer.step(0.5, 2.0, {"q"});
  // 2 (1 - 0.05 · 0.5) - 0.05 · 2 · 3
  EXPECT_TRUE(at::allclose(p, at::full({2}, 1.65)));
  EXPECT_TRUE(at::equal(q, at::full({2}, 2.0)));
  optimizer.zero_grad();
  EXPECT_FALSE(p.grad().defined());
  EXPECT_THROW(optimizer.reset("r"), Error);
  EXPECT_THROW(Sgd({{"group", 0.1, 0.0, {{"p", p}, {"p", p}}}}), Error);
}

TEST(Sgd, TrainsAndResumes) {
  const auto make = [] {
    TinyRun run(0.1);
    run.options.optimizer = "sgd";
    run.options.lr = 0.3;
    run.options.max_steps = 12;
    run.options.save_every = 1;
    run.options.load_best_at_end = false;
    return run;
  };
  TemporaryDirectory whole_directory, directory;
  TinyRun whole = make();
  const auto before = whole.values();
  whole.run(whole_directory.path());
  EXPECT_FALSE(all_equal(before, whole.values()));
  TinyRun first = make(), second = make();
  first.options.stop_at = 5;
  EXPECT_TRUE(first.run(directory.path()).paused);
  second.run(directory.path(), /*resume=*/true);
  EXPECT_TRUE(all_equal(whole.values(), second.values()));
}

}  // namespace
}  // namespace msplora
