#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "tokenizers/base64.h"
#include "tokenizers/patterns.h"
#include "tokenizers/tokenizer_files.h"
#include "tokenizers/tokenizer_json.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {

// Published patterns, by the name of the file of ranks (without .tiktoken); Llama 3 calls it tokenizer.model.
constexpr std::pair<const char*, const char*> kPatterns[] = {
    {"gpt2", kGpt2Pattern},          {"r50k_base", kGpt2Pattern},   {"p50k_base", kGpt2Pattern},
    {"cl100k_base", kCl100kPattern}, {"o200k_base", kO200kPattern}, {"qwen", kQwenPattern},
    {"tokenizer", kCl100kPattern}};

struct Ranks {
  std::vector<std::string> tokens;  // by rank
  std::string pattern;
  std::vector<std::string> special;  // ids 0, 1, ... of tokens before the ranks, or behind them
  bool special_first = false;
};

[[noreturn]] void fail(const fs::path& path, const std::string& message, const std::string& hint = {}) {
  throw Error(ErrorCode::kFormat, path.string(), message, hint);
}

// A line is base64, a space and a rank; the ranks are 0, 1, ...
std::optional<std::pair<std::string, size_t>> parse_line(std::string_view line) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0) return std::nullopt;
  size_t rank = 0;
  const char* const end = line.data() + line.size();
  const auto number = std::from_chars(line.data() + space + 1, end, rank);
  if (number.ec != std::errc() || number.ptr != end) return std::nullopt;
  auto bytes = decode_base64(line.substr(0, space));
  if (!bytes || bytes->empty()) return std::nullopt;
  return std::pair(*std::move(bytes), rank);
}

std::string_view take_line(std::string_view& text) {
  const size_t end = std::min(text.find('\n'), text.size());
  std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

Ranks read_rank_lines(std::string_view content, const fs::path& path) {
  Ranks ranks;
  size_t number = 0;
  while (!content.empty()) {
    const std::string_view line = take_line(content);
    ++number;
    if (line.empty()) continue;
    auto entry = parse_line(line);
    if (!entry || entry->second != ranks.tokens.size()) {
      fail(path.string() + ":" + std::to_string(number),
           "expected base64, a space and the rank " + std::to_string(ranks.tokens.size()) + ", found \"" +
               std::string(line.substr(0, 60)) + "\"");
    }
    ranks.tokens.push_back(std::move(entry->first));
  }
  const std::string name = path.stem().string();
  std::vector<std::string> known;
  for (const auto& [published, pattern] : kPatterns) {
    if (name == published) ranks.pattern = pattern;
    known.push_back(std::string(published) +
                    (std::string(published) == "tokenizer" ? ".model" : ".tiktoken"));
  }
  if (ranks.pattern.empty()) {
    std::string list;
    for (const std::string& one : known) list += (list.empty() ? "" : ", ") + one;
    fail(path, "a file of ranks does not say how text is split, and none is known for this name",
         "known: " + list);
  }
  return ranks;
}

// Llama 3's own special tokens, which stand behind the ranks.
std::vector<std::string> llama3_special_tokens() {
  std::vector<std::string> tokens = {"<|begin_of_text|>",
                                     "<|end_of_text|>",
                                     "<|reserved_special_token_0|>",
                                     "<|reserved_special_token_1|>",
                                     "<|finetune_right_pad_id|>",
                                     "<|step_id|>",
                                     "<|start_header_id|>",
                                     "<|end_header_id|>",
                                     "<|eom_id|>",
                                     "<|eot_id|>",
                                     "<|python_tag|>"};
  for (int i = 2; tokens.size() < 256; ++i)
    tokens.push_back("<|reserved_special_token_" + std::to_string(i) + "|>");
  return tokens;
}

Ranks read_tekken(const json& document, const fs::path& path) {
  const JsonView view(document, path.string());
  const JsonView config = view.at("config");
  Ranks ranks;
  ranks.pattern = config.at("pattern").string();
  const int64_t special = config.at("default_num_special_tokens").integer(0, 1 << 20);
  const int64_t size = config.at("default_vocab_size").integer(special + 1, Vocabulary::kLargestId);
  const auto entries = view.at("vocab").elements();
  const auto wanted = static_cast<size_t>(size - special);
  if (entries.size() < wanted)
    view.at("vocab").fail("expected at least " + std::to_string(wanted) + " tokens, found " +
                          std::to_string(entries.size()));
  for (size_t i = 0; i < wanted; ++i) {
    const auto bytes = decode_base64(entries[i].at("token_bytes").string());
    if (!bytes || bytes->empty()) entries[i].at("token_bytes").fail("not valid base64 of a token");
    entries[i].at("rank").integer(static_cast<int64_t>(i), static_cast<int64_t>(i));
    ranks.tokens.push_back(*bytes);
  }
  ranks.special_first = true;
  for (int64_t i = 0; i < special; ++i) ranks.special.push_back("<SPECIAL_" + std::to_string(i) + ">");
  const std::pair<size_t, const char*> usual[] = {{0, "<unk>"}, {1, "<s>"}, {2, "</s>"}};
  for (const auto& [id, name] : usual)
    if (id < ranks.special.size()) ranks.special[id] = name;
  if (const auto named = view.find("special_tokens")) {
    for (const auto& token : named->elements()) {
      const auto rank = static_cast<size_t>(token.at("rank").integer(0, special - 1));
      ranks.special[rank] = token.at("token_str").string();
    }
  }
  return ranks;
}

std::string byte_level(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) append_utf8(text, byte_level_alphabet()[static_cast<unsigned char>(byte)]);
  return text;
}

}  // namespace

