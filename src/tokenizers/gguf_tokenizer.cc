#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "msplora/gguf/file.h"
#include "tokenizers/patterns.h"
#include "tokenizers/sentencepiece_file.h"
#include "tokenizers/tokenizer_files.h"
#include "tokenizers/tokenizer_json.h"
#include "tokenizers/unicode.h"
#include "tokenizers/vocabulary.h"
#include "tokenizers/word_starts.h"

namespace msplora::detail {
namespace {

using nlohmann::json;

// How text is split before byte-level BPE, by the names that tokenizer.ggml.pre has for it.
struct SplitRule {
  std::vector<const char*> names;
  std::vector<const char*> patterns;  // one behind the other
  bool normalizes = false;            // to NFC
  bool ignores_merges = false;        // a whole word that is a token is taken as it is
  bool adds_bos = false;              // unless the file says otherwise
};

const std::vector<SplitRule>& split_rules() {
  static const std::vector<SplitRule> rules = {
      {{"gpt-2", "gpt2", "olmo", "phi-2", "mpt", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de"},
       {kGpt2Pattern}},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"},
       {kDigitPattern, kGpt2Pattern}},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"}, {kCl100kPattern}, false, true, true},
      {{"dbrx", "smaug-bpe"}, {kCl100kPattern}},
      {{"qwen2", "deepseek-r1-qwen"}, {kQwenPattern}, true},
      {{"tekken"}, {kTekkenPattern}, false, true, true},
      {{"gpt-4o", "llama4"}, {kO200kPattern}}};
  return rules;
}

const SplitRule& split_rule(const GgufFile& file) {
  const std::string name(file.need(file.text(gguf_key::kTokenizerPre), gguf_key::kTokenizerPre));
  std::vector<std::string> known;
  std::string list;
  for (const SplitRule& rule : split_rules()) {
    for (const char* other : rule.names) {
      if (name == other) return rule;
      known.emplace_back(other);
      list += (list.empty() ? "" : ", ") + known.back();
    }
  }
  const std::string nearest = did_you_mean(name, known);
  file.fail(gguf_key::kTokenizerPre,
            fmt::format("it is not known how `{}` splits text; known are {}", name, list),
            nearest.empty() ? "use the model's directory with its tokenizer.json" : nearest);
}

class GgufVocabulary {
 public:
  explicit GgufVocabulary(const GgufFile& file) : file_(file) {
    const auto texts = file.need(file.texts(gguf_key::kTokens), gguf_key::kTokens);
    if (texts.empty() || texts.size() > static_cast<size_t>(Vocabulary::kLargestId))
      file.fail(gguf_key::kTokens,
                fmt::format("expected 1 to {} tokens, found {}", Vocabulary::kLargestId, texts.size()));
    std::string buffer;
    for (size_t i = 0; i < texts.size(); ++i) {
      if (valid_utf8(texts[i], buffer).data() != texts[i].data())
        file.fail(gguf_key::kTokens, fmt::format("token {} is not well-formed UTF-8", i));
      tokens_.push_back(texts[i].empty() ? fmt::format("[EMPTY_{}]", i) : std::string(texts[i]));
    }
    types_.assign(tokens_.size(), static_cast<int64_t>(GgufTokenType::kNormal));
    if (auto types = file.integers(gguf_key::kTokenTypes)) {
      check_count(gguf_key::kTokenTypes, types->size());
      const auto odd =
          std::find_if(types->begin(), types->end(), [](int64_t type) { return type < 1 || type > 6; });
      if (odd != types->end())
        file.fail(gguf_key::kTokenTypes, fmt::format("expected types from 1 to 6, found {} for token {}",
                                                     *odd, odd - types->begin()));
      types_ = *std::move(types);
    }
  }

  const std::vector<std::string>& tokens() const { return tokens_; }
  bool is(size_t id, GgufTokenType type) const { return types_[id] == static_cast<int64_t>(type); }

  void check_count(const char* key, size_t count) const {
    if (count != tokens_.size())
      file_.fail(key, fmt::format("expected one for each of the {} tokens, found {}", tokens_.size(), count));
  }

