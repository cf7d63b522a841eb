// What loading and saving refuse whatever the files say.
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>

#include "error_text.h"
#include "msplora/adapters/adapter.h"
#include "msplora/core/file.h"
#include "msplora/models/model.h"
#include "msplora/tasks/target.h"
#include "temporary_directory.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

using ::testing::HasSubstr;

class LoadOptions : public ::testing::Test {
 protected:
  void SetUp() override { save_model(*create_model(tiny_config(), {}), base(), at::kFloat); }
  std::filesystem::path base() const { return directory_.path() / "base"; }

  /// What everything that takes options says of these.
  std::string refused(const std::function<void(ModelLoadOptions&)>& change) const {
    ModelLoadOptions options;
    change(options);
    const std::string text = error_text(ErrorCode::kUsage, [&] { load_model(base(), options); });
    EXPECT_EQ(error_text(ErrorCode::kUsage, [&] { plan_load(base(), options); }), text);
    EXPECT_EQ(error_text(ErrorCode::kUsage, [&] { create_model(tiny_config(), options); }), text);
    return text;
  }

  TemporaryDirectory directory_;
};

TEST_F(LoadOptions, ThatNoModelCanHaveAreRefused) {
  EXPECT_THAT(refused([](auto& o) { o.num_labels = -3; }),
              HasSubstr("num_labels: expected at least 1, found -3"));
  for (const double p : {1.0, 1.5, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    EXPECT_THAT(refused([=](auto& o) { o.dropout = p; }),
                HasSubstr("dropout: expected at least 0 and below 1, found"));
  }
  for (const auto& [dtype, name] : {std::pair{at::kHalf, "float16"}, std::pair{at::kInt, "int32"},
                                    std::pair{at::kComplexFloat, "ComplexFloat"}}) {
    EXPECT_THAT(
        refused([type = dtype](auto& o) { o.compute_dtype = type; }),
        HasSubstr(std::string("compute_dtype: expected one of float32, bfloat16, float64, found ") + name));
  }
  EXPECT_THAT(refused([](auto& o) { o.device = at::kMeta; }),
              HasSubstr("device: expected one that holds numbers"));
  EXPECT_THAT(refused([](auto& o) { o.device = at::Device(at::kCUDA, 99); }),
              HasSubstr("device: `cuda:99` is asked for, libtorch finds"));
  const std::string all = refused([](auto& o) {
    o.num_labels = -1;
    o.dropout = 2.0;
    o.compute_dtype = at::kLong;
  });
  for (const char* name : {"3 problems", "num_labels", "dropout", "compute_dtype"})
    EXPECT_THAT(all, HasSubstr(name));
}

TEST_F(LoadOptions, AtTheirEndsAreTaken) {
  ModelLoadOptions options;
  options.num_labels = 1;
  options.dropout = 0.99;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
    options.compute_dtype = dtype;
    EXPECT_EQ(load_model(base(), options)->architecture().head.stages.back().linear.out, 1);
  }
  options.dropout = 0.0;
  EXPECT_NO_THROW(load_model(base(), options));
}

TEST_F(LoadOptions, AFileIsNoDirectory) {
  for (const char* name : {"config.json", "model.safetensors"}) {
    EXPECT_THAT(error_text(ErrorCode::kIo, [&] { load_model(base() / name, {}); }),
                HasSubstr("expected a model directory, found a file (give the directory"));
  }
  EXPECT_THAT(error_text(ErrorCode::kIo, [&] { load_model(base() / "none", {}); }),
              HasSubstr("does not exist"));
}

TEST_F(LoadOptions, SavingNeedsADirectoryAndATypeOfNumbers) {
  const auto model = load_model(base(), {});
  for (const std::filesystem::path& place : {base() / "config.json", base() / "config.json" / "below"})
    EXPECT_THAT(error_text(ErrorCode::kIo, [&] { save_model(*model, place, at::kFloat); }),
                HasSubstr("directory"));
  const std::filesystem::path fresh = directory_.path() / "fresh";
  EXPECT_THAT(error_text(ErrorCode::kUsage, [&] { save_model(*model, fresh, at::kInt); }),
              HasSubstr("dtype: expected one of float32, bfloat16, float16, float64, found int32"));
  EXPECT_FALSE(std::filesystem::exists(fresh));
  save_model(*model, fresh, at::kDouble);
  EXPECT_EQ(load_model_config(fresh).torch_dtype, "float64");
}

// libtorch cannot train tensors that were made in this mode.
TEST_F(LoadOptions, WeightsLoadedForInferenceCanBeTrained) {
  std::unique_ptr<Model> model;
  {
    const c10::InferenceMode inference;
    model = load_model(base(), {});
  }
  for (const Parameter& parameter : model->parameters()) EXPECT_FALSE(parameter.values().is_inference());
  AdapterConfig config;
  config.method = "lora";
  config.target_modules = {"query"};
  const auto adapter = create_adapter(config, target_of(*model), 1);
  PackedInput input;
  input.input_ids = at::tensor({2, 5, 3}, at::kLong);
  input.cu_seqlens = {0, 3};
  const at::Tensor y = model->forward(input, {});
  y.sum().backward();
  EXPECT_TRUE(adapter->trainable().front().tensor.grad().defined());
  const c10::InferenceMode inference;
  EXPECT_TRUE(at::equal(model->forward(input, {}), y.detach()));
}

}  // namespace
}  // namespace msplora
