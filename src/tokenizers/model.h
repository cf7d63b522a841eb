#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/json_view.h"
#include "tokenizers/vocabulary.h"

namespace msplora::detail {

/// Working memory of a model, one per thread.
struct ModelScratch {
  struct Pair {
    uint32_t rank;
    int32_t merged;
  };
  std::vector<int32_t> symbols;
  std::vector<Pair> pairs;
  std::string text;
};

/// Turns one piece of pre-tokenized text into token ids.
class Model {
 public:
  virtual ~Model() = default;
  virtual void tokenize(std::string_view piece, ModelScratch& scratch, std::vector<int32_t>& ids) const = 0;
  virtual std::optional<std::string> unk_token() const = 0;
  const Vocabulary& vocabulary() const { return vocabulary_; }

 protected:
  explicit Model(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {}
  Vocabulary vocabulary_;
};

std::unique_ptr<const Model> make_wordpiece(const JsonView& json);
std::unique_ptr<const Model> make_bpe(const JsonView& json);
/// The component described by `json` (tokenizer.json's "model").
std::unique_ptr<const Model> make_model(const JsonView& json);

/// Reads {"token": id, ...}.
Vocabulary read_vocabulary(const JsonView& json);

/// Remembers the tokens of recent short words; each entry fills one cache line. Belongs to one thread.
class WordCache {
 public:
  /// Appends the tokens of `word` to `ids`, asking `model` when they are not known.
  void tokenize(const Model& model, std::string_view word, ModelScratch& scratch, std::vector<int32_t>& ids) {
    if (word.size() > kWordBytes) return model.tokenize(word, scratch, ids);
    Entry& entry = entries_[hash_bytes(word) & (kEntries - 1)];
    if (entry.word_size == word.size() && std::memcmp(entry.word, word.data(), word.size()) == 0) {
      // Copying all six and cutting back is cheaper than a loop of unknown length.
      const size_t before = ids.size();
      ids.insert(ids.end(), entry.ids, entry.ids + kTokens);
      ids.resize(before + entry.token_count);
      return;
    }
    const size_t before = ids.size();
    model.tokenize(word, scratch, ids);
    const size_t count = ids.size() - before;
    if (count > kTokens) return;
    entry.word_size = static_cast<uint8_t>(word.size());
    entry.token_count = static_cast<uint8_t>(count);
    std::memcpy(entry.word, word.data(), word.size());
    std::copy(ids.end() - static_cast<std::ptrdiff_t>(count), ids.end(), entry.ids);
  }

 private:
  static constexpr size_t kEntries = 1 << 14;
  static constexpr size_t kTokens = 6;
  static constexpr size_t kWordBytes = 38;
  struct alignas(64) Entry {
    int32_t ids[kTokens] = {};
    uint8_t word_size = 255;  // more than kWordBytes: empty
    uint8_t token_count = 0;
    char word[kWordBytes] = {};
  };
  static_assert(sizeof(Entry) == 64);
  std::vector<Entry> entries_ = std::vector<Entry>(kEntries);
};

}  // namespace msplora::detail
