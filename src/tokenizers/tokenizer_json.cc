#include "tokenizers/tokenizer_json.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "msplora/core/error.h"

namespace msplora::detail {

using nlohmann::json;

json added_token(int64_t id, const std::string& content, bool special, bool lstrip) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", lstrip},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

json template_around(const std::optional<NamedToken>& begin, const std::optional<NamedToken>& end) {
  json single = json::array(), pair = json::array(), tokens = json::object();
  for (const auto& [text, type] : {std::pair("A", 0), std::pair("B", 1)}) {
    json part = json::array();
    const auto put = [&](const std::optional<NamedToken>& token) {
      if (!token) return;
      part.push_back({{"SpecialToken", {{"id", token->text}, {"type_id", type}}}});
      tokens[token->text] = {
          {"id", token->text}, {"ids", json::array({token->id})}, {"tokens", json::array({token->text})}};
    };
    put(begin);
    part.push_back({{"Sequence", {{"id", text}, {"type_id", type}}}});
    put(end);
    if (type == 0) single = part;
    for (const json& item : part) pair.push_back(item);
  }
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", tokens}};
}

json in_sequence(const char* list, json steps) {
  return steps.size() == 1 ? steps[0] : json{{"type", "Sequence"}, {list, std::move(steps)}};
}

json split_by(const std::string& pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

json byte_level_pre_tokenizer(bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

json byte_level_decoder() {
  return {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
}

json make_byte_pair_json(BytePairParts parts) {
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", std::move(parts.added_tokens)},
          {"normalizer", std::move(parts.normalizer)},
          {"pre_tokenizer", std::move(parts.pre_tokenizer)},
          {"post_processor", std::move(parts.post_processor)},
          {"decoder", std::move(parts.decoder)},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", std::move(parts.unk_token)},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", parts.fuse_unk},
            {"byte_fallback", parts.byte_fallback},
            {"ignore_merges", parts.ignore_merges},
            {"vocab", std::move(parts.vocabulary)},
            {"merges", std::move(parts.merges)}}}};
}

json make_bert_json(const BertParts& parts, const std::string& source) {
  std::unordered_map<std::string, size_t> ids;
  json vocabulary = json::object();
  for (size_t i = 0; i < parts.vocabulary.size(); ++i) {
    // Of a repeated line the last counts, as in Hugging Face's reader.
    ids[parts.vocabulary[i]] = i;
    vocabulary[parts.vocabulary[i]] = i;
  }
  const auto id_of = [&](const std::string& token) {
    const auto found = ids.find(token);
    if (found == ids.end()) {
      throw Error(ErrorCode::kFormat, source, "the special token \"" + token + "\" is not in the vocabulary");
    }
    return found->second;
  };
  std::vector<std::pair<size_t, std::string>> special;
  for (const auto& token : parts.special_tokens) {
    if (const auto found = ids.find(token); found != ids.end()) special.emplace_back(found->second, token);
  }
  std::sort(special.begin(), special.end());
  special.erase(std::unique(special.begin(), special.end()), special.end());
  json added = json::array();
  for (const auto& [id, token] : special) added.push_back(added_token(static_cast<int64_t>(id), token, true));

  const auto special_item = [](const std::string& id, int type) {
    return json{{"SpecialToken", {{"id", id}, {"type_id", type}}}};
  };
  const auto text_item = [](const char* id, int type) {
    return json{{"Sequence", {{"id", id}, {"type_id", type}}}};
  };
  const auto definition = [&](const std::string& token) {
    return json{{"id", token}, {"ids", json::array({id_of(token)})}, {"tokens", json::array({token})}};
  };
  id_of(parts.unk);
  json result = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", added}};
  result["normalizer"] = {{"type", "BertNormalizer"},
                          {"clean_text", true},
                          {"handle_chinese_chars", parts.handle_chinese_chars},
                          {"strip_accents", parts.strip_accents},
                          {"lowercase", parts.lowercase}};
  result["pre_tokenizer"] = {{"type", "BertPreTokenizer"}};
  result["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", json::array({special_item(parts.cls, 0), text_item("A", 0), special_item(parts.sep, 0)})},
      {"pair", json::array({special_item(parts.cls, 0), text_item("A", 0), special_item(parts.sep, 0),
                            text_item("B", 1), special_item(parts.sep, 1)})},
      {"special_tokens", {{parts.cls, definition(parts.cls)}, {parts.sep, definition(parts.sep)}}}};
  result["decoder"] = {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}};
  result["model"] = {{"type", "WordPiece"},
                     {"unk_token", parts.unk},
                     {"continuing_subword_prefix", "##"},
                     {"max_input_chars_per_word", parts.max_input_chars_per_word},
                     {"vocab", std::move(vocabulary)}};
  return result;
}

}  // namespace msplora::detail
