#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/tokenizers/trainer.h"
#include "tokenizers/normalizers.h"
#include "tokenizers/pre_tokenizers.h"
#include "tokenizers/tokenizer_files.h"
#include "tokenizers/unicode.h"
#include "tokenizers/vocabulary.h"

namespace msplora {
namespace fs = std::filesystem;
using detail::StringTable;
using nlohmann::json;
namespace {

constexpr const char* kPrefix = "##";

struct WordCount {
  std::string word;
  int64_t count = 0;
};

// Counts the words that BERT's normaliser and pre-tokenizer make of the lines.
class WordCounter {
 public:
  explicit WordCounter(const WordPieceTrainerOptions& options)
      : max_chars_(options.max_input_chars_per_word),
        normalizer_(detail::make_bert_normalizer({true, true, options.lowercase, options.lowercase})),
        pre_tokenizer_(detail::make_bert_pre_tokenizer()) {}

  void add(std::string_view line) {
    buffer_.text.assign(detail::valid_utf8(line, valid_));
    normalizer_->apply(buffer_.text, spare_);
    buffer_.pieces.assign(1, {0, buffer_.text.size()});
    pre_tokenizer_->apply(buffer_);
    for (const auto& piece : buffer_.pieces) count(buffer_.view(piece));
  }

  std::vector<WordCount> take() { return std::move(words_); }

 private:
  void count(std::string_view word) {
    const int32_t known = table_.find(word);
    if (known != StringTable::kNone) {
      ++words_[static_cast<size_t>(known)].count;
    } else if (detail::count_code_points(word) <= max_chars_) {
      table_.set(word, static_cast<int32_t>(words_.size()));
      words_.push_back({std::string(word), 1});
    }
  }

  size_t max_chars_;
  std::unique_ptr<const detail::Normalizer> normalizer_;
  std::unique_ptr<const detail::PreTokenizer> pre_tokenizer_;
  detail::PieceBuffer buffer_;
  std::string valid_, spare_;
  StringTable table_;
  std::vector<WordCount> words_;
};

// The vocabulary as it grows.
class PieceList {
 public:
  int32_t id_of(const std::string& piece) {
    const int32_t known = table_.find(piece);
    if (known != StringTable::kNone) return known;
    const auto id = static_cast<int32_t>(pieces_.size());
    table_.set(piece, id);
    pieces_.push_back(piece);
    return id;
  }
  int32_t find(const std::string& piece) const { return table_.find(piece); }
  size_t size() const { return pieces_.size(); }
  const std::string& operator[](int32_t id) const { return pieces_[static_cast<size_t>(id)]; }
  const std::vector<std::string>& all() const { return pieces_; }

 private:
  StringTable table_;
  std::vector<std::string> pieces_;
};

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

// Joins the most frequent pair again and again. Pair counts are kept up to date from the words that a join
// changes; the heap holds counts that may be too large and are corrected when they come up.
class Merger {
 public:
  Merger(PieceList& pieces, const std::vector<WordCount>& words, const std::vector<std::string>& alphabet)
      : pieces_(pieces) {
    for (const auto& c : alphabet) pieces_.id_of(c);
    add_inner_alphabet(words, alphabet);
    for (const auto& [word, count] : words) add_word(word, count);
    for (size_t w = 0; w < words_.size(); ++w) {
      const Word& word = words_[w];
      for (size_t i = 0; i + 1 < word.size; ++i) {
        change(symbols_[word.begin + i], symbols_[word.begin + i + 1], word.count, static_cast<uint32_t>(w));
      }
    }
    push_changed();
  }

  // Makes one join; false when no pair occurs `min_count` times.
  bool step(int64_t min_count) {
    while (!heap_.empty()) {
      const Candidate top = heap_.top();
      heap_.pop();
      const auto found = pairs_.find(top.pair);
      if (found == pairs_.end()) continue;
      if (found->second.count != top.count) {
        if (found->second.count > 0) heap_.push({found->second.count, top.pair});
        continue;
      }
      if (top.count < std::max<int64_t>(min_count, 1)) return false;
      const std::vector<uint32_t> where = std::move(found->second.words);
      pairs_.erase(found);
      join(top.pair, where);
      return true;
    }
    return false;
  }

