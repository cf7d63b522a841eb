// What a model says of inputs that it cannot take, whatever its family.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "error_text.h"
#include "models/small_config.h"
#include "msplora/models/model.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

using ::testing::HasSubstr;

PackedInput input_of_nine() {
  PackedInput input;
  input.input_ids = at::tensor({2, 10, 20, 3, 2, 5, 6, 7, 3}, at::kLong);
  input.cu_seqlens = {0, 4, 9};
  return input;
}

struct WrongInput {
  std::string name;
  std::function<void(PackedInput&)> spoil;
  ErrorCode code;
  std::string says;
};

std::vector<WrongInput> wrong_inputs() {
  constexpr ErrorCode kUsage = ErrorCode::kUsage, kData = ErrorCode::kData;
  const auto ids = [](const std::function<at::Tensor(const at::Tensor&)>& change) {
    return [change](PackedInput& input) { input.input_ids = change(input.input_ids.clone()); };
  };
  const auto ends = [](std::vector<int32_t> cu_seqlens) {
    return [cu_seqlens](PackedInput& input) { input.cu_seqlens = cu_seqlens; };
  };
  const auto types = [](const at::Tensor& made) {
    return [made](PackedInput& input) { input.token_type_ids = made; };
  };
  const auto rows = [](const at::Tensor& made) {
    return [made](PackedInput& input) { input.output_rows = made; };
  };
  const auto with = [](at::Tensor t, int64_t value) { return t[2].fill_(value), t; };
  return {
      {"nothing", [](PackedInput& input) { input = {}; }, kUsage,
       "input_ids: expected int64, found an undef"},
      {"int32 ids", ids([](auto t) { return t.to(at::kInt); }), kUsage,
       "input_ids: expected int64, found int32 (convert with .to(at::kLong))"},
      {"float ids", ids([](auto t) { return t.to(at::kFloat); }), kUsage,
       "input_ids: expected int64, found float32"},
      {"ids of two dimensions", ids([](auto t) {
         return t.view({1, 9});
       }),
       kUsage, "input_ids: expected one dimension, found the shape [1, 9]"},
      {"a negative id", ids([=](auto t) { return with(t, -1); }), kData, "input_ids: ids run from -1 to 10"},
      {"a large id", ids([=](auto t) { return with(t, 60); }), kData,
       "input_ids: ids run from 2 to 60, the model knows 0 to 59"},
      {"no ends", ends({}), kUsage,
       "cu_seqlens: expected 0 and then the end of each sequence, found no sequence"},
      {"no sequence", ends({0}), kUsage, "found no sequence"},
      {"begins late", ends({1, 4, 9}), kUsage, "found 1 at the beginning"},
      {"falls", ends({0, 6, 4, 9}), kUsage, "found 4 after 6"},
      {"negative", ends({0, -3, 9}), kUsage, "found -3 after 0"},
      {"too short", ends({0, 4, 8}), kUsage,
       "cu_seqlens: expected the last sequence to end at 9, the number of input_ids, found 8"},
      {"too long", ends({0, 4, 12}), kUsage, "found 12"},
      {"an empty sequence", ends({0, 4, 4, 9}), kData,
       "sequence 1 of the batch: has 0 tokens, the model takes 1 to "},
      {"int32 types", types(at::zeros({9}, at::kInt)), kUsage, "token_type_ids: expected int64, found int32"},
      {"few types", types(at::zeros({3}, at::kLong)), kUsage,
       "token_type_ids: expected 9, one for each of the input_ids, found 3"},
      {"unknown types", types(at::full({9}, 5, at::kLong)), kData,
       "token_type_ids: ids run from 5 to 5, the model knows 0 to 1"},
      {"negative types", types(at::full({9}, -1, at::kLong)), kData, "token_type_ids: ids run from -1 to -1"},
      {"float rows", rows(at::zeros({2}, at::kFloat)), kUsage, "output_rows: expected int64, found float32"},
      {"int32 rows", rows(at::zeros({2}, at::kInt)), kUsage, "output_rows: expected int64, found int32"},
      {"rows behind the last", rows(at::tensor({0, 99}, at::kLong)), kUsage,
       "output_rows: expected rows from 0 to 8, found 99"},
      {"negative rows", rows(at::tensor({-1}, at::kLong)), kUsage,
       "output_rows: expected rows from 0 to 8, found -1"},
  };
}

void expect_refused(const std::function<void(const PackedInput&)>& call) {
  EXPECT_NO_THROW(call(input_of_nine()));
  for (const WrongInput& wrong : wrong_inputs()) {
    SCOPED_TRACE(wrong.name);
    PackedInput input = input_of_nine();
    wrong.spoil(input);
    EXPECT_THAT(error_text(wrong.code, [&] { call(input); }), HasSubstr(wrong.says));
  }
}

class InputChecks : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Model> model(ModelTask task) const {
    ModelLoadOptions options;
    options.task = task;
    return create_model(tiny_config(GetParam(), 0.0), options);
  }
  const c10::NoGradGuard no_grad_;
};

