// Text models inside of larger ones.

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/small_config.h"
#include "msplora/core/file.h"
#include "msplora/io/safetensors.h"
#include "msplora/models/model.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using nlohmann::json;
using ::testing::IsEmpty;

at::Tensor logits_of(Model& model) {
  PackedInput input;
  input.input_ids = at::tensor(std::vector<int64_t>{3, 7, 1, 9, 12}, at::kLong);
  input.cu_seqlens = {0, 3, 5};
  return model.forward(input, {});
}

// Gemma 3 that sees pictures: text_config inside of config.json, and two ways of naming the tensors.
TEST(Wrapped, TheTextModelOfGemma3IsTaken) {
  const ModelConfig alone = model_test::small_config("gemma3_text", {{"vocab_size", 30},
                                                                     {"hidden_size", 16},
                                                                     {"num_hidden_layers", 2},
                                                                     {"num_attention_heads", 2},
                                                                     {"intermediate_size", 24},
                                                                     {"max_position_embeddings", 20},
                                                                     {"sliding_window", 4},
                                                                     {"initializer_range", 0.2}});
  ModelLoadOptions options;
  options.task = ModelTask::kCausalLm;
  const auto model = create_model(alone, options);
  json config = {{"model_type", "gemma3"},
                 {"architectures", {"Gemma3ForConditionalGeneration"}},
                 {"text_config", alone.raw},
                 {"vision_config", {{"model_type", "siglip_vision_model"}}},
                 {"eos_token_id", {1, 2}}};
  config["text_config"].erase("model_type");
  for (const bool is_newer : {false, true}) {
    SCOPED_TRACE(is_newer);
    TemporaryDirectory directory;
    std::vector<NamedTensor> tensors = {
        {is_newer ? "model.vision_tower.x" : "vision_tower.x", at::ones({2})},
        {is_newer ? "model.multi_modal_projector.y" : "multi_modal_projector.y", at::ones({2})}};
    for (const Parameter& parameter : model->parameters()) {
      const std::string below = parameter.name.substr(std::string("model.").size());
      tensors.push_back({is_newer ? "model.language_model." + below : "language_model." + parameter.name,
                         parameter.values().detach()});
    }
    write_safetensors(directory.path() / "model.safetensors", tensors);
    write_file_atomically(directory.path() / "config.json", config.dump());
    const auto read = load_model(directory.path(), options);
    EXPECT_TRUE(at::equal(logits_of(*read), logits_of(*model)));
    // What is written is the text model.
    save_model(*read, directory.path() / "saved", at::kFloat);
    const json saved = json::parse(read_file(directory.path() / "saved" / "config.json"));
    EXPECT_EQ(saved.at("model_type"), "gemma3_text");
    EXPECT_EQ(saved.at("architectures"), json({"Gemma3ForCausalLM"}));
    EXPECT_EQ(saved.at("eos_token_id"), json({1, 2}));
    ModelLoadReport report;
    EXPECT_TRUE(
        at::equal(logits_of(*load_model(directory.path() / "saved", options, &report)), logits_of(*model)));
    EXPECT_THAT(report.ignored, IsEmpty());
  }
}

// Published files leave out what they share with Hugging Face's class.
TEST(Wrapped, KeysThatGemma3LeavesOutAreThoseOfItsClass) {
  const json text = {{"hidden_size", 2560},
                     {"intermediate_size", 10240},
                     {"num_hidden_layers", 34},
                     {"sliding_window", 1024}};
  const Architecture a =
      describe(parse_model_config({{"model_type", "gemma3"}, {"text_config", text}}, "config.json"));
  EXPECT_EQ(a.vocab_size(), 262208);
  EXPECT_EQ(a.heads(), 8);
  EXPECT_EQ(a.kv_heads(), 4);
  EXPECT_EQ(a.blocks[0].attention.shape.head_dim, 256);
  EXPECT_EQ(a.blocks[5].attention.shape.window_left, -1);
  EXPECT_EQ(a.blocks[6].attention.shape.window_left, 1023);
}

}  // namespace
}  // namespace msplora