 private:
  struct Word {
    size_t begin;
    size_t size;
    int64_t count;
  };
  struct Pair {
    int64_t count = 0;
    std::vector<uint32_t> words;  // where it occurs, or once did
  };
  struct Candidate {
    int64_t count;
    uint64_t pair;
    bool operator<(const Candidate& other) const {  // the heap's top is the largest
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  // "##c" for the characters that occur inside a word.
  void add_inner_alphabet(const std::vector<WordCount>& words, const std::vector<std::string>& alphabet) {
    StringTable inner;
    for (const auto& [word, count] : words) {
      for (size_t at = detail::utf8_length(word[0]); at < word.size(); at += detail::utf8_length(word[at])) {
        inner.set(std::string_view(word).substr(at, detail::utf8_length(word[at])), 0);
      }
    }
    for (const auto& c : alphabet) {
      if (inner.find(c) != StringTable::kNone) pieces_.id_of(kPrefix + c);
    }
  }

  // A word with a character outside the alphabet is unknown as a whole when encoding, so it teaches nothing.
  void add_word(const std::string& word, int64_t count) {
    const size_t begin = symbols_.size();
    for (size_t at = 0; at < word.size();) {
      const size_t size = detail::utf8_length(word[at]);
      const std::string c = word.substr(at, size);
      const int32_t id = pieces_.find(at == 0 ? c : kPrefix + c);
      if (id == StringTable::kNone) return symbols_.resize(begin);
      symbols_.push_back(id);
      at += size;
    }
    words_.push_back({begin, symbols_.size() - begin, count});
  }

  void change(int32_t left, int32_t right, int64_t by, uint32_t word) {
    Pair& pair = pairs_[key(left, right)];
    pair.count += by;
    if (by <= 0) return;
    if (pair.words.empty() || pair.words.back() != word) pair.words.push_back(word);
    changed_.push_back(key(left, right));
  }

  void push_changed() {
    std::sort(changed_.begin(), changed_.end());
    changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
    for (const uint64_t pair : changed_) heap_.push({pairs_[pair].count, pair});
    changed_.clear();
  }

  void join(uint64_t pair, const std::vector<uint32_t>& where) {
    const auto left = static_cast<int32_t>(pair >> 32);
    const auto right = static_cast<int32_t>(pair & 0xFFFFFFFF);
    const int32_t joined = pieces_.id_of(pieces_[left] + pieces_[right].substr(2));
    for (const uint32_t w : where) {
      Word& word = words_[w];
      int32_t* symbols = symbols_.data() + word.begin;
      size_t write = 0;
      for (size_t read = 0; read < word.size; ++read, ++write) {
        symbols[write] = symbols[read];
        if (symbols[read] != left || read + 1 >= word.size || symbols[read + 1] != right) continue;
        symbols[write] = joined;
        ++read;
        if (write > 0) {
          change_old(symbols[write - 1], left, pair, word.count);
          change(symbols[write - 1], joined, word.count, w);
        }
        if (read + 1 < word.size) {
          change_old(right, symbols[read + 1], pair, word.count);
          change(joined, symbols[read + 1], word.count, w);
        }
      }
      word.size = write;
    }
    push_changed();
  }

  // A pair that a join takes apart; the joined pair itself is gone already.
  void change_old(int32_t left, int32_t right, uint64_t joined_pair, int64_t by) {
    if (key(left, right) == joined_pair) return;
    const auto found = pairs_.find(key(left, right));
    if (found != pairs_.end()) found->second.count -= by;
  }

  PieceList& pieces_;
  std::vector<int32_t> symbols_;  // all words end to end
  std::vector<Word> words_;
  std::unordered_map<uint64_t, Pair> pairs_;
  std::priority_queue<Candidate> heap_;
  std::vector<uint64_t> changed_;
};

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

std::vector<std::string> learn(const WordPieceTrainerOptions& options, std::vector<WordCount> words) {
  // An order that the text's order of words does not change.
  std::sort(words.begin(), words.end(), [](const auto& a, const auto& b) { return a.word < b.word; });
  PieceList pieces;
  for (const auto& token : options.special_tokens) pieces.id_of(token);
  Merger merger(pieces, words, choose_alphabet(words, options.limit_alphabet));
  if (pieces.size() > options.vocab_size) {
    throw Error(ErrorCode::kConfig, "vocab_size",
                "expected room for the special tokens and the alphabet, " + std::to_string(pieces.size()) +
                    " entries; found " + std::to_string(options.vocab_size),
                "raise vocab_size or lower limit_alphabet");
  }
  while (pieces.size() < options.vocab_size && merger.step(static_cast<int64_t>(options.min_frequency))) {
  }
  return pieces.all();
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
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) throw Error(ErrorCode::kIo, directory.string(), "cannot make the directory: " + error.message());
  write_file_atomically(directory / kVocabularyFile, lines);
  write_file_atomically(directory / kConfigFile, make_config(options).dump(1) + "\n");
  write_file_atomically(directory / kTokenizerFile, tokenizer.dump(1) + "\n");
}

void finish(const WordPieceTrainerOptions& options, WordCounter& counter, const fs::path& output_directory) {
  std::vector<WordCount> words = counter.take();
  if (words.empty()) {
    throw Error(ErrorCode::kData, output_directory.string(), "there is no text to learn a vocabulary from");
  }
  write_directory(options, learn(options, std::move(words)), output_directory);
}

}  // namespace

void train_wordpiece(const WordPieceTrainerOptions& options,
                     const std::function<bool(std::string&)>& next_line, const fs::path& output_directory) {
  check_options(options);
  WordCounter counter(options);
  for (std::string line; next_line(line);) counter.add(line);
  finish(options, counter, output_directory);
}

void train_wordpiece(const WordPieceTrainerOptions& options, const std::vector<fs::path>& text_files,
                     const fs::path& output_directory) {
  check_options(options);
  for (const char* name : {kVocabularyFile, kConfigFile, kTokenizerFile})
    refuse_input_as_output(output_directory / name, text_files, "the output directory");
  WordCounter counter(options);
  std::string line;
  for (const auto& path : text_files) {
    std::ifstream in(path);
    if (!in || fs::is_directory(path)) {
      throw Error(ErrorCode::kIo, path.string(), "cannot open the text file for reading");
    }
    while (std::getline(in, line)) counter.add(line);
    if (in.bad()) throw Error(ErrorCode::kIo, path.string(), "cannot read the text file to its end");
  }
  finish(options, counter, output_directory);
}

}  // namespace msplora
