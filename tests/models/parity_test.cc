// Logits, losses, gradients and a short training run against numbers that other software computed: the golden
// cases of the group `parity`, model directories with NAME.json and NAME.safetensors pairs beside config.json
// and model.safetensors.

#include <ATen/ops/full_like.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "golden_cases.h"
#include "msplora/adapters/adapter.h"
#include "msplora/core/file.h"
#include "msplora/io/safetensors.h"
#include "msplora/models/model.h"
#include "msplora/nn/functional.h"
#include "msplora/train/optimizer.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

struct FixtureCase {
  fs::path model;
  std::string name;  // "" stands for "no fixtures"
};

std::vector<FixtureCase> find_cases() {
  std::vector<FixtureCase> cases;
  const fs::path root = golden_group("parity");
  if (!root.empty()) {
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      if (entry.path().extension() != ".json" || entry.path().filename() == "config.json") continue;
      fs::path tensors = entry.path();
      if (fs::exists(tensors.replace_extension(".safetensors")))
        cases.push_back({entry.path().parent_path(), entry.path().stem().string()});
    }
  }
  std::sort(cases.begin(), cases.end(), [](const FixtureCase& a, const FixtureCase& b) {
    return std::tie(a.model, a.name) < std::tie(b.model, b.name);
  });
  if (cases.empty()) cases.push_back({});
  return cases;
}

std::string case_name(const ::testing::TestParamInfo<FixtureCase>& info) {
  std::string name =
      info.param.name.empty() ? "no_fixtures" : info.param.model.filename().string() + "_" + info.param.name;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
}

double relative_error(const at::Tensor& got, const at::Tensor& expected) {
  const at::Tensor a = got.detach().to(at::kDouble).reshape({-1}), b = expected.to(at::kDouble).reshape({-1});
  if (a.numel() != b.numel()) return INFINITY;
  return ((a - b).abs().max() / b.abs().max().clamp_min(1e-12)).item<double>();
}

// The right-padded batch of a fixture as a packed one; `kept` are the rows of the padded layout that are
// real.
struct PackedFixture {
  PackedInput input;
  at::Tensor kept;
};

PackedFixture pack(const SafetensorsFile& file) {
  const at::Tensor mask = file.tensor("attention_mask");
  PackedFixture packed;
  packed.kept = mask.reshape({-1}).nonzero().reshape({-1});
  packed.input.input_ids = file.tensor("input_ids").reshape({-1}).index_select(0, packed.kept);
  packed.input.cu_seqlens = {0};
  for (int64_t b = 0; b < mask.size(0); ++b)
    packed.input.cu_seqlens.push_back(packed.input.cu_seqlens.back() + mask[b].sum().item<int32_t>());
  return packed;
}

class GoldenParity : public ::testing::TestWithParam<FixtureCase> {
 protected:
  void SetUp() override {
    if (GetParam().name.empty()) GTEST_SKIP() << "no parity cases";
    settings_ = nlohmann::json::parse(read_file(GetParam().model / (GetParam().name + ".json")));
    const ModelConfig config = load_model_config(GetParam().model);
    const std::vector<std::string> known = supported_model_types();
    if (std::find(known.begin(), known.end(), config.model_type) == known.end())
      GTEST_SKIP() << "architecture not built yet: " << config.model_type;
    file_ = SafetensorsFile::open(GetParam().model / (GetParam().name + ".safetensors"));
    is_causal_ = settings_.at("task") == "CAUSAL_LM";
    load(at::kFloat);
    batch_ = pack(*file_);
    std::cout << "case " << GetParam().model.filename().string() << "/" << GetParam().name << "\n";
  }

  void load(at::ScalarType dtype) {
    ModelLoadOptions options;
    options.task = is_causal_ ? ModelTask::kCausalLm : ModelTask::kSequenceClassification;
    options.compute_dtype = dtype;
    adapter_.reset();
    model_ = load_model(GetParam().model, options);
  }

  /// Every tensor by name after `run` in float64: what float32 runs are an approximation of.
  std::map<std::string, at::Tensor> in_float64(
      const std::function<std::map<std::string, at::Tensor>()>& run) {
    load(at::kDouble);
    std::map<std::string, at::Tensor> exact = run();
    load(at::kFloat);
    return exact;
  }

  /// `got` agrees with the fixture to `tolerance`; where the fixture itself is further than that from the
  /// float64 result (differences of nearly equal numbers, as in the gradients of an almost uniform
  /// attention), `got` must be as close to float64 as the fixture is, within a factor of 8 (other orders of
  /// summation).
  void expect_agreement(const std::string& name, const at::Tensor& got, const at::Tensor& fixture,
                        const at::Tensor& exact, double tolerance) {
    if (relative_error(got, fixture) < tolerance) return;
    const double own = relative_error(fixture, exact);
    EXPECT_LT(relative_error(got, exact), std::max(tolerance, 8 * own))
        << name << "; the fixture's own error: " << own;
    EXPECT_LT(relative_error(got, fixture), 1e-3) << name;
    ++limited_by_float32_;
  }

  at::Tensor logits() { return model_->forward(batch_.input, {}); }

  at::Tensor expected_logits(const std::string& key) const {
    const at::Tensor stored = file_->tensor(key);
    return is_causal_ ? stored.reshape({-1, stored.size(-1)}).index_select(0, batch_.kept) : stored;
  }

  at::Tensor labels() const {
    if (!is_causal_) return file_->tensor("labels");
    // The next token inside each segment; the last one predicts nothing.
    at::Tensor labels = at::full_like(batch_.input.input_ids, kIgnored);
    for (size_t b = 1; b < batch_.input.cu_seqlens.size(); ++b) {
      const int64_t begin = batch_.input.cu_seqlens[b - 1], end = batch_.input.cu_seqlens[b];
      labels.slice(0, begin, end - 1).copy_(batch_.input.input_ids.slice(0, begin + 1, end));
    }
    return labels;
  }

