// A step of instruction tuning is one number and one gradient, however its rows are packed, accumulated and
// kept: those of the rows one by one.
#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/core/random.h"
#include "msplora/tasks/target.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

/// Keeps the gradients that a step ends with; trains nothing of its own.
class GradientRecorder : public Adapter {
 public:
  GradientRecorder(Model& model, std::vector<TrainableTensor> trained)
      : Adapter({}, target_of(model), {}), trained_(std::move(trained)) {}
  std::vector<LowRankTerm> terms(size_t) const override { return {}; }
  void gradients_ready(const TrainingProgress&) override {
    for (const TrainableTensor& entry : trained_) gradients.push_back(entry.tensor.grad().clone());
  }
  std::vector<at::Tensor> gradients;

 private:
  std::vector<TrainableTensor> trained_;
};

/// Turns of unequal lengths: one without an answer, one of a single token, one that is learned as a whole.
std::vector<TokenizedExample> conversations() {
  RandomStream random(4, "conversations");
  std::vector<TokenizedExample> rows;
  for (const int32_t length : {23, 3, 40, 1, 14, 7, 31, 2}) {
    TokenizedExample& row = rows.emplace_back();
    for (int32_t i = 0; i < length; ++i) row.ids.push_back(static_cast<int32_t>(random.below(60)));
    row.predicted = {{length / 3, length / 2}, {length - 2, length}};
  }
  rows[4].predicted = {{0, 0}};
  rows[5].predicted = {{0, 7}};
  return rows;
}

ModelConfig shape_of(const std::string& name) {
  nlohmann::json keys = {{"vocab_size", 60},
                         {"hidden_size", 32},
                         {"num_hidden_layers", 3},
                         {"num_attention_heads", 4},
                         {"num_key_value_heads", 2},
                         {"intermediate_size", 64},
                         {"initializer_range", 0.15},
                         {"head_dim", 8},
                         {"max_position_embeddings", 40}};
  if (name == "llama") keys["tie_word_embeddings"] = false;
  if (name == "mistral") keys["sliding_window"] = 5;
  if (name == "gemma3_text") {
    keys["sliding_window"] = 6;
    keys["query_pre_attn_scalar"] = 8;
    keys["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention"};
  }
  return model_test::small_config(name, keys);
}

struct StepOutcome {
  double loss = 0;
  std::vector<at::Tensor> gradients;
};

