#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/core/paths.h"
#include "msplora/tokenizers/trainer.h"
#include "tokenizers/normalizers.h"
#include "tokenizers/pair_joiner.h"
#include "tokenizers/pre_tokenizers.h"
#include "tokenizers/tokenizer_json.h"
#include "tokenizers/unicode.h"
#include "tokenizers/vocabulary.h"

namespace msplora {
namespace fs = std::filesystem;
using detail::PairJoiner;
using detail::PieceList;
using detail::StringTable;
using detail::WordCount;
using detail::WordCounter;
using nlohmann::json;
namespace {

constexpr const char* kPrefix = "##";

// Characters by code point, the most frequent `limit` of them.
std::vector<std::string> choose_alphabet(const std::vector<WordCount>& words, size_t limit) {
  std::unordered_map<char32_t, int64_t> counts;
  for (const auto& [word, count] : words) {
    const char* const end = word.data() + word.size();
    for (const char* p = word.data(); p < end;) counts[detail::next_code_point(p)] += count;
  }
  std::vector<std::pair<char32_t, int64_t>> order(counts.begin(), counts.end());
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  });
  if (order.size() > limit) order.resize(limit);
  std::sort(order.begin(), order.end());
  std::vector<std::string> alphabet;
  for (const auto& [c, count] : order) detail::append_utf8(alphabet.emplace_back(), c);
  return alphabet;
}

// "##c" for the characters that occur inside a word.
void add_inner_alphabet(const std::vector<WordCount>& words, const std::vector<std::string>& alphabet,
                        PieceList& pieces) {
  StringTable inner;
  for (const auto& [word, count] : words) {
    for (size_t at = detail::utf8_length(word[0]); at < word.size(); at += detail::utf8_length(word[at])) {
      inner.set(std::string_view(word).substr(at, detail::utf8_length(word[at])), 0);
    }
  }
  for (const auto& c : alphabet) {
    if (inner.find(c) != StringTable::kNone) pieces.id_of(kPrefix + c);
  }
}

// The characters of a word; nothing for one with a character outside the alphabet: it is unknown as a whole
// when encoding, so it teaches nothing.
std::vector<int32_t> symbols_of(const std::string& word, const PieceList& pieces) {
  std::vector<int32_t> symbols;
  for (size_t at = 0; at < word.size();) {
    const size_t size = detail::utf8_length(word[at]);
    const std::string c = word.substr(at, size);
    const int32_t id = pieces.find(at == 0 ? c : kPrefix + c);
    if (id == StringTable::kNone) return {};
    symbols.push_back(id);
    at += size;
  }
  return symbols;
}

