// Training runs of LoRA's variants, ASLoRA and PRILoRA: pausing anywhere changes nothing.
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <vector>

#include <set>

#include "msplora/adapters/files.h"
#include "msplora/core/file.h"
#include "temporary_directory.h"
#include "train/adapted_run.h"

namespace msplora {
namespace {

AdapterConfig with_dropout(const std::string& method) {
  AdapterConfig config;
  config.method = method;
  config.rank = 4;
  config.alpha = 6.0;
  config.dropout = 0.1;
  return config;
}

AdapterConfig lora_with_everything() {
  AdapterConfig config = with_dropout("lora");
  config.init = "pissa";
  config.use_dora = true;
  config.lora_plus_ratio = 4.0;
  return config;
}

/// Merges after steps 4 and 7.
AdapterConfig merging_aslora() {
  AdapterConfig config = with_dropout("aslora");
  config.set("aslora.start_step", 1);
  config.set("aslora.interval", 3);
  config.set("aslora.merges", 2);
  return config;
}

/// Prunes after steps 4 and 8.
AdapterConfig pruning_prilora() {
  AdapterConfig config = with_dropout("prilora");
  config.set("prilora.prune_every", 4);
  return config;
}

int64_t adapter_size(const AdaptedRun& run) {
  return run.adapter->trainable_count(ParameterGroup::kAdapter);
}

void expect_resumes(const AdapterConfig& config, const std::vector<int64_t>& pauses) {
  TemporaryDirectory whole_directory;
  AdaptedRun whole(config);
  whole.options.max_steps = 10;
  whole.options.load_best_at_end = false;
  whole.run(whole_directory.path());
  for (const int64_t pause : pauses) {
    SCOPED_TRACE(pause);
    TemporaryDirectory directory;
    AdaptedRun first(config);
    first.options = whole.options;
    first.options.stop_at = pause;
    first.run(directory.path());
    AdaptedRun second(config);
    second.options = whole.options;
    second.run(directory.path(), /*resume=*/true);
    EXPECT_TRUE(all_equal(second.values(), whole.values()));
    EXPECT_TRUE(at::equal(second.logits(), whole.logits()));
    EXPECT_EQ(second.adapter->state().facts, whole.adapter->state().facts);
    const auto a = CheckpointStore(directory.path()).load(10);
    const auto b = CheckpointStore(whole_directory.path()).load(10);
    ASSERT_EQ(a.trainable.size(), b.trainable.size());
    for (size_t i = 0; i < a.trainable.size(); ++i)
      EXPECT_TRUE(at::equal(a.trainable[i].tensor, b.trainable[i].tensor)) << a.trainable[i].name;
    ASSERT_EQ(a.optimizer.size(), b.optimizer.size());
    for (size_t i = 0; i < a.optimizer.size(); ++i)
      EXPECT_TRUE(at::equal(a.optimizer[i].tensor, b.optimizer[i].tensor)) << a.optimizer[i].name;
  }
}

TEST(LoraFamilyTraining, LoraWithPissaDoraAndLoraPlusResumes) {
  expect_resumes(lora_with_everything(), {3, 6});
}

TEST(LoraFamilyTraining, AsloraResumesBetweenItsMerges) {
  expect_resumes(merging_aslora(), {3, 4, 5, 7, 8});
}

TEST(LoraFamilyTraining, PriloraResumesAroundAPruning) {
  expect_resumes(pruning_prilora(), {3, 4, 5});
}

TEST(LoraFamilyTraining, TheBaseIsNeverWritten) {
  for (const AdapterConfig& config : {lora_with_everything(), merging_aslora(), pruning_prilora()}) {
    TemporaryDirectory directory;
    AdaptedRun run(config);
    std::vector<at::Tensor> before;
    for (const Site& site : run.model->sites()) before.push_back(site.linear->weight->values().clone());
    run.options.max_steps = 5;
    run.run(directory.path());
    size_t i = 0;
    for (const Site& site : run.model->sites()) {
      if (site.layer >= 0) {
        EXPECT_TRUE(at::equal(site.linear->weight->values(), before[i])) << site.path;
      }
      ++i;
    }
  }
}

TEST(LoraFamilyTraining, AdapterFilesGiveTheTrainedFunctionToTheBit) {
  for (const AdapterConfig& config : {lora_with_everything(), merging_aslora(), pruning_prilora()}) {
    SCOPED_TRACE(config.method);
    TemporaryDirectory directory, file;
    AdaptedRun run(config);
    run.options.max_steps = 8;
    run.run(directory.path());
    save_native_adapter(*run.adapter, file.path());
    const at::Tensor trained = run.logits();
    const AdapterTarget target = run.adapter->target();
    run.adapter.reset();
    EXPECT_FALSE(at::equal(run.logits(), trained));
    run.adapter = load_adapter(file.path(), target);
    EXPECT_TRUE(at::equal(run.logits(), trained));
  }
}

TEST(AsloraTraining, TiedLayersStayEqualAndTheMomentsOfTheUpperOneGoOn) {
  TemporaryDirectory directory;
  AdaptedRun run(merging_aslora());
  const int64_t before = adapter_size(run);
  run.options.max_steps = 9;
  run.options.load_best_at_end = false;
  run.run(directory.path());
  // Both modules have merged twice: of three B each, one is left.
  EXPECT_EQ(adapter_size(run), before - 4 * 32 * 4);
  std::set<std::string> live;
  for (const TrainableTensor& entry : run.adapter->trainable()) live.insert(entry.name);
  const CheckpointStore store(directory.path());
  const auto last = store.load(9);
  for (const NamedTensor& entry : last.optimizer) {
    const std::string name = entry.name.substr(0, entry.name.rfind('.'));
    if (!entry.name.ends_with(".step")) continue;
    EXPECT_EQ(entry.tensor.item<int64_t>(), live.contains(name) ? 9 : 0) << entry.name;
  }
  for (const char* module : {"query", "value"}) {
    std::set<void*> storages;
    for (size_t i = 0; i < run.adapter->sites().size(); ++i) {
      if (run.adapter->sites()[i].module == module) storages.insert(run.adapter->terms(i)[0].up.data_ptr());
    }
    EXPECT_EQ(storages.size(), 1u);
  }
}

TEST(AsloraTraining, TheBestWeightsMayBeThoseBeforeAMerge) {
  TemporaryDirectory directory;
  AdaptedRun run(merging_aslora());
  run.options.max_steps = 9;
  run.options.eval_every = 1;
  run.options.best_metric = "";
  const TrainingResult result = run.run(directory.path());
  ASSERT_GT(result.best_step, 0);
  const auto best = CheckpointStore(directory.path()).load(result.best_step);
  EXPECT_EQ(run.adapter->state().facts, best.adapter_state);
  const int64_t merges = result.best_step < 4 ? 0 : result.best_step < 7 ? 1 : 2;
  EXPECT_EQ(run.adapter->begin_step({}).frozen.size(), static_cast<size_t>(2 * merges));
  for (const NamedTensor& stored : best.trainable) {
    for (const TrainableTensor& entry : run.adapter->trainable()) {
      if (entry.name == stored.name) {
        EXPECT_TRUE(at::equal(entry.tensor, stored.tensor)) << entry.name;
      }
    }
  }
}

TEST(PriloraTraining, PrunedEntriesComeBackWithTheNextSteps) {
  TemporaryDirectory directory;
  AdaptedRun run(pruning_prilora());
  run.options.max_steps = 6;
  run.options.load_best_at_end = false;
  run.run(directory.path());
  const CheckpointStore store(directory.path());
  const std::string name = run.adapter->sites()[0].path + ".lora_A.weight";
  const auto zeros_after = [&](int64_t step) {
    for (const NamedTensor& entry : store.load_trainable(step)) {
      if (entry.name == name) return entry.tensor.eq(0).sum().item<int64_t>();
    }
    ADD_FAILURE() << name;
    return int64_t{0};
  };
  const int64_t rows = run.adapter->terms(0)[0].down.size(0);
  EXPECT_EQ(rows, 2);
  EXPECT_EQ(zeros_after(3), 0);
  EXPECT_EQ(zeros_after(4), rows * 16);  // half of 32 inputs in each row
  EXPECT_LT(zeros_after(5), rows * 16);
}

}  // namespace
}  // namespace msplora
