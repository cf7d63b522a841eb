// Options of golden cases, under Hugging Face's names.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "msplora/generation/options.h"

namespace msplora::generation_test {

inline GenerationOptions options_of(const nlohmann::json& given) {
  GenerationOptions options;
  for (const auto& [name, value] : given.items()) {
    if (name == "eos_token_id") {
      options.eos_token_id =
          value.is_array() ? value.get<std::vector<int64_t>>() : std::vector<int64_t>{value.get<int64_t>()};
    } else if (name == "bad_words_ids") {
      options.bad_words_ids = value.get<std::vector<std::vector<int32_t>>>();
    } else if (name == "sequence_bias") {
      for (const nlohmann::json& one : value)
        options.sequence_bias.push_back({one[0].get<std::vector<int32_t>>(), one[1].get<double>()});
    } else if (name == "early_stopping") {
      options.early_stopping =
          value.is_boolean() ? (value.get<bool>() ? "true" : "false") : value.get<std::string>();
    } else {
      bool is_known = false;
      options.visit([&](const char* key, auto& field, auto&&...) {
        if (name != key) return;
        using Field = std::decay_t<decltype(field)>;
        if constexpr (std::is_same_v<Field, int64_t> || std::is_same_v<Field, double>)
          field = value.get<Field>();
        is_known = true;
      });
      EXPECT_TRUE(is_known) << name;
    }
  }
  return options;
}

}  // namespace msplora::generation_test
