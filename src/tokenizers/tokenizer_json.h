#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

/// How tokenizer.json is written: pieces of it, and whole documents for the kinds that are put together here.
namespace msplora::detail {

/// An entry of "added_tokens".
nlohmann::json added_token(int64_t id, const std::string& content, bool special, bool lstrip = false);

/// A token with its id.
struct NamedToken {
  std::string text;
  int64_t id = 0;
};
/// The post-processor that puts tokens around every text; of a pair around each.
nlohmann::json template_around(const std::optional<NamedToken>& begin, const std::optional<NamedToken>& end);

/// Several steps as one; `list` is the key that Hugging Face has for them ("pretokenizers" ...).
nlohmann::json in_sequence(const char* list, nlohmann::json steps);
/// Text split where `pattern` matches.
nlohmann::json split_by(const std::string& pattern);
/// Bytes as characters of GPT-2's alphabet, which also splits by GPT-2's pattern where `use_regex`.
nlohmann::json byte_level_pre_tokenizer(bool use_regex);
nlohmann::json byte_level_decoder();

/// A tokenizer.json of byte-pair encoding.
struct BytePairParts {
  nlohmann::json vocabulary = nlohmann::json::object();  // token: id
  nlohmann::json merges = nlohmann::json::array();       // [left, right] each
  nlohmann::json added_tokens = nlohmann::json::array();
  nlohmann::json normalizer, pre_tokenizer, post_processor, decoder;
  nlohmann::json unk_token;
  bool fuse_unk = false;
  bool byte_fallback = false;
  bool ignore_merges = false;
};
nlohmann::json make_byte_pair_json(BytePairParts parts);

/// A tokenizer.json of BERT.
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