  /// The token that a key names by its id.
  std::optional<NamedToken> role(const char* key, std::optional<int64_t> otherwise = std::nullopt) const {
    auto id = file_.integer(key);
    if (!id && otherwise && *otherwise < size()) id = otherwise;
    if (!id) return std::nullopt;
    if (*id < 0 || *id >= size())
      file_.fail(key, fmt::format("expected an id below {}, found {}", size(), *id));
    return NamedToken{tokens_[static_cast<size_t>(*id)], *id};
  }

  /// Tokens that are found in text as they are: control tokens and the unknown one, and with `all` what was
  /// added by hand.
  json added_tokens(bool all) const {
    json result = json::array();
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const bool is_special = is(i, GgufTokenType::kControl) || is(i, GgufTokenType::kUnknown);
      if (is_special || (all && is(i, GgufTokenType::kUserDefined)))
        result.push_back(added_token(static_cast<int64_t>(i), tokens_[i], is_special));
    }
    return result;
  }

 private:
  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }

  const GgufFile& file_;
  std::vector<std::string> tokens_;
  std::vector<int64_t> types_;
};

// The special tokens around a text.
json surroundings(const GgufFile& file, const GgufVocabulary& vocabulary, bool bos_by_default,
                  std::optional<int64_t> bos, std::optional<int64_t> eos) {
  const auto wanted = [&](const char* flag, bool otherwise, const char* key,
                          std::optional<int64_t> id) -> std::optional<NamedToken> {
    if (!file.flag(flag).value_or(otherwise)) return std::nullopt;
    auto token = vocabulary.role(key, id);
    if (!token && file.contains(flag)) file.fail_missing(key);
    return token;
  };
  return template_around(wanted(gguf_key::kAddBos, bos_by_default, gguf_key::kBosId, bos),
                         wanted(gguf_key::kAddEos, false, gguf_key::kEosId, eos));
}

json pre_tokenizer_of(const SplitRule& rule) {
  json steps = json::array();
  bool is_gpt2 = false;
  for (const char* pattern : rule.patterns) {
    is_gpt2 = pattern == kGpt2Pattern;  // which ByteLevel knows itself
    if (!is_gpt2) steps.push_back(split_by(pattern));
  }
  steps.push_back(byte_level_pre_tokenizer(is_gpt2));
  return in_sequence("pretokenizers", std::move(steps));
}

void read_byte_level(const GgufFile& file, const GgufVocabulary& vocabulary, TokenizerFiles& files) {
  const SplitRule& rule = split_rule(file);
  BytePairParts parts;
  for (size_t i = 0; i < vocabulary.tokens().size(); ++i) {
    const auto [place, is_new] = parts.vocabulary.emplace(vocabulary.tokens()[i], i);
    if (!is_new)
      file.fail(gguf_key::kTokens, fmt::format("tokens {} and {} are the same: \"{}\"", place->get<size_t>(),
                                               i, vocabulary.tokens()[i]));
  }
  for (const std::string_view merge : file.need(file.texts(gguf_key::kMerges), gguf_key::kMerges)) {
    const size_t space = merge.find(' ', 1);
    if (space == merge.npos || space + 1 == merge.size()) {
      file.fail(gguf_key::kMerges,
                fmt::format("merge {}: expected two tokens and a space between them, found \"{}\"",
                            parts.merges.size(), merge.substr(0, 80)));
    }
    parts.merges.push_back({std::string(merge.substr(0, space)), std::string(merge.substr(space + 1))});
  }
  parts.added_tokens = vocabulary.added_tokens(/*all=*/true);
  if (rule.normalizes) parts.normalizer = {{"type", "NFC"}};
  parts.pre_tokenizer = pre_tokenizer_of(rule);
  parts.post_processor = surroundings(file, vocabulary, rule.adds_bos, std::nullopt, std::nullopt);
  parts.decoder = byte_level_decoder();
  parts.ignore_merges = rule.ignores_merges;
  files.tokenizer = make_byte_pair_json(std::move(parts));
}

