#include <ATen/ops/equal.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "conformance/harness.h"
#include "msplora/adapters/files.h"
#include "msplora/adapters/merge.h"
#include "msplora/nn/composed.h"
#include "msplora/train/checkpoint.h"
#include "nn/pretend_device.h"
#include "temporary_directory.h"

namespace msplora::testing {
namespace {

TEST_P(Conformance, EveryTensorTrainsWithinTwoSteps) {
  TemporaryDirectory directory;
  TinyTraining training(row().config);
  training.options.max_steps = row().steps;
  training.options.schedule = "constant";
  training.run(directory.path());
  for (const TrainableTensor& entry : training.adapter().trainable()) {
    const auto found = training.history().find(entry.name);
    ASSERT_NE(found, training.history().end()) << entry.name << " was never free";
    const std::set<int64_t>& free = found->second.free;
    // The factor beside a zero one gets its first gradient in the second step.
    const int64_t last = free.size() < 2 ? *free.begin() : *std::next(free.begin());
    const std::set<int64_t>& gradient = found->second.gradient;
    ASSERT_FALSE(gradient.empty()) << entry.name << " got no gradient";
    EXPECT_LE(*gradient.begin(), last) << entry.name;
  }
}

TEST_P(Conformance, TheBaseStaysAsItIs) {
  TemporaryDirectory directory;
  TinyTraining training(row().config);
  std::set<std::string> trained;
  for (const TrainableTensor& entry : training.adapter().trainable()) trained.insert(entry.name);
  std::vector<NamedTensor> before;
  for (const Parameter& parameter : training.model().model().parameters()) {
    if (trained.count(parameter.name) == 0) {
      before.push_back({parameter.name, parameter.values().detach().clone()});
      EXPECT_FALSE(parameter.values().requires_grad()) << parameter.name;
    }
  }
  const std::vector<NamedTensor> start = training.values();
  training.options.max_steps = row().steps;
  training.run(directory.path());
  std::map<std::string, at::Tensor> after;
  for (const Parameter& parameter : training.model().model().parameters()) {
    after[parameter.name] = parameter.values();
  }
  for (const NamedTensor& entry : before) {
    EXPECT_TRUE(at::equal(after.at(entry.name), entry.tensor)) << entry.name;
  }
  int64_t moved = 0;
  const std::vector<NamedTensor> end = training.values();
  for (size_t i = 0; i < end.size(); ++i) moved += !at::equal(end[i].tensor, start[i].tensor);
  EXPECT_GT(moved, 0) << "training changed nothing, so the rule says nothing";
}

void expect_same(const std::vector<NamedTensor>& a, const std::vector<NamedTensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].name, b[i].name);
    EXPECT_TRUE(at::equal(a[i].tensor, b[i].tensor)) << a[i].name;
  }
}

/// A run of the row with dropout in the model and several micro-batches a step.
void configure(TinyTraining& training, int64_t steps) {
  training.options.max_steps = steps;
  training.options.batch_size = 3;
  training.options.accumulation = 2;
}

TEST_P(Conformance, ResumesBitForBit) {
  const int64_t steps = std::max<int64_t>(6, row().steps);
  TemporaryDirectory whole_directory;
  TinyTraining whole(row().config, "bert", 0.1);
  configure(whole, steps);
  whole.run(whole_directory.path());
  const TrainingCheckpoint expected = CheckpointStore(whole_directory.path()).load(steps);
  for (const int64_t pause : {int64_t{1}, steps / 2, steps - 1}) {
    SCOPED_TRACE(pause);
    TemporaryDirectory directory;
    TinyTraining first(row().config, "bert", 0.1);
    configure(first, steps);
    first.options.stop_at = pause;
    ASSERT_TRUE(first.run(directory.path()).paused);
    TinyTraining second(row().config, "bert", 0.1);
    configure(second, steps);
    const TrainingResult result = second.run(directory.path(), /*resume=*/true);
    EXPECT_EQ(result.steps, steps);
    expect_same(second.values(), whole.values());
    EXPECT_EQ(second.adapter().state().facts, whole.adapter().state().facts);
    EXPECT_EQ(second.adapter().state().plan, whole.adapter().state().plan);
    EXPECT_TRUE(at::equal(second.model().logits(), whole.model().logits()));
    const TrainingCheckpoint found = CheckpointStore(directory.path()).load(steps);
    expect_same(found.optimizer, expected.optimizer);
    EXPECT_EQ(found.adapter_state, expected.adapter_state);
  }
}

/// An encoder's module names as those of the same places in a model of `type`.
std::vector<std::string> names_in(const std::string& type, const std::vector<std::string>& names) {
  const std::map<std::string, LinearRole> roles = {{"query", LinearRole::kQuery},
                                                   {"key", LinearRole::kKey},
                                                   {"value", LinearRole::kValue},
                                                   {"attention.output.dense", LinearRole::kAttentionOutput}};
  const Architecture architecture = TinyModel(type).model().architecture();
  std::vector<std::string> translated;
  for (const std::string& name : names) {
    const auto found = roles.find(name);
    if (found == roles.end()) {
      translated.push_back(name);
      continue;
    }
    const LinearSpec* own = architecture.blocks[0].find(found->second);
    if (own == nullptr) own = architecture.blocks[0].find(LinearRole::kQkv);
    if (std::find(translated.begin(), translated.end(), own->name) == translated.end())
      translated.push_back(own->name);
  }
  return translated;
}