class InstructionStep
    : public ::testing::TestWithParam<std::tuple<const char*, const char*, at::ScalarType>> {
 protected:
  void SetUp() override {
    const auto& [name, method, dtype] = GetParam();
    ModelLoadOptions load;
    load.task = ModelTask::kCausalLm;
    load.seed = 9;
    load.compute_dtype = dtype;
    load.keep_float32 = std::string(method) == "full";
    model_ = create_model(shape_of(name), load);
    if (load.keep_float32) {
      trained_ = all_trainable(model_->parameters());
      return;
    }
    AdapterConfig config;
    const bool adapts_output = std::string(method) == "lora_output";
    config.method = adapts_output ? "lora" : method;
    config.rank = 4;
    config.alpha = 8;
    config.target_modules = {"all-linear"};
    if (adapts_output) config.target_modules = {"q_proj", "lm_head", "embed_tokens"};
    adapter_ = create_adapter(config, target_of(*model_), 3);
    trained_ = adapter_->trainable();
    RandomStream random(5, "factors");
    const c10::NoGradGuard no_grad;
    for (const TrainableTensor& entry : trained_) {
      for (int64_t i = 0; i < entry.tensor.numel(); ++i) {
        const double value = 0.1 * random.normal();
        if (entry.tensor.scalar_type() == at::kDouble) {
          entry.tensor.data_ptr<double>()[i] = value;
        } else {
          entry.tensor.data_ptr<float>()[i] = static_cast<float>(value);
        }
      }
    }
  }

  /// One optimizer step by the trainer.
  StepOutcome step(int64_t batch_size, int64_t accumulation, bool checkpoint) {
    TrainOptions options;
    options.batch_size = batch_size;
    options.accumulation = accumulation;
    options.checkpoint_activations = checkpoint;
    options.max_steps = 1;
    options.optimizer = "sgd";
    options.lr = 1e-30;
    options.clip_norm = 0;
    BatchOptions batches = batch_options(options);
    batches.shuffle = batches.bucket = false;
    TrainingData data(*task_, *model_, all_of(rows_), batches);
    GradientRecorder recorder(*model_, trained_);
    TrainerSetup setup;
    setup.options = options;
    setup.trainable = trained_;
    setup.adapter = &recorder;
    setup.keeps_checkpoints = false;
    const TrainingResult result = Trainer(std::move(setup), data).run();
    EXPECT_EQ(result.steps, 1);
    EXPECT_EQ(result.tokens, 121);
    return {result.last_loss, std::move(recorder.gradients)};
  }

  /// The mean over all learned tokens, each row by itself and without the trainer.
  StepOutcome one_by_one() {
    const auto targets = static_cast<double>(task_->count_targets(all_of(rows_)));
    StepOutcome outcome;
    for (const TrainableTensor& entry : trained_) outcome.gradients.push_back(at::zeros_like(entry.tensor));
    for (uint32_t row = 0; row < rows_.size(); ++row) {
      const Batch alone = batch_of(*task_, rows_, row);
      if (task_->num_targets(alone) == 0) continue;
      ForwardContext context;
      context.training = true;
      const at::Tensor loss = task_->loss_sum(*model_, alone, context);
      outcome.loss += loss.item<double>() / targets;
      (loss * (1.0 / targets)).backward();
      for (size_t i = 0; i < trained_.size(); ++i) {
        at::Tensor& gradient = trained_[i].tensor.mutable_grad();
        if (gradient.defined()) outcome.gradients[i] += gradient;
        gradient.reset();
      }
    }
    return outcome;
  }

  /// Each tensor's largest difference, as a share of its largest value. float64 shows that it is the same
  /// sum. The others round: float32 the sums of products in another order, bfloat16 also the gradients of
  /// activations, to 8 bits at each layer. Losses are summed in float64; where products of one row and of
  /// many add in another order (as with AVX2), an activation of bfloat16 may round the other way: 6e-5 was
  /// seen.
  void expect_near(const StepOutcome& got, const StepOutcome& expected, const std::string& what) const {
    const at::ScalarType dtype = std::get<2>(GetParam());
    const double tolerance = dtype == at::kDouble ? 2e-14 : dtype == at::kFloat ? 1e-5 : 3e-2;
    const double of_loss = dtype == at::kDouble ? 1e-14 : dtype == at::kFloat ? 2e-7 : 2e-4;
    EXPECT_NEAR(got.loss, expected.loss, of_loss * expected.loss) << what;
    ASSERT_EQ(got.gradients.size(), expected.gradients.size());
    double worst = 0;
    for (size_t i = 0; i < got.gradients.size(); ++i) {
      const double largest = expected.gradients[i].abs().max().item<double>();
      EXPECT_GT(largest, 0) << what << ", " << trained_[i].name;
      const at::Tensor difference = got.gradients[i] - expected.gradients[i];
      worst = std::max(worst, difference.abs().max().item<double>() / largest);
      EXPECT_LE(worst, tolerance) << what << ", " << trained_[i].name;
    }
    RecordProperty(what, fmt::format("{:.1e}", worst));
  }

  std::unique_ptr<Model> model_;
  std::unique_ptr<Adapter> adapter_;
  std::vector<TrainableTensor> trained_;
  std::unique_ptr<Task> task_ = make_task("sft", {});
  std::vector<TokenizedExample> rows_ = conversations();
};

TEST_P(InstructionStep, IsThatOfTheRowsOneByOne) {
  const StepOutcome rows = one_by_one();
  const StepOutcome accumulated = step(1, 8, false);
  EXPECT_NEAR(accumulated.loss, rows.loss, 1e-15 * rows.loss);
  EXPECT_TRUE(all_equal(accumulated.gradients, rows.gradients));
  const StepOutcome packed = step(8, 1, false);
  expect_near(packed, rows, "packed");
  expect_near(step(3, 3, false), rows, "packed_and_accumulated");
  // What is computed again is computed the same.
  for (const auto& [batch_size, accumulation, plain] :
       {std::tuple(8, 1, &packed), std::tuple(1, 8, &accumulated)}) {
    const StepOutcome checkpointed = step(batch_size, accumulation, true);
    EXPECT_EQ(checkpointed.loss, plain->loss);
    EXPECT_TRUE(all_equal(checkpointed.gradients, plain->gradients)) << batch_size;
  }
}

std::string case_name(const testing::TestParamInfo<InstructionStep::ParamType>& info) {
  const auto& [name, method, dtype] = info.param;
  const char* type = dtype == at::kDouble ? "float64" : dtype == at::kFloat ? "float32" : "bfloat16";
  return std::string(name) + "_" + method + "_" + type;
}

INSTANTIATE_TEST_SUITE_P(Models, InstructionStep,
                         ::testing::Combine(::testing::Values("llama", "mistral", "gemma3_text"),
                                            ::testing::Values("lora", "lora_output", "msplora", "full"),
                                            ::testing::Values(at::kDouble, at::kFloat, at::kBFloat16)),
                         case_name);

}  // namespace
}  // namespace msplora
