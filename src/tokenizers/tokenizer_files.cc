#include "tokenizers/tokenizer_files.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/core/file.h"
#include "msplora/core/paths.h"
#include "msplora/gguf/file.h"
#include "tokenizers/json_view.h"
#include "tokenizers/tokenizer_json.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace fs = std::filesystem;
using nlohmann::json;

json read_json_if_any(const fs::path& path, std::string* text) {
  if (!path_exists(path)) return json::object();
  std::string content = read_file(path);
  json document = parse_json_object(content, path);
  if (text) *text = std::move(content);
  return document;
}

std::string token_or(const json& config, const char* key, const std::string& otherwise) {
  const auto found = config.find(key);
  if (found == config.end()) return otherwise;
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content") && (*found)["content"].is_string()) {
    return (*found)["content"].get<std::string>();
  }
  return otherwise;
}

namespace {

std::vector<std::string> read_lines(const fs::path& path) {
  const std::string text = read_file(path);
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (line.size() > 1 && line.back() == '\r') line.pop_back();
    std::string buffer;
    if (valid_utf8(line, buffer).data() != line.data()) {
      throw Error(ErrorCode::kFormat, path.string() + ":" + std::to_string(lines.size() + 1),
                  "the line is not well-formed UTF-8");
    }
    lines.push_back(std::move(line));
    at = end + 1;
  }
  return lines;
}

json bert_from_vocabulary(const fs::path& path, const TokenizerFiles& files) {
  const JsonView config(files.config, (path.parent_path() / "tokenizer_config.json").string());
  BertParts parts;
  parts.vocabulary = read_lines(path);
  // Blank lines at the end are no tokens; between tokens a blank line has an id.
  while (!parts.vocabulary.empty() && parts.vocabulary.back().find_first_not_of(" \t\r") == std::string::npos)
    parts.vocabulary.pop_back();
  if (parts.vocabulary.empty()) throw Error(ErrorCode::kFormat, path.string(), "the vocabulary is empty");
  const auto token = [&](const char* key, const char* usual) {
    return token_or(files.config, key, token_or(files.special_tokens_map, key, usual));
  };
  parts.unk = token("unk_token", "[UNK]");
  parts.cls = token("cls_token", "[CLS]");
  parts.sep = token("sep_token", "[SEP]");
  parts.special_tokens = {token("pad_token", "[PAD]"), parts.unk, parts.cls, parts.sep,
                          token("mask_token", "[MASK]")};
  parts.lowercase = config.boolean_or("do_lower_case", true);
  if (const auto strip = config.find("strip_accents")) parts.strip_accents = strip->boolean();
  parts.handle_chinese_chars = config.boolean_or("tokenize_chinese_chars", true);
  return make_bert_json(parts, path.string());
}

json read_merge_lines(const fs::path& path) {
  if (!path_exists(path)) {
    throw Error(ErrorCode::kIo, path.string(), "vocab.json is there, but merges.txt is missing",
                "byte-level BPE needs both");
  }
  json merges = json::array();
  const auto lines = read_lines(path);
  for (size_t i = 0; i < lines.size(); ++i) {
    if (lines[i].empty() || (i == 0 && lines[i].starts_with("#version"))) continue;
    const size_t space = lines[i].find(' ');
    if (space == std::string::npos || space == 0 || space + 1 == lines[i].size() ||
        lines[i].find(' ', space + 1) != std::string::npos) {
      throw Error(ErrorCode::kFormat, path.string() + ":" + std::to_string(i + 1),
                  "expected two tokens and a space between them, found \"" + lines[i] + "\"");
    }
    merges.push_back({lines[i].substr(0, space), lines[i].substr(space + 1)});
  }
  return merges;
}

// RoBERTa and its descendants use <s> and </s>; GPT-2 adds nothing.
bool is_roberta_like(const TokenizerFiles& files, const json& model_config) {
  std::string names;
  const auto add_name = [&names](const json& document, const char* key) {
    const auto found = document.find(key);
    if (found != document.end() && found->is_string()) names += found->get<std::string>() + " ";
  };
  add_name(files.config, "tokenizer_class");
  add_name(model_config, "model_type");
  for (char& c : names) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const char* name : {"roberta", "bart", "longformer"}) {
    if (names.find(name) != std::string::npos) return true;
  }
  return false;
}