bool holds_ranks(std::string_view content) {
  return parse_line(take_line(content)).has_value();
}

void read_tiktoken(TokenizerFiles& files) {
  const fs::path& path = files.source;
  Ranks ranks;
  if (path.filename() == "tekken.json") {
    files.other_file = read_file(path);
    ranks = read_tekken(parse_json_object(files.other_file, path), path);
  } else {
    ranks = read_rank_lines(files.other_file, path);
    if (path.filename() == "tokenizer.model") ranks.special = llama3_special_tokens();
  }
  const auto first_rank = static_cast<int32_t>(ranks.special_first ? ranks.special.size() : 0);
  const auto first_special = static_cast<int32_t>(ranks.special_first ? 0 : ranks.tokens.size());
  Vocabulary vocabulary;
  std::array<bool, 256> bytes{};
  for (size_t i = 0; i < ranks.tokens.size(); ++i) {
    const std::string& token = ranks.tokens[i];
    if (token.size() == 1) bytes[static_cast<unsigned char>(token[0])] = true;
    const std::string text = byte_level(token);
    if (vocabulary.find(text)) fail(path, "the token of rank " + std::to_string(i) + " is there twice");
    vocabulary.set(text, first_rank + static_cast<int32_t>(i));
  }
  if (!std::all_of(bytes.begin(), bytes.end(), [](bool has) { return has; }))
    fail(path, "not every single byte is a token");
  json added = json::array();
  for (size_t i = 0; i < ranks.special.size(); ++i)
    added.push_back(added_token(first_special + static_cast<int32_t>(i), ranks.special[i], true));
  files.tokenizer = {{"added_tokens", added},
                     {"pre_tokenizer", in_sequence("pretokenizers", {split_by(ranks.pattern),
                                                                     byte_level_pre_tokenizer(false)})},
                     {"decoder", byte_level_decoder()}};
  const std::string begin = ranks.special_first ? "<s>" : "<|begin_of_text|>";
  const auto has = std::find(ranks.special.begin(), ranks.special.end(), begin);
  if (has != ranks.special.end()) {
    const auto id = first_special + static_cast<int32_t>(has - ranks.special.begin());
    files.tokenizer["post_processor"] = template_around(NamedToken{begin, id}, std::nullopt);
  }
  if (!ranks.special_first && !ranks.special.empty()) {
    const std::pair<const char*, const char*> named[] = {{"bos_token", "<|begin_of_text|>"},
                                                         {"eos_token", "<|end_of_text|>"}};
    for (const auto& [key, token] : named)
      if (!files.special_tokens_map.contains(key)) files.special_tokens_map[key] = token;
  }
  files.new_config = json::object();
  const JsonView document(files.tokenizer, path.string());
  files.parts.pre_tokenizer = make_pre_tokenizer(document.at("pre_tokenizer"));
  files.parts.decoder = make_decoder(document.at("decoder"));
  files.parts.model = make_ranked_bpe(std::move(vocabulary));
}

}  // namespace msplora::detail
