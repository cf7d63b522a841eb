// config.json texts of the tests, and what reading one says.
#pragma once

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <string>

#include "io/test_files.h"
#include "msplora/models/model_config.h"

namespace msplora::config_texts {

using nlohmann::json;

inline json llama() {
  return json::parse(R"({
    "model_type": "llama", "vocab_size": 120, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 88, "max_position_embeddings": 64, "rope_theta": 500000.0,
    "rms_norm_eps": 1e-05, "torch_dtype": "bfloat16", "pad_token_id": null})");
}

inline ModelConfig parse(const json& source) {
  return parse_model_config(source, "config.json");
}

inline std::string refusal(const json& source) {
  return io_test::error_of(ErrorCode::kConfig, [&] { parse(source); });
}

inline std::string refusal(json source, const std::string& key, const json& value) {
  source[key] = value;
  const std::string message = refusal(source);
  EXPECT_THAT(message, ::testing::StartsWith("config.json: " + key + ": ")) << value;
  return message;
}

}  // namespace msplora::config_texts