  at::Tensor loss() {
    const at::Tensor target = labels();
    return cross_entropy_sum(logits(), target) / target.ne(kIgnored).sum();
  }

  void attach() {
    AdapterConfig config;
    config.method = settings_.at("method");
    config.ranks.clear();
    for (const auto& rank : settings_.at("ranks")) config.ranks.push_back(rank);
    config.rank = config.ranks.front();
    config.levels = static_cast<int64_t>(config.ranks.size());
    if (config.method == "lora") config.ranks.clear();
    config.alpha = settings_.at("alpha");
    config.target_modules = settings_.at("target_modules").get<std::vector<std::string>>();
    config.sharing = settings_.at("owner_only") ? "owner_only" : "published";
    AdapterTarget target;
    target.model_type = model_->config().model_type;
    target.task_type = settings_.at("task");
    target.num_layers = model_->config().num_hidden_layers;
    target.sites = model_->sites();
    target.parameters = model_->parameters();
    if (!is_causal_) target.head_modules = model_->head_modules();
    adapter_ = create_adapter(config, std::move(target), 0);
    for (const TrainableTensor& trainable : adapter_->trainable()) {
      c10::NoGradGuard no_grad;
      at::Tensor tensor = trainable.tensor;
      tensor.copy_(stored("init.", trainable.name));
    }
  }

  // Plain LoRA has one level, which the fixtures number 0.
  at::Tensor stored(const std::string& prefix, const std::string& name) const {
    if (file_->tensors().count(prefix + name)) return file_->tensor(prefix + name);
    std::string numbered = name;
    for (const std::string factor : {"lora_A", "lora_B"}) {
      const size_t at = numbered.find(factor + ".weight");
      if (at != std::string::npos) numbered.insert(at + factor.size(), ".0");
    }
    return file_->tensor(prefix + numbered);
  }

  int64_t count_with_prefix(const std::string& prefix) const {
    int64_t count = 0;
    for (const auto& [name, info] : file_->tensors()) count += name.rfind(prefix, 0) == 0;
    return count;
  }

  static constexpr int64_t kIgnored = -100;
  nlohmann::json settings_;
  std::shared_ptr<const SafetensorsFile> file_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Adapter> adapter_;
  PackedFixture batch_;
  bool is_causal_ = false;
  int limited_by_float32_ = 0;
};

TEST_P(GoldenParity, BaseAndAdaptedLogitsAndLosses) {
  EXPECT_LT(relative_error(logits(), expected_logits("base.logits")), 1e-5);
  EXPECT_LT(relative_error(loss(), file_->tensor("base.loss")), 1e-5);
  attach();
  EXPECT_EQ(adapter_->trainable().size(), static_cast<size_t>(count_with_prefix("init.")));
  int64_t trainable = 0;
  for (const TrainableTensor& tensor : adapter_->trainable()) trainable += tensor.tensor.numel();
  EXPECT_EQ(trainable, settings_.at("trainable").get<int64_t>());
  EXPECT_LT(relative_error(logits(), expected_logits("adapted.logits")), 1e-5);
  EXPECT_LT(relative_error(loss(), file_->tensor("adapted.loss")), 1e-5);
}

TEST_P(GoldenParity, EveryGradient) {
  const auto gradients = [this] {
    attach();
    loss().backward();
    std::map<std::string, at::Tensor> result;
    for (const TrainableTensor& trainable : adapter_->trainable()) {
      EXPECT_TRUE(trainable.tensor.grad().defined()) << trainable.name;
      result[trainable.name] = trainable.tensor.grad().clone();
    }
    return result;
  };
  const std::map<std::string, at::Tensor> exact = in_float64(gradients), got = gradients();
  ASSERT_EQ(got.size(), static_cast<size_t>(count_with_prefix("grad.")));
  for (const auto& [name, gradient] : got)
    expect_agreement(name, gradient, stored("grad.", name), exact.at(name), 1e-5);
  std::cout << "  " << got.size() << " gradients, " << limited_by_float32_ << " of them limited by float32\n";
}

TEST_P(GoldenParity, FiveStepsOfAdamW) {
  const auto train = [this] {
    attach();
    OptimizerGroup group{"all", settings_.at("lr"), settings_.at("weight_decay"), {}};
    for (const TrainableTensor& trainable : adapter_->trainable())
      group.tensors.push_back({trainable.name, trainable.tensor});
    AdamW optimizer({settings_.at("betas")[0], settings_.at("betas")[1], settings_.at("eps")}, {group});
    const at::Tensor expected = file_->tensor("train.losses");
    for (int64_t step = 0; step < settings_.at("steps").get<int64_t>(); ++step) {
      optimizer.zero_grad();
      const at::Tensor value = loss();
      EXPECT_LT(relative_error(value, expected[step]), 1e-4) << "step " << step;
      value.backward();
      optimizer.step(1.0);
    }
    std::map<std::string, at::Tensor> result;
    for (const TrainableTensor& trainable : adapter_->trainable())
      result[trainable.name] = trainable.tensor.detach().clone();
    return result;
  };
  const std::map<std::string, at::Tensor> exact = in_float64(train), got = train();
  for (const auto& [name, tensor] : got)
    expect_agreement(name, tensor, stored("final.", name), exact.at(name), 1e-4);
  std::cout << "  " << got.size() << " tensors, " << limited_by_float32_ << " of them limited by float32\n";
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenParity, ::testing::ValuesIn(find_cases()), case_name);

}  // namespace
}  // namespace msplora
