#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/tokenizers/tokenizer.h"
#include "temporary_directory.h"

namespace msplora {

/// A tokenizer read from the given tokenizer.json content.
inline std::shared_ptr<const Tokenizer> tokenizer_from(const nlohmann::json& content) {
  const TemporaryDirectory directory;
  return Tokenizer::load(directory.write("tokenizer.json", content.dump()));
}

/// A model that knows these words and nothing else, each with its position as id; [UNK] is 0.
inline nlohmann::json word_model(const std::vector<std::string>& words) {
  nlohmann::json vocabulary = {{"[UNK]", 0}};
  for (const auto& word : words) vocabulary[word] = vocabulary.size();
  return {{"type", "WordPiece"},
          {"unk_token", "[UNK]"},
          {"continuing_subword_prefix", "##"},
          {"vocab", vocabulary}};
}

/// The tokens of `text` by name.
inline std::vector<std::string> tokens_of(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::string> tokens;
  for (const int32_t id : tokenizer.encode({text, {}}).ids) tokens.push_back(tokenizer.id_to_token(id));
  return tokens;
}

}  // namespace msplora
