// Texts of one prompt have it read once.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/decoding/generator.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

/// Counts the tokens that a model reads.
class CountingModel : public Model {
 public:
  explicit CountingModel(std::unique_ptr<Model> model)
      : Model(model->config(), model->architecture(), model->compute_dtype(), model->device()),
        model_(std::move(model)) {}

  at::Tensor forward(const PackedInput& input, const ForwardContext& context) override {
    return model_->forward(input, context);
  }
  at::Tensor loss_sum(const PackedInput& input, const at::Tensor& labels,
                      const ForwardContext& context) override {
    return model_->loss_sum(input, labels, context);
  }
  at::Tensor decode(const PackedInput& input, KeyValueCache& cache,
                    std::span<const KeyValueCache::Sequence> sequences) override {
    read += input.input_ids.numel();
    return model_->decode(input, cache, sequences);
  }
  std::vector<Site> sites() override { return model_->sites(); }
  std::vector<Parameter> parameters() override { return model_->parameters(); }
  void untie() override { model_->untie(); }
  std::vector<std::string> head_modules() const override { return model_->head_modules(); }

  int64_t read = 0;

 private:
  std::unique_ptr<Model> model_;
};

CountingModel counting_model() {
  ModelLoadOptions options;
  options.task = ModelTask::kCausalLm;
  options.seed = 2;
  return CountingModel(create_model(tiny_config("llama", 0.0), options));
}

GenerationRequest drawn(std::vector<int32_t> prompt, uint64_t number) {
  GenerationRequest request;
  request.prompt_ids = std::move(prompt);
  request.options.max_new_tokens = 5;
  request.options.do_sample = true;
  request.number = number;
  return request;
}

const std::vector<int32_t> kPrompt = {3, 14, 15, 9, 2, 6, 5, 35, 8, 9, 7, 9}, kOther = {3, 14, 16};

TEST(SharedPrompt, IsReadOnceHoweverManyTextsFollow) {
  CountingModel model = counting_model();
  GeneratorOptions options;
  options.max_batch = 2;  // less than there are texts
  options.prefill_tokens = 5;
  Generator generator(model, nullptr, {}, options);
  std::vector<GenerationRequest> requests;
  for (uint64_t i = 0; i < 5; ++i) requests.push_back(drawn(kPrompt, i));
  requests.push_back(drawn(kOther, 5));
  const std::vector<Generation> together = generator.generate(requests);
  // The last of five new tokens is never read.
  EXPECT_EQ(model.read, static_cast<int64_t>(kPrompt.size() + kOther.size() + 6 * 4));
  EXPECT_NE(together[0].tokens, together[1].tokens);
  for (size_t i = 0; i < requests.size(); ++i) {
    Generator alone(model, nullptr);
    EXPECT_EQ(alone.generate(requests[i]).tokens, together[i].tokens) << i;
  }
  // Nothing of it stays behind.
  model.read = 0;
  generator.generate({drawn(kPrompt, 0), drawn(kOther, 1)});
  EXPECT_EQ(model.read, static_cast<int64_t>(kPrompt.size() + kOther.size() + 2 * 4));
}

TEST(SharedPrompt, IsReadAnewWhereTheTextThatReadItWasCancelled) {
  CountingModel model = counting_model();
  Generator generator(model, nullptr);
  GenerationRequest cancelled = drawn(kPrompt, 0);
  cancelled.is_cancelled = [] { return true; };
  const std::vector<Generation> texts = generator.generate({cancelled, drawn(kPrompt, 1)});
  EXPECT_EQ(texts[0].finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(texts[1].tokens, Generator(model, nullptr).generate(drawn(kPrompt, 1)).tokens);
}

TEST(SharedPrompt, ServesBeamsToo) {
  CountingModel model = counting_model();
  GenerationRequest beams;
  beams.prompt_ids = kPrompt;
  beams.options.max_new_tokens = 5;
  beams.options.num_beams = 3;
  const Generation alone = Generator(model, nullptr).generate(beams);
  const std::vector<Generation> texts = Generator(model, nullptr).generate({beams, beams, drawn(kPrompt, 1)});
  EXPECT_EQ(texts[0].tokens, alone.tokens);
  EXPECT_EQ(texts[1].tokens, alone.tokens);
  EXPECT_EQ(texts[1].beams.size(), alone.beams.size());
  EXPECT_EQ(texts[2].tokens, Generator(model, nullptr).generate(drawn(kPrompt, 1)).tokens);
}

TEST(SharedPrompt, AloneSaysWhatIsWrongWithAPrompt) {
  CountingModel model = counting_model();
  const Generator generator(model, nullptr);
  EXPECT_EQ(generator.prompt_of(drawn(kPrompt, 0), "here"), kPrompt);
  EXPECT_THROW(generator.prompt_of(drawn(std::vector<int32_t>(41, 3), 0), "here"), Error);
  GenerationRequest beams = drawn(kPrompt, 0);
  beams.options.num_beams = 2;
  EXPECT_THROW(generator.prompt_of(beams, "here"), Error);
}

}  // namespace
}  // namespace msplora
