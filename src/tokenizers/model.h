#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizers/json_view.h"
#include "tokenizers/vocabulary.h"

namespace msplora::detail {

/// Bytes [begin, end) of some text.
struct Piece {
  size_t begin;
  size_t end;
};

/// Working memory of a model, one per thread.
struct ModelScratch {
  struct Pair {
    uint32_t rank;
    int32_t merged;
  };
  std::vector<int32_t> symbols;
  std::vector<uint32_t> sizes;  // bytes of each symbol, or empty where nobody asks
  /// The end of the best segmentation of a beginning of the text.
  struct Step {
    double score;
    size_t begin;
    int32_t id;
  };
  struct Part {
    size_t begin, end;
    int32_t id;
  };
  std::vector<Pair> pairs;
  std::vector<uint64_t> heap;
  std::vector<size_t> next, previous;
  std::vector<Step> steps;
  std::vector<Part> path;
  std::string text;
};

/// Turns one piece of pre-tokenized text into token ids.
class Model {
 public:
  virtual ~Model() = default;
  /// Appends the ids of `piece` and, where `ranges` is given, the bytes [begin, end) of the piece that each
  /// stands for; those of Hugging Face's library, which counts on where characters vanish.
  virtual void tokenize(std::string_view piece, ModelScratch& scratch, std::vector<int32_t>& ids,
                        std::vector<Piece>* ranges) const = 0;
  /// Where `piece` may be cut in two, at or after byte `from`, so that the parts by themselves give the ids
  /// of the whole; piece.size() when there is no such place. Parts are short and are seen again, so that they
  /// can be remembered.
  virtual size_t next_cut(std::string_view piece, size_t) const { return piece.size(); }
  virtual std::optional<std::string> unk_token() const = 0;
  const Vocabulary& vocabulary() const { return vocabulary_; }

 protected:
  explicit Model(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  Vocabulary vocabulary_;
};

std::unique_ptr<const Model> make_wordpiece(const JsonView& json);
std::unique_ptr<const Model> make_bpe(const JsonView& json);
/// Byte-level BPE of a vocabulary of tiktoken: a piece that is a token is that token; else neighbours are
/// joined whose result has the lowest id.
std::unique_ptr<const Model> make_ranked_bpe(Vocabulary vocabulary);
std::unique_ptr<const Model> make_unigram(const JsonView& json);
std::unique_ptr<const Model> make_word_level(const JsonView& json);
/// The component described by `json` (tokenizer.json's "model").
std::unique_ptr<const Model> make_model(const JsonView& json);

/// Reads {"token": id, ...}.
Vocabulary read_vocabulary(const JsonView& json);

/// Remembers the tokens of recent short words, in sets of two of which the older goes first; each entry fills
/// one cache line. Belongs to one thread.
class WordCache {
 public:
  /// Appends the tokens of `word` to `ids`, asking `model` when they are not known.
  void tokenize(const Model& model, std::string_view word, ModelScratch& scratch, std::vector<int32_t>& ids) {
    if (word.size() > kWordBytes) return model.tokenize(word, scratch, ids, nullptr);
    Entry* const set = entries_.data() + 2 * (hash_bytes(word) & (kSets - 1));
    if (set[0].holds(word)) return set[0].append_to(ids);
    std::swap(set[0], set[1]);
    if (set[0].holds(word)) return set[0].append_to(ids);
    const size_t before = ids.size();
    model.tokenize(word, scratch, ids, nullptr);
    const size_t count = ids.size() - before;
    if (count > kTokens) return;
    set[0].word_size = static_cast<uint8_t>(word.size());
    set[0].token_count = static_cast<uint8_t>(count);
    std::memcpy(set[0].word, word.data(), word.size());
    std::copy(ids.end() - static_cast<std::ptrdiff_t>(count), ids.end(), set[0].ids);
  }

  /// Longer words are not remembered.
  static constexpr size_t kWordBytes = 38;

 private:
  static constexpr size_t kSets = 1 << 14;
  static constexpr size_t kTokens = 6;
  struct alignas(64) Entry {
    int32_t ids[kTokens] = {};
    uint8_t word_size = 255;  // more than kWordBytes: empty
    uint8_t token_count = 0;
    char word[kWordBytes] = {};

    bool holds(std::string_view text) const {
      return word_size == text.size() && std::memcmp(word, text.data(), text.size()) == 0;
    }
    void append_to(std::vector<int32_t>& to) const {
      // Copying all six and cutting back is cheaper than a loop of unknown length.
      const size_t before = to.size();
      to.insert(to.end(), ids, ids + kTokens);
      to.resize(before + token_count);
    }
  };
  static_assert(sizeof(Entry) == 64);
  std::vector<Entry> entries_ = std::vector<Entry>(2 * kSets);
};

}  // namespace msplora::detail
