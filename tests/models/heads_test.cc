#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/small_config.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/io/safetensors.h"
#include "msplora/models/model.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

ModelConfig head_test_config(const std::string& type) {
  return model_test::small_config(type, {{"vocab_size", 30},
                                         {"hidden_size", 16},
                                         {"num_hidden_layers", 1},
                                         {"num_attention_heads", 2},
                                         {"intermediate_size", 24},
                                         {"max_position_embeddings", 20},
                                         {"num_labels", 3},
                                         {"initializer_range", 0.2}});
}

std::string last_layer_of(const std::string& type) {
  return describe(head_test_config(type), ModelTask::kSequenceClassification).head.stages.back().linear.name;
}

at::Tensor parameter_of(Model& model, const std::string& name) {
  for (const Parameter& parameter : model.parameters())
    if (parameter.name == name) return parameter.values();
  ADD_FAILURE() << name;
  return {};
}

class Heads : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    model_ = create_model(head_test_config(GetParam()), {});
    save_model(*model_, directory(), at::kFloat);
  }
  std::filesystem::path directory() const { return directory_.path() / "base"; }
  void edit_config(const std::string& key, const nlohmann::json& value) {
    nlohmann::json config = nlohmann::json::parse(read_file(directory() / "config.json"));
    config[key] = value;
    write_file_atomically(directory() / "config.json", config.dump());
  }
  ModelLoadOptions with(int64_t labels) const {
    ModelLoadOptions options;
    options.num_labels = labels;
    return options;
  }
  TemporaryDirectory directory_;
  std::unique_ptr<Model> model_;
};

// As transformers' ignore_mismatched_sizes: the layer of another number of outputs is new, the rest is the
// file's.
TEST_P(Heads, OfAnotherNumberOfClassesAreDrawnAndSaidSo) {
  const std::string last = last_layer_of(GetParam()) + ".weight";
  ModelLoadReport report;
  const auto two = load_model(directory(), with(2), &report);
  EXPECT_THAT(report.fresh, Contains(last));
  EXPECT_THAT(report.replaced_head(), HasSubstr("3 outputs"));
  EXPECT_EQ(parameter_of(*two, last).size(0), 2);
  EXPECT_EQ(two->config().num_labels, 2);
  EXPECT_TRUE(at::equal(two->sites().front().linear->weight->values(),
                        model_->sites().front().linear->weight->values()));
  const ModelLoadReport planned = plan_load(directory(), with(2));
  EXPECT_EQ(planned.fresh, report.fresh);
  EXPECT_EQ(planned.replaced_head(), report.replaced_head());

  const auto three = load_model(directory(), with(3), &report);
  EXPECT_THAT(report.fresh, IsEmpty());
  EXPECT_EQ(report.replaced_head(), "");
  EXPECT_TRUE(at::equal(parameter_of(*three, last), parameter_of(*model_, last)));
}

TEST_P(Heads, OfOtherTasksAreDrawnWhateverTheirShapes) {
  for (const std::string task : {"ForTokenClassification", "ForQuestionAnswering"}) {
    edit_config("architectures", {"Some" + task});
    ModelLoadReport report;
    load_model(directory(), with(3), &report);
    EXPECT_THAT(report.fresh, Contains(last_layer_of(GetParam()) + ".weight"));
    EXPECT_THAT(report.replaced_head(), HasSubstr("Some" + task));
    EXPECT_EQ(plan_load(directory(), with(3)).fresh, report.fresh);
  }
}

TEST_P(Heads, ContradictoryLabelsOfTheFileStopOnlyItsOwnHead) {
  edit_config("id2label", {{"0", "a"}, {"1", "a"}, {"2", "b"}});
  edit_config("label2id", {{"x", 9}});
  edit_config("num_labels", 17);
  edit_config("problem_type", "multi_label_classification");
  EXPECT_EQ(load_model(directory(), with(2))->config().num_labels, 2);
  try {
    load_model(directory(), with(0));
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kConfig);
    EXPECT_THAT(error.what(), HasSubstr("id2label"));
  }
  const auto saved = load_model(directory(), with(2));
  save_model(*saved, directory_.path() / "again", at::kFloat);
  EXPECT_NO_THROW(load_model(directory_.path() / "again", with(0)));
}

TEST_P(Heads, AnythingElseThatDoesNotFitIsRefused) {
  edit_config(model_test::own_key(GetParam(), "intermediate_size"), 25);
  EXPECT_THROW(load_model(directory(), with(2)), Error);
  EXPECT_THROW(plan_load(directory(), with(2)), Error);
}

INSTANTIATE_TEST_SUITE_P(Models, Heads, ::testing::ValuesIn(supported_model_types()),
                         [](const auto& info) { return model_test::test_name(info.param); });

// Both texts of a pair belong to the only segment there is.
TEST(OneSegment, TakesPairs) {
  for (const std::string type : {"bert", "roberta"}) {
    const ModelConfig config = head_test_config(type);
    const auto model = create_model(model_test::with_keys(config, {{"type_vocab_size", 1}}), {});
    PackedInput input;
    input.input_ids = at::tensor({2, 5, 3, 7, 3}, at::kLong);
    input.cu_seqlens = {0, 5};
    const at::Tensor plain = model->forward(input, {});
    input.token_type_ids = at::tensor({0, 0, 0, 1, 1}, at::kLong);
    EXPECT_TRUE(at::equal(model->forward(input, {}), plain));
    const auto two = create_model(config, {});
    EXPECT_FALSE(at::equal(two->forward(input, {}), plain));
    input.token_type_ids[4] = 2;
    EXPECT_THROW(two->forward(input, {}), Error);
    EXPECT_THROW(model->forward(input, {}), Error);
  }
}

}  // namespace
}  // namespace msplora