TEST_P(InputChecks, EveryPassRefusesWhatItCannotRead) {
  const auto classifier = model(ModelTask::kSequenceClassification);
  expect_refused([&](const PackedInput& input) { classifier->forward(input, {}); });
  for (const ModelTask task : {ModelTask::kMaskedLm, ModelTask::kCausalLm}) {
    if (!supports_task(GetParam(), task)) continue;
    const auto language_model = model(task);
    const at::Tensor labels = at::full({9}, 5, at::kLong);
    expect_refused([&](const PackedInput& input) { language_model->loss_sum(input, labels, {}); });
    if (task != ModelTask::kCausalLm) continue;
    expect_refused([&](const PackedInput& input) {
      KeyValueCache cache(language_model->architecture(), at::kFloat);
      const std::vector<KeyValueCache::Sequence> texts = {cache.start(), cache.start()};
      language_model->decode(input, cache, texts);
    });
  }
}

TEST_P(InputChecks, IdsMayLieApart) {
  const auto classifier = model(ModelTask::kSequenceClassification);
  PackedInput input = input_of_nine();
  const at::Tensor apart = at::arange(18, at::kLong).view({9, 2}).select(1, 1);
  input.input_ids = apart.contiguous();
  input.token_type_ids = apart.remainder(2).contiguous();
  const at::Tensor expected = classifier->forward(input, {});
  input.input_ids = apart;
  input.token_type_ids = at::full({9, 2}, 7, at::kLong).select(1, 0).copy_(input.token_type_ids);
  EXPECT_TRUE(at::equal(classifier->forward(input, {}), expected));
}

TEST_P(InputChecks, ALossNeedsALabelForEveryRow) {
  const bool is_decoder = supports_task(GetParam(), ModelTask::kCausalLm);
  const auto language_model = model(is_decoder ? ModelTask::kCausalLm : ModelTask::kMaskedLm);
  const auto refused = [&](ErrorCode code, const PackedInput& input, const at::Tensor& labels) {
    return error_text(code, [&] { language_model->loss_sum(input, labels, {}); });
  };
  PackedInput input = input_of_nine();
  const auto labels = [](int64_t count) { return at::full({count}, 5, at::kLong); };
  for (const int64_t count : {4, 10}) {
    EXPECT_THAT(refused(ErrorCode::kUsage, input, labels(count)),
                HasSubstr("labels: expected 9, one for each of the rows that are read, found " +
                          std::to_string(count)));
  }
  EXPECT_THAT(refused(ErrorCode::kUsage, input, labels(9).to(at::kInt)),
              HasSubstr("labels: expected int64, found int32"));
  EXPECT_THAT(refused(ErrorCode::kUsage, input, labels(9).view({1, 9})), HasSubstr("found the shape [1, 9]"));
  EXPECT_THAT(refused(ErrorCode::kUsage, input, {}), HasSubstr("labels: expected int64, found an undefined"));
  EXPECT_THAT(refused(ErrorCode::kData, input, labels(9) * 100), HasSubstr("label 500"));
  input.output_rows = at::tensor({1, 3}, at::kLong);
  EXPECT_THAT(refused(ErrorCode::kUsage, input, labels(9)), HasSubstr("labels: expected 2"));
  EXPECT_NO_THROW(language_model->loss_sum(input, labels(2), {}));

  const auto classifier = model(ModelTask::kSequenceClassification);
  const std::string text =
      error_text(ErrorCode::kUsage, [&] { classifier->loss_sum(input_of_nine(), labels(2), {}); });
  EXPECT_THAT(text, HasSubstr("loaded for sequence classification"));
  EXPECT_THAT(text, HasSubstr("forward() returns to cross_entropy_sum"));
}

INSTANTIATE_TEST_SUITE_P(Models, InputChecks, ::testing::ValuesIn(supported_model_types()),
                         [](const auto& info) { return model_test::test_name(info.param); });

TEST(InputChecks, OfLengthsSayWhatToDo) {
  const auto model = create_model(tiny_config("bert", 0.0), {});
  PackedInput input;
  input.input_ids = at::full({41}, 7, at::kLong);
  input.cu_seqlens = {0, 41};
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { model->forward(input, {}); }),
              HasSubstr("has 41 tokens, the model takes 1 to 40 (set data.max_length to 40 or less)"));
  input.cu_seqlens = {0, 0, 41};
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { model->forward(input, {}); }),
              HasSubstr("has 0 tokens, the model takes 1 to 40 (leave it out)"));
}

// Where an extension is made without a model.
TEST(InputChecks, OfWhatGoesIntoACache) {
  ModelLoadOptions options;
  options.task = ModelTask::kCausalLm;
  const auto model = create_model(tiny_config("llama", 0.0), options);
  KeyValueCache cache(model->architecture(), at::kFloat);
  const std::vector<KeyValueCache::Sequence> one = {cache.start()};
  EXPECT_THAT(
      error_text(ErrorCode::kUsage,
                 [&] {
                   KeyValueCache::Extension(cache, one, {1, 4});
                 }),
      HasSubstr("cu_seqlens: expected 0 and then the end of each sequence, found 1 at the beginning"));
}

}  // namespace
}  // namespace msplora
