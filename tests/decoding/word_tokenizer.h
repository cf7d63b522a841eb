// A tokenizer whose tokens are the words w0, w1, ..., for texts of models that were drawn.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "msplora/core/file.h"

namespace msplora {

inline void write_word_tokenizer(const std::filesystem::path& directory, int words) {
  using nlohmann::json;
  json vocabulary = json::object();
  for (int i = 0; i < words; ++i) vocabulary["w" + std::to_string(i)] = i;
  const json tokenizer = {{"version", "1.0"},
                          {"truncation", nullptr},
                          {"padding", nullptr},
                          {"added_tokens", json::array()},
                          {"normalizer", nullptr},
                          {"pre_tokenizer", {{"type", "WhitespaceSplit"}}},
                          {"post_processor", nullptr},
                          {"decoder", nullptr},
                          {"model", {{"type", "WordLevel"}, {"vocab", vocabulary}, {"unk_token", "w0"}}}};
  write_file_atomically(directory / "tokenizer.json", tokenizer.dump());
}

}  // namespace msplora