// SentencePiece's BPE by scores. Tokens that were added by hand stand there as plain text, in SentencePiece's
// own files with its sign for a space.
void read_scored(const GgufFile& file, const GgufVocabulary& vocabulary, TokenizerFiles& files) {
  using Type = SentencePieceFile::Type;
  SentencePieceFile pieces;
  pieces.is_bpe = true;
  pieces.add_dummy_prefix = file.flag(gguf_key::kAddSpacePrefix).value_or(true);
  pieces.remove_extra_whitespaces = file.flag(gguf_key::kRemoveExtraSpaces).value_or(false);
  const auto scores = file.need(file.numbers(gguf_key::kScores), gguf_key::kScores);
  vocabulary.check_count(gguf_key::kScores, scores.size());
  size_t bytes = 0, unknown = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (!std::isfinite(scores[i]))
      file.fail(gguf_key::kScores, fmt::format("the score of token {} is not a finite number", i));
    SentencePieceFile::Entry entry{vocabulary.tokens()[i], scores[i], Type::kNormal};
    for (const auto& [from, to] :
         {std::pair(GgufTokenType::kUnknown, Type::kUnknown),
          std::pair(GgufTokenType::kControl, Type::kControl),
          std::pair(GgufTokenType::kUserDefined, Type::kUserDefined),
          std::pair(GgufTokenType::kUnused, Type::kUnused), std::pair(GgufTokenType::kByte, Type::kByte)}) {
      if (vocabulary.is(i, from)) entry.type = to;
    }
    if (entry.type == Type::kUserDefined) {
      std::string text;
      for (const char c : entry.text) c == ' ' ? text += kWordStart : text += c;
      entry.text = std::move(text);
    }
    bytes += entry.type == Type::kByte ? 1 : 0;
    unknown += entry.type == Type::kUnknown ? 1 : 0;
    pieces.pieces.push_back(std::move(entry));
  }
  constexpr int64_t kUnk = 0, kBos = 1, kEos = 2;  // where a file does not say
  const auto unk = vocabulary.role(gguf_key::kUnknownId, kUnk);
  if (unknown != 1 && unk) {
    for (auto& entry : pieces.pieces)
      if (entry.type == Type::kUnknown) entry.type = Type::kControl;
    pieces.pieces[static_cast<size_t>(unk->id)].type = Type::kUnknown;
  }
  pieces.byte_fallback = bytes >= 256;
  try {
    check_pieces(pieces);
  } catch (const std::invalid_argument& error) {
    file.fail(gguf_key::kTokens, error.what());
  }
  files.tokenizer = {{"added_tokens", vocabulary.added_tokens(/*all=*/false)},
                     {"post_processor", surroundings(file, vocabulary, /*bos_by_default=*/true, kBos, kEos)}};
  for (const auto& [key, role, id] :
       {std::tuple("bos_token", gguf_key::kBosId, kBos), std::tuple("eos_token", gguf_key::kEosId, kEos)}) {
    if (const auto token = vocabulary.role(role, id)) files.special_tokens_map[key] = token->text;
  }
  files.parts = make_sentencepiece_parts(pieces);
  const json around = files.tokenizer["post_processor"];
  files.make_tokenizer = [pieces = std::move(pieces), around] {
    return sentencepiece_bpe_json(pieces, around);
  };
}

// WordPiece: beginnings of words are marked in place of what continues them.
void read_wordpiece(const GgufFile& file, const GgufVocabulary& vocabulary, TokenizerFiles& files) {
  BertParts parts;
  bool has_capitals = false;
  for (size_t i = 0; i < vocabulary.tokens().size(); ++i) {
    const std::string& token = vocabulary.tokens()[i];
    const bool is_special = token.starts_with('[') && token.ends_with(']');
    const bool begins = token.starts_with(kWordStart);
    parts.vocabulary.push_back(is_special ? token : begins ? token.substr(kWordStart.size()) : "##" + token);
    has_capitals = has_capitals || (!is_special && std::any_of(token.begin(), token.end(),
                                                               [](char c) { return c >= 'A' && c <= 'Z'; }));
  }
  parts.lowercase = !has_capitals;
  const auto name = [&](std::initializer_list<const char*> keys, const std::string& usual) {
    for (const char* key : keys) {
      if (const auto token = vocabulary.role(key)) return parts.vocabulary[static_cast<size_t>(token->id)];
    }
    return usual;
  };
  parts.unk = name({gguf_key::kUnknownId}, "[UNK]");
  parts.cls = name({gguf_key::kClassId, gguf_key::kBosId}, "[CLS]");
  parts.sep = name({gguf_key::kSeparatorId, gguf_key::kEosId}, "[SEP]");
  parts.special_tokens = {name({gguf_key::kPaddingId}, "[PAD]"), parts.unk, parts.cls, parts.sep,
                          name({gguf_key::kMaskId}, "[MASK]")};
  files.tokenizer = make_bert_json(parts, file.path().string());
}

