#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <queue>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizers/normalizers.h"
#include "tokenizers/pre_tokenizers.h"
#include "tokenizers/vocabulary.h"

/// What the trainers of WordPiece and of byte-pair encoding share: words with their counts, and a vocabulary
/// that grows by joining the most frequent pair.
namespace msplora::detail {

struct WordCount {
  std::string word;
  int64_t count = 0;
};

/// Counts the words that a normaliser (may be missing) and a pre-tokenizer make of lines.
class WordCounter {
 public:
  WordCounter(std::unique_ptr<const Normalizer> normalizer, std::unique_ptr<const PreTokenizer> pre_tokenizer,
              size_t max_chars);

  void add(std::string_view line);
  /// By word: an order that the text's order of words does not change.
  std::vector<WordCount> take();

 private:
  void count(std::string_view word);

  std::unique_ptr<const Normalizer> normalizer_;
  std::unique_ptr<const PreTokenizer> pre_tokenizer_;
  size_t max_chars_;
  PieceBuffer buffer_;
  std::string valid_, spare_;
  StringTable table_;
  std::vector<WordCount> words_;
};

/// Calls `use` with every line. Throws as LineReader, which reads them.
void for_each_line(const std::vector<std::filesystem::path>& files,
                   const std::function<void(const std::string&)>& use);

/// The vocabulary as it grows.
class PieceList {
 public:
  int32_t id_of(const std::string& piece);
  int32_t find(const std::string& piece) const { return table_.find(piece); }
  size_t size() const { return pieces_.size(); }
  const std::string& operator[](int32_t id) const { return pieces_[static_cast<size_t>(id)]; }
  const std::vector<std::string>& all() const { return pieces_; }

 private:
  StringTable table_;
  std::vector<std::string> pieces_;
};

struct Join {
  int32_t left, right, joined;
};

/// Joins the most frequent pair again and again, of equal ones that of the smaller ids. Pair counts are kept
/// up to date from the words that a join changes; the heap holds counts that may be too large and are
/// corrected when they come up.
class PairJoiner {
 public:
  /// `inner_prefix` ("##") is what pieces begin with that do not begin a word.
  PairJoiner(PieceList& pieces, std::string inner_prefix);

  /// A word as ids of its symbols.
  void add_word(std::span<const int32_t> symbols, int64_t count);
  /// Makes one join; nothing when no pair occurs `min_count` times.
  std::optional<Join> step(int64_t min_count);

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

  void change(int32_t left, int32_t right, int64_t by, uint32_t word);
  void change_old(int32_t left, int32_t right, uint64_t joined_pair, int64_t by);
  void push_changed();
  Join join(uint64_t pair, const std::vector<uint32_t>& where);

  PieceList& pieces_;
  std::string inner_prefix_;
  std::vector<int32_t> symbols_;  // all words end to end
  std::vector<Word> words_;
  std::unordered_map<uint64_t, Pair> pairs_;
  std::priority_queue<Candidate> heap_;
  std::vector<uint64_t> changed_;
};

}  // namespace msplora::detail