/// The row's configuration for a model of `type`, without what names an encoder's modules.
AdapterConfig config_for(const MethodRow& row, const std::string& type) {
  AdapterConfig config = row.config;
  TinyModel model(type);
  const std::vector<Site> sites = model.model().sites();
  const bool has_biases = std::any_of(sites.begin(), sites.end(), [](const Site& site) {
    return site.layer >= 0 && site.linear->bias.defined();
  });
  if (!has_biases) config.bias = "none";
  config.target_modules = names_in(type, row.anywhere);
  config.target_modules_regex.reset();
  config.exclude_modules.clear();
  config.exclude_modules_regex.reset();
  config.layers_to_transform.clear();
  config.layers_pattern.clear();
  config.rank_pattern.clear();
  config.alpha_pattern.clear();
  config.modules_to_save.clear();
  return config;
}

/// Training, checkpoints and a resumed run on another device, without an operation that mixes devices; what
/// is learnt is what libtorch's operations learn on the CPU.
TEST_P(Conformance, TrainsOnAnotherDevice) {
  for (const char* type : {"bert", "llama"}) {
    SCOPED_TRACE(type);
    AdapterConfig config = config_for(row(), type);
    // A GPU draws masks and noise of its own.
    const double dropout = other_device().is_cuda() ? 0.0 : 0.1;
    if (row().takes_dropout) config.dropout = dropout;
    const auto logits_of = [&](const at::Device& device) {
      const ComposedOperations form(true);
      TemporaryDirectory directory;
      for (const bool resumes : {false, true}) {
        TinyTraining training(config, type, dropout, device);
        training.options.max_steps = row().steps + 1;
        training.options.save_every = 1;
        training.options.stop_at = resumes ? 0 : 1;
        training.run(directory.path(), resumes);
        for (const NamedTensor& value : training.values())
          EXPECT_TRUE(value.tensor.device() == device || value.tensor.numel() == 1) << value.name;
        if (resumes) return training.model().logits();
      }
      return at::Tensor();
    };
    const at::Tensor there = logits_of(other_device());
    ASSERT_TRUE(there.device() == other_device());
    if (other_device().is_cuda() && config.method == "flatlora") continue;
    EXPECT_LT(relative_difference(there.cpu(), logits_of(at::kCPU)), 2e-3);
  }
}

/// An adapter of the folder, on a model in float64, is the same map before and after merging; `merged` is a
/// model in float32 with the same adapter merged. Logits in float32 are not compared: how far the rounding of
/// all that follows carries a last bit depends on the order of sums, and so on the processor.
void expect_merging_is_exact(const std::filesystem::path& folder, const std::string& type, Heads heads,
                             TinyModel& merged) {
  TinyModel exact(type, at::kDouble, 0.0, at::kCPU, heads);
  AdapterTarget target = exact.target();
  target.base_fingerprint = 0;  // the file knows the base in float32
  const auto adapter = load_adapter(folder, target);
  const at::Tensor logits = exact.logits();
  merge_adapter(*adapter, at::kDouble);
  EXPECT_LT(relative_difference(exact.logits(), logits), 1e-12);
  const std::vector<Site> sites = merged.model().sites(), exact_sites = exact.model().sites();
  ASSERT_EQ(sites.size(), exact_sites.size());
  for (size_t i = 0; i < sites.size(); ++i) {
    const Linear &layer = *sites[i].linear, &exact_layer = *exact_sites[i].linear;
    EXPECT_LE(relative_difference(layer.weight->values(), exact_layer.weight->values()), kMergedInFloat)
        << sites[i].path;
    if (layer.bias.defined()) {
      EXPECT_LE(relative_difference(layer.bias, exact_layer.bias), kMergedInFloat) << sites[i].path;
    }
  }
}

/// Training, files and merging in a model of `type`.
void check_architecture(const MethodRow& row, const std::string& type, Heads heads) {
  AdapterConfig config = config_for(row, type);
  if (config.method == "lorta") {
    config.set("lorta.grouped_query", heads == Heads::kGrouped);
    TinyModel fused(type);
    if (fused.model().architecture().blocks[0].find(LinearRole::kQkv) != nullptr) {
      EXPECT_THROW(create_adapter(config, fused.target(), 1),
                   Error);  // parts of a layer cannot be told apart
      return;
    }
  }
  TemporaryDirectory directory, files;
  TinyTraining training(config, type, 0.0, at::kCPU, heads);
  training.options.max_steps = row.steps;
  const TrainingResult result = training.run(directory.path());
  EXPECT_EQ(result.steps, row.steps);
  const at::Tensor logits = training.model().logits();
  EXPECT_TRUE(at::isfinite(logits).all().item<bool>());
  save_native_adapter(training.adapter(), files.path());
  TinyModel other(type, at::kFloat, 0.0, at::kCPU, heads);
  const auto loaded = load_adapter(files.path(), other.target());
  EXPECT_TRUE(at::equal(other.logits(), logits));
  merge_adapter(*loaded, at::kFloat);
  expect_merging_is_exact(files.path(), type, heads, other);
}

/// Whatever its modules are called.
TEST_P(Conformance, WorksOnEveryArchitecture) {
  for (const std::string& type : supported_model_types()) {
    SCOPED_TRACE(type);
    check_architecture(row(), type, Heads::kUsual);
  }
}

/// Projections of queries, keys and values have other shapes then, and none is square.
TEST_P(Conformance, WorksWithGroupedQueriesAndHeadsOfTheirOwnSize) {
  for (const std::string& type : supported_model_types()) {
    if (!supports_task(type, ModelTask::kCausalLm)) continue;
    SCOPED_TRACE(type);
    check_architecture(row(), type, Heads::kGrouped);
  }
}

}  // namespace
}  // namespace msplora::testing
