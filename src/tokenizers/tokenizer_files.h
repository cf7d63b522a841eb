#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace msplora::detail {

/// The texts that make up a tokenizer, wherever they came from.
struct TokenizerFiles {
  std::filesystem::path source;       // the file that errors name
  nlohmann::json tokenizer;           // tokenizer.json, read or put together from vocabulary files
  std::string tokenizer_text;         // as read; empty when put together
  nlohmann::json config;              // tokenizer_config.json; an empty object when there is none
  std::string config_text;            // as read; empty when there is none
  nlohmann::json special_tokens_map;  // special_tokens_map.json; an empty object when there is none
};

TokenizerFiles read_tokenizer_files(const std::filesystem::path& directory_or_file);

/// What a BERT tokenizer.json is made from.
struct BertParts {
  std::vector<std::string> vocabulary;  // by id
  std::vector<std::string> special_tokens;
  std::string unk = "[UNK]", cls = "[CLS]", sep = "[SEP]";
  bool lowercase = true;
  nlohmann::json strip_accents;  // null: as lowercase
  bool handle_chinese_chars = true;
  size_t max_input_chars_per_word = 100;
};

/// `source` is named when cls, sep or unk is not in the vocabulary.
nlohmann::json make_bert_json(const BertParts& parts, const std::string& source);

}  // namespace msplora::detail