bool has(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void check_options(const WordPieceTrainerOptions& options) {
  ErrorList errors;
  for (const char* token : {"[UNK]", "[CLS]", "[SEP]"}) {
    if (!has(options.special_tokens, token)) errors.add("special_tokens", std::string(token) + " is missing");
  }
  auto sorted = options.special_tokens;
  std::sort(sorted.begin(), sorted.end());
  const auto repeated = std::adjacent_find(sorted.begin(), sorted.end());
  if (repeated != sorted.end()) errors.add("special_tokens", "\"" + *repeated + "\" is there twice");
  if (has(sorted, "")) errors.add("special_tokens", "a special token is empty");
  if (options.limit_alphabet == 0) errors.add("limit_alphabet", "expected at least 1, found 0");
  if (options.max_input_chars_per_word == 0)
    errors.add("max_input_chars_per_word", "expected at least 1, found 0");
  if (options.vocab_size > static_cast<size_t>(detail::Vocabulary::kLargestId)) {
    errors.add("vocab_size", "expected at most " + std::to_string(detail::Vocabulary::kLargestId) +
                                 ", found " + std::to_string(options.vocab_size));
  }
  errors.throw_if_any(ErrorCode::kConfig, "the WordPiece trainer's options are wrong");
}

std::vector<std::string> learn(const WordPieceTrainerOptions& options, const std::vector<WordCount>& words) {
  PieceList pieces;
  for (const auto& token : options.special_tokens) pieces.id_of(token);
  const std::vector<std::string> alphabet = choose_alphabet(words, options.limit_alphabet);
  for (const auto& c : alphabet) pieces.id_of(c);
  add_inner_alphabet(words, alphabet, pieces);
  if (pieces.size() > options.vocab_size) {
    throw Error(ErrorCode::kConfig, "vocab_size",
                "expected room for the special tokens and the alphabet, " + std::to_string(pieces.size()) +
                    " entries; found " + std::to_string(options.vocab_size),
                "raise vocab_size or lower limit_alphabet");
  }
  PairJoiner joiner(pieces, kPrefix);
  for (const auto& [word, count] : words) joiner.add_word(symbols_of(word, pieces), count);
  while (pieces.size() < options.vocab_size && joiner.step(static_cast<int64_t>(options.min_frequency))) {
  }
  return pieces.all();
}

WordCounter make_counter(const WordPieceTrainerOptions& options) {
  return {detail::make_bert_normalizer({true, true, options.lowercase, options.lowercase}),
          detail::make_bert_pre_tokenizer(), options.max_input_chars_per_word};
}

json make_config(const WordPieceTrainerOptions& options) {
  json config = {{"tokenizer_class", "BertTokenizer"},
                 {"do_lower_case", options.lowercase},
                 {"tokenize_chinese_chars", true},
                 {"strip_accents", nullptr},
                 {"model_max_length", options.model_max_length}};
  const std::pair<const char*, const char*> roles[] = {{"unk_token", "[UNK]"},
                                                       {"cls_token", "[CLS]"},
                                                       {"sep_token", "[SEP]"},
                                                       {"pad_token", "[PAD]"},
                                                       {"mask_token", "[MASK]"}};
  for (const auto& [key, token] : roles) {
    if (has(options.special_tokens, token)) config[key] = token;
  }
  return config;
}

constexpr const char* kVocabularyFile = "vocab.txt";
constexpr const char* kConfigFile = "tokenizer_config.json";
constexpr const char* kTokenizerFile = "tokenizer.json";

void write_directory(const WordPieceTrainerOptions& options, const std::vector<std::string>& vocabulary,
                     const fs::path& directory) {
  detail::BertParts parts;
  parts.vocabulary = vocabulary;
  parts.special_tokens = options.special_tokens;
  parts.lowercase = options.lowercase;
  parts.max_input_chars_per_word = options.max_input_chars_per_word;
  const json tokenizer = detail::make_bert_json(parts, (directory / kTokenizerFile).string());
  std::string lines;
  for (const auto& token : vocabulary) lines += token + "\n";
  make_directories(directory);
  write_file_atomically(directory / kVocabularyFile, lines);
  write_file_atomically(directory / kConfigFile, make_config(options).dump(1) + "\n");
  write_file_atomically(directory / kTokenizerFile, tokenizer.dump(1) + "\n");
}

void finish(const WordPieceTrainerOptions& options, WordCounter& counter, const fs::path& output_directory) {
  const std::vector<WordCount> words = counter.take();
  if (words.empty()) {
    throw Error(ErrorCode::kData, output_directory.string(), "there is no text to learn a vocabulary from");
  }
  write_directory(options, learn(options, words), output_directory);
}

}  // namespace

void train_wordpiece(const WordPieceTrainerOptions& options,
                     const std::function<bool(std::string&)>& next_line, const fs::path& output_directory) {
  check_options(options);
  WordCounter counter = make_counter(options);
  for (std::string line; next_line(line);) counter.add(line);
  finish(options, counter, output_directory);
}

void train_wordpiece(const WordPieceTrainerOptions& options, const std::vector<fs::path>& text_files,
                     const fs::path& output_directory) {
  check_options(options);
  for (const char* name : {kVocabularyFile, kConfigFile, kTokenizerFile})
    refuse_input_as_output(output_directory / name, text_files, "the output directory");
  WordCounter counter = make_counter(options);
  detail::for_each_line(text_files, [&](const std::string& line) { counter.add(line); });
  finish(options, counter, output_directory);
}

}  // namespace msplora