json byte_level_from_vocabulary(const fs::path& path, const TokenizerFiles& files) {
  const fs::path directory = path.parent_path();
  const json vocabulary = parse_json_object(read_file(path), path);
  const bool roberta = is_roberta_like(files, read_json_if_any(directory / "config.json"));
  const JsonView config(files.config, (directory / "tokenizer_config.json").string());
  const bool prefix_space = config.boolean_or("add_prefix_space", false);
  const auto token = [&](const char* key, const char* usual) {
    return token_or(files.config, key, token_or(files.special_tokens_map, key, usual));
  };
  std::vector<std::string> special;
  if (roberta) {
    special = {token("cls_token", "<s>"), token("pad_token", "<pad>"), token("sep_token", "</s>"),
               token("unk_token", "<unk>"), token("mask_token", "<mask>")};
  } else {
    special = {token("bos_token", "<|endoftext|>"), token("eos_token", "<|endoftext|>"),
               token("unk_token", "<|endoftext|>"), token("pad_token", "<|endoftext|>")};
  }
  json added = json::array();
  std::vector<std::string> seen;
  for (size_t i = 0; i < special.size(); ++i) {
    if (!vocabulary.contains(special[i]) || std::find(seen.begin(), seen.end(), special[i]) != seen.end())
      continue;
    seen.push_back(special[i]);
    if (!vocabulary[special[i]].is_number_integer())
      continue;  // reported with its path by the vocabulary reader
    added.push_back(added_token(vocabulary[special[i]].get<int64_t>(), special[i], true, roberta && i == 4));
  }
  json result = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"normalizer", nullptr}};
  result["added_tokens"] = added;
  result["pre_tokenizer"] = {
      {"type", "ByteLevel"}, {"add_prefix_space", prefix_space}, {"trim_offsets", true}};
  result["decoder"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}};
  result["model"] = {{"type", "BPE"},
                     {"dropout", nullptr},
                     {"unk_token", nullptr},
                     {"continuing_subword_prefix", ""},
                     {"end_of_word_suffix", ""},
                     {"fuse_unk", false},
                     {"vocab", vocabulary},
                     {"merges", read_merge_lines(directory / "merges.txt")}};
  if (!roberta) {
    result["post_processor"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", false}};
    return result;
  }
  for (const size_t i : {0, 2}) {
    if (!vocabulary.contains(special[i])) {
      throw Error(ErrorCode::kFormat, path.string(), "the special token \"" + special[i] + "\" is missing",
                  "RoBERTa's tokenizer puts it around every text");
    }
  }
  result["post_processor"] = {{"type", "RobertaProcessing"},
                              {"sep", {special[2], vocabulary[special[2]]}},
                              {"cls", {special[0], vocabulary[special[0]]}},
                              {"trim_offsets", true},
                              {"add_prefix_space", prefix_space}};
  return result;
}

// The file of a directory that says most exactly what the tokenizer is.
fs::path find_source(const fs::path& directory) {
  for (const char* name : {"tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model",
                           "spm.model", "sentencepiece.bpe.model", "tekken.json"}) {
    if (path_exists(directory / name)) return directory / name;
  }
  std::vector<fs::path> ranks;
  for (const fs::path& entry : entries_of(directory))
    if (entry.extension() == ".tiktoken") ranks.push_back(entry);
  if (ranks.size() == 1) return ranks[0];
  throw Error(
      ErrorCode::kIo, directory.string(),
      ranks.empty() ? "the directory has no tokenizer" : "there are several .tiktoken files",
      "expected tokenizer.json, vocab.txt, vocab.json with merges.txt, tokenizer.model, tekken.json or one "
      ".tiktoken file");
}

// added_tokens.json of the older layout: {"token": id}.
void append_added_tokens(const fs::path& path, json& tokenizer) {
  const json extra = read_json_if_any(path);
  for (const auto& item : extra.items()) {
    const auto& known = tokenizer["added_tokens"];
    const bool has = std::any_of(known.begin(), known.end(),
                                 [&](const json& token) { return token["content"] == item.key(); });
    if (has) continue;
    if (!item.value().is_number_integer()) {
      throw Error(ErrorCode::kFormat, path.string() + ": " + item.key(), "expected an integer id");
    }
    tokenizer["added_tokens"].push_back(added_token(item.value().get<int64_t>(), item.key(), false));
  }
}

}  // namespace

TokenizerFiles read_tokenizer_files(const fs::path& path) {
  if (!path_exists(path)) {
    throw Error(ErrorCode::kIo, path.string(), "there is no such file or directory",
                "expected a directory with tokenizer.json, or such a file");
  }
  const bool is_directory = directory_exists(path);
  if (is_gguf_path(path)) {
    // It stands alone: what lies beside it belongs to something else.
    TokenizerFiles alone;
    alone.source = path;
    read_gguf_tokenizer(alone);
    return alone;
  }
  const fs::path directory = is_directory ? path : path.parent_path();
  TokenizerFiles files;
  files.source = is_directory ? find_source(directory) : path;
  files.config = read_json_if_any(directory / "tokenizer_config.json", &files.config_text);
  files.special_tokens_map = read_json_if_any(directory / "special_tokens_map.json");
  const std::string name = files.source.filename().string();
  if (name == "vocab.txt") {
    files.tokenizer = bert_from_vocabulary(files.source, files);
  } else if (name == "vocab.json") {
    files.tokenizer = byte_level_from_vocabulary(files.source, files);
  } else if (name == "tekken.json") {
    read_tiktoken(files);
    return files;
  } else if (name.ends_with(".model") || name.ends_with(".tiktoken")) {
    files.other_file = read_file(files.source);
    holds_ranks(files.other_file) ? read_tiktoken(files) : read_sentencepiece_tokenizer(files);
    return files;
  } else {
    files.tokenizer_text = read_file(files.source);
    files.tokenizer = parse_json_object(files.tokenizer_text, files.source);
    return files;
  }
  append_added_tokens(directory / "added_tokens.json", files.tokenizer);
  return files;
}

TokenizerParts make_parts(const JsonView& document) {
  TokenizerParts parts;
  if (const auto part = document.find("normalizer")) parts.normalizer = make_normalizer(*part);
  if (const auto part = document.find("pre_tokenizer")) parts.pre_tokenizer = make_pre_tokenizer(*part);
  parts.model = make_model(document.at("model"));
  if (const auto part = document.find("decoder")) parts.decoder = make_decoder(*part);
  return parts;
}

}  // namespace msplora::detail