// The patterns that a pre-tokenizer cuts with, one behind the other; nothing for one that does more.
std::optional<std::vector<std::string>> patterns_of(const json& pre_tokenizer) {
  const std::string type = pre_tokenizer.is_object() ? pre_tokenizer.value("type", "") : "";
  if (type == "Sequence") {
    std::vector<std::string> all;
    for (const json& step : pre_tokenizer.value("pretokenizers", json::array())) {
      const auto patterns = patterns_of(step);
      if (!patterns) return std::nullopt;
      all.insert(all.end(), patterns->begin(), patterns->end());
    }
    return all;
  }
  if (type == "ByteLevel") {
    if (pre_tokenizer.value("add_prefix_space", true)) return std::nullopt;
    if (!pre_tokenizer.value("use_regex", true)) return std::vector<std::string>();
    return std::vector<std::string>{kGpt2Pattern};
  }
  if (type == "Digits" && pre_tokenizer.value("individual_digits", false))
    return std::vector<std::string>{kDigitPattern};
  if (type != "Split" || pre_tokenizer.value("invert", false) ||
      pre_tokenizer.value("behavior", "") != "Isolated")
    return std::nullopt;
  const json pattern = pre_tokenizer.value("pattern", json::object());
  if (!pattern.contains("Regex")) return std::nullopt;
  return std::vector<std::string>{pattern["Regex"].get<std::string>()};
}

}  // namespace

std::string gguf_pre_name(const json& tokenizer) {
  const auto patterns = patterns_of(tokenizer.value("pre_tokenizer", json()));
  const json normalizer = tokenizer.value("normalizer", json());
  const bool normalizes = normalizer.is_object() && normalizer.value("type", "") == "NFC";
  const json model = tokenizer.value("model", json::object());
  const bool ignores_merges = model.value("ignore_merges", false);
  if (!patterns || (!normalizes && !normalizer.is_null())) return {};
  for (const SplitRule& rule : split_rules()) {
    if (rule.normalizes == normalizes && rule.ignores_merges == ignores_merges &&
        std::equal(patterns->begin(), patterns->end(), rule.patterns.begin(), rule.patterns.end()))
      return rule.names.front();
  }
  return {};
}

void read_gguf_tokenizer(TokenizerFiles& files) {
  const auto file = GgufFile::open(files.source);
  files.config = files.special_tokens_map = json::object();
  if (const auto text = file->text(gguf_key::kChatTemplate)) files.new_config["chat_template"] = *text;
  if (const auto text = file->text(gguf_key::kHuggingFaceTokenizer)) {
    files.tokenizer_text = *text;
    files.tokenizer = parse_json_object(files.tokenizer_text,
                                        files.source.string() + ": " + gguf_key::kHuggingFaceTokenizer);
    return;
  }
  const std::string_view model = file->need(file->text(gguf_key::kTokenizerModel), gguf_key::kTokenizerModel);
  const GgufVocabulary vocabulary(*file);
  const std::pair<const char*, const char*> roles[] = {{"bos_token", gguf_key::kBosId},
                                                       {"eos_token", gguf_key::kEosId},
                                                       {"pad_token", gguf_key::kPaddingId},
                                                       {"unk_token", gguf_key::kUnknownId}};
  for (const auto& [key, role] : roles) {
    if (const auto token = vocabulary.role(role)) files.special_tokens_map[key] = token->text;
  }
  if (model == "gpt2") {
    read_byte_level(*file, vocabulary, files);
  } else if (model == "llama") {
    read_scored(*file, vocabulary, files);
  } else if (model == "bert") {
    read_wordpiece(*file, vocabulary, files);
  } else {
    file->fail(gguf_key::kTokenizerModel, fmt::format("expected gpt2, llama or bert, found `{}`", model),
               "use the model's directory with its tokenizer.json");
  }
}

}  // namespace msplora::detail
