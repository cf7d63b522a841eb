// Training the output layer and the table of words of a language model by an adapter: it learns, and pausing
// anywhere changes nothing.
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "msplora/adapters/files.h"
#include "msplora/adapters/merge.h"
#include "msplora/tasks/target.h"
#include "temporary_directory.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

/// A language model with an adapter that drops out.
struct OutputRun {
  explicit OutputRun(const std::string& method, bool is_tied) {
    ModelLoadOptions load;
    load.task = ModelTask::kCausalLm;
    load.seed = 5;
    model = create_model(model_test::with_keys(tiny_config("llama", 0.0), {{"tie_word_embeddings", is_tied}}),
                         load);
    AdapterConfig config;
    config.method = method;
    config.rank = 4;
    config.alpha = 8.0;
    config.dropout = 0.1;
    config.target_modules = {"q_proj", "lm_head"};
    if (method == "prilora") {
      config.set("prilora.prune_every", 2);
    } else {
      config.target_modules.push_back("embed_tokens");
    }
    adapter = create_adapter(config, target_of(*model), 7);
    options.batch_size = 5;
    options.accumulation = 2;
    options.max_steps = 8;
    options.lr = 2e-2;
    options.save_every = 1;
    options.keep_checkpoints = 100;
    options.load_best_at_end = false;
  }

  double train(const std::filesystem::path& directory, bool resume = false) {
    return share_of_loss_left(*model, *adapter, examples, 5, options, directory, resume);
  }
  at::Tensor logits() {
    PackedInput input;
    input.cu_seqlens = {0, static_cast<int32_t>(examples[0].ids.size())};
    input.input_ids = at::empty({input.cu_seqlens[1]}, at::kLong);
    for (int64_t i = 0; i < input.cu_seqlens[1]; ++i)
      input.input_ids[i] = examples[0].ids[static_cast<size_t>(i)];
    return sample_logits(*model, {input}).front();
  }

  std::unique_ptr<Model> model;
  std::unique_ptr<Adapter> adapter;
  std::vector<TokenizedExample> examples = tiny_examples(40, 1);
  TrainOptions options;
};

class OutputTraining : public ::testing::TestWithParam<std::tuple<const char*, bool>> {};

TEST_P(OutputTraining, LearnsResumesAndComesBackFromItsFile) {
  const auto& [method, is_tied] = GetParam();
  const TemporaryDirectory whole_directory;
  OutputRun whole(method, is_tied);
  EXPECT_LT(whole.train(whole_directory.path()), 0.97);
  for (const int64_t pause : {1, 5}) {
    const TemporaryDirectory directory;
    OutputRun first(method, is_tied);
    first.options.stop_at = pause;
    first.train(directory.path());
    OutputRun second(method, is_tied);
    second.train(directory.path(), /*resume=*/true);
    for (size_t i = 0; i < whole.adapter->trainable().size(); ++i) {
      const TrainableTensor &a = whole.adapter->trainable()[i], &b = second.adapter->trainable()[i];
      EXPECT_TRUE(at::equal(a.tensor, b.tensor)) << a.name;
    }
    EXPECT_TRUE(at::equal(second.logits(), whole.logits()));
  }
  save_native_adapter(*whole.adapter, whole_directory.path() / "adapter");
  OutputRun other(method, is_tied);
  other.adapter.reset();
  other.adapter = load_adapter(whole_directory.path() / "adapter", target_of(*other.model));
  EXPECT_TRUE(at::equal(other.logits(), whole.logits()));
}

INSTANTIATE_TEST_SUITE_P(Methods, OutputTraining,
                         ::testing::Combine(::testing::Values("lora", "msplora", "prilora"),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) +
                                  (std::get<1>(info.param) ? "_tied" : "");
                         });

}  // namespace
}  // namespace msplora
