#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <queue>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/model.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace {

constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();

// Pairs of ids to (rank, merged id), open addressing.
class MergeTable {
 public:
  explicit MergeTable(size_t count) {
    size_t size = 64;
    while (size < 2 * count) size *= 2;
    slots_.resize(size);
  }

  void set(int32_t left, int32_t right, ModelScratch::Pair pair) {
    Slot& slot = slots_[locate(left, right)];
    slot = {key(left, right), pair};
  }

  ModelScratch::Pair find(int32_t left, int32_t right) const { return slots_[locate(left, right)].pair; }

 private:
  static constexpr uint64_t kEmpty = std::numeric_limits<uint64_t>::max();
  struct Slot {
    uint64_t key = kEmpty;
    ModelScratch::Pair pair{kNoRank, -1};
  };

  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t locate(int32_t left, int32_t right) const {
    const uint64_t wanted = key(left, right);
    const size_t mask = slots_.size() - 1;
    size_t at = mix_hash(0, wanted) & mask;
    while (slots_[at].key != kEmpty && slots_[at].key != wanted) at = (at + 1) & mask;
    return at;
  }

  std::vector<Slot> slots_;
};

struct BpeOptions {
  std::string continuing_prefix;
  std::string word_suffix;
  std::string unk_token;
  std::optional<int32_t> unk_id;
  bool fuse_unk = false;
  bool byte_fallback = false;
  bool ignore_merges = false;
};

class Bpe : public Model {
 public:
  Bpe(Vocabulary vocabulary, MergeTable merges, BpeOptions options)
      : Model(std::move(vocabulary)), merges_(std::move(merges)), options_(std::move(options)) {
    plain_ = options_.continuing_prefix.empty() && options_.word_suffix.empty();
    std::string text;
    for (char32_t c = 0; c < characters_.size(); ++c) {
      text.clear();
      append_utf8(text, c);
      characters_[c] = vocabulary_.table().find(text);
    }
    constexpr const char* kHex = "0123456789ABCDEF";
    for (size_t byte = 0; byte < 256; ++byte) {
      const std::string name = {'<', '0', 'x', kHex[byte / 16], kHex[byte % 16], '>'};
      bytes_[byte] = vocabulary_.table().find(name);
    }
  }

  void tokenize(std::string_view word, ModelScratch& scratch, std::vector<int32_t>& ids) const override {
    if (word.empty()) return;
    if (options_.ignore_merges) {
      const int32_t id = vocabulary_.table().find(word);
      if (id != StringTable::kNone) return ids.push_back(id);
    }
    read_symbols(word, scratch);
    if (scratch.symbols.size() <= kSmallWord)
      merge_small(scratch);
    else
      merge_large(scratch);
    ids.insert(ids.end(), scratch.symbols.begin(), scratch.symbols.end());
  }

  std::optional<std::string> unk_token() const override {
    return options_.unk_id ? std::optional(options_.unk_token) : std::nullopt;
  }

 private:
  // Up to here looking at every pair for every merge beats a heap.
  static constexpr size_t kSmallWord = 48;

  int32_t symbol(std::string_view character, bool first, bool last, std::string& text) const {
    if (plain_ || (first && !last && options_.word_suffix.empty())) {
      if (character.size() <= 2) {
        const char* p = character.data();
        return characters_[next_code_point(p)];
      }
      return vocabulary_.table().find(character);
    }
    text.clear();
    if (!first) text += options_.continuing_prefix;
    text += character;
    if (last) text += options_.word_suffix;
    return vocabulary_.table().find(text);
  }

  bool fall_back_to_bytes(std::string_view character, bool first, bool last, ModelScratch& scratch) const {
    std::string_view text = character;
    if (!plain_) {
      scratch.text.clear();
      if (!first) scratch.text += options_.continuing_prefix;
      scratch.text += character;
      if (last) scratch.text += options_.word_suffix;
      text = scratch.text;
    }
    const auto id_of = [this](char byte) { return bytes_[static_cast<unsigned char>(byte)]; };
    for (const char byte : text) {
      if (id_of(byte) == StringTable::kNone) return false;
    }
    for (const char byte : text) scratch.symbols.push_back(id_of(byte));
    return true;
  }

  // The characters of the word as ids; unknown ones become bytes, the unknown token, or vanish when there is
  // none.
  void read_symbols(std::string_view word, ModelScratch& scratch) const {
    scratch.symbols.clear();
    bool unknown_pending = false;
    for (size_t at = 0; at < word.size();) {
      const size_t size = std::min(utf8_length(word[at]), word.size() - at);
      const std::string_view character = word.substr(at, size);
      const bool first = at == 0;
      at += size;
      const bool last = at == word.size();
      const int32_t id = symbol(character, first, last, scratch.text);
      if (id != StringTable::kNone) {
        if (unknown_pending) scratch.symbols.push_back(*options_.unk_id);
        unknown_pending = false;
        scratch.symbols.push_back(id);
        continue;
      }
      // As in the reference, bytes do not end a pending unknown token.
      if (options_.byte_fallback && fall_back_to_bytes(character, first, last, scratch)) continue;
      if (!options_.unk_id) continue;
      if (unknown_pending && !options_.fuse_unk) scratch.symbols.push_back(*options_.unk_id);
      unknown_pending = true;
    }
    if (unknown_pending) scratch.symbols.push_back(*options_.unk_id);
  }

  // Joins the pair of lowest rank, leftmost first, until no pair can be joined.
  void merge_small(ModelScratch& scratch) const {
    auto& symbols = scratch.symbols;
    auto& pairs = scratch.pairs;
    pairs.clear();
    for (size_t i = 0; i + 1 < symbols.size(); ++i) pairs.push_back(merges_.find(symbols[i], symbols[i + 1]));
    while (!pairs.empty()) {
      size_t best = 0;
      for (size_t i = 1; i < pairs.size(); ++i) {
        if (pairs[i].rank < pairs[best].rank) best = i;
      }
      if (pairs[best].rank == kNoRank) return;
      symbols[best] = pairs[best].merged;
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
      pairs.erase(pairs.begin() + static_cast<std::ptrdiff_t>(best));
      if (best > 0) pairs[best - 1] = merges_.find(symbols[best - 1], symbols[best]);
      if (best < pairs.size()) pairs[best] = merges_.find(symbols[best], symbols[best + 1]);
    }
  }

  // The same in n log n: a heap of candidates over a linked list of symbols.
  void merge_large(ModelScratch& scratch) const {
    auto& symbols = scratch.symbols;
    constexpr int32_t kGone = -1;
    struct Candidate {
      uint32_t rank;
      size_t left, right;
      int32_t left_id, right_id, merged;
      bool operator<(const Candidate& other) const {  // the heap's top is the largest
        return rank != other.rank ? rank > other.rank : left > other.left;
      }
    };
    const size_t count = symbols.size();
    std::vector<size_t> next(count), previous(count);
    std::priority_queue<Candidate> heap;
    const auto consider = [&](size_t left, size_t right) {
      const auto pair = merges_.find(symbols[left], symbols[right]);
      if (pair.rank != kNoRank)
        heap.push({pair.rank, left, right, symbols[left], symbols[right], pair.merged});
    };
    for (size_t i = 0; i < count; ++i) {
      next[i] = i + 1;
      previous[i] = i - 1;
      if (i > 0) consider(i - 1, i);
    }
    while (!heap.empty()) {
      const Candidate top = heap.top();
      heap.pop();
      // A candidate whose symbols changed since is stale; the changed pair has its own.
      if (symbols[top.left] != top.left_id || symbols[top.right] != top.right_id ||
          next[top.left] != top.right) {
        continue;
      }
      symbols[top.left] = top.merged;
      symbols[top.right] = kGone;
      next[top.left] = next[top.right];
      if (next[top.left] < count) {
        previous[next[top.left]] = top.left;
        consider(top.left, next[top.left]);
      }
      if (top.left > 0) consider(previous[top.left], top.left);
    }
    std::erase(symbols, kGone);
  }

  MergeTable merges_;
  BpeOptions options_;
  bool plain_ = true;
  std::array<int32_t, 0x800> characters_{};  // ids of the characters of one or two bytes
  std::array<int32_t, 256> bytes_{};         // ids of <0x00> to <0xFF>
};

struct MergeRule {
  std::string left, right;
};

MergeRule read_merge(const nlohmann::json& node, size_t index, const JsonView& merges) {
  if (node.is_array() && node.size() == 2 && node[0].is_string() && node[1].is_string()) {
    return {node[0].get<std::string>(), node[1].get<std::string>()};
  }
  if (node.is_string()) {
    const auto text = node.get<std::string>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && space > 0 && space + 1 < text.size() &&
        text.find(' ', space + 1) == std::string::npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  }
  merges.fail("entry " + std::to_string(index) + " must be \"left right\" or [\"left\", \"right\"], found " +
              node.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

MergeTable read_merges(const JsonView& json, const Vocabulary& vocabulary, const std::string& prefix) {
  const auto& node = json.node();
  if (!node.is_array()) json.fail(std::string("expected an array, found ") + node.type_name());
  MergeTable table(node.size());
  const auto id_of = [&](const std::string& token, size_t index) {
    const auto id = vocabulary.find(token);
    if (!id)
      json.fail("entry " + std::to_string(index) + " needs \"" + token +
                "\", which is not in the vocabulary");
    return *id;
  };
  for (size_t i = 0; i < node.size(); ++i) {
    const MergeRule rule = read_merge(node[i], i, json);
    const bool has_prefix = !prefix.empty() && rule.right.starts_with(prefix);
    const int32_t left = id_of(rule.left, i);
    const int32_t right = id_of(rule.right, i);
    const int32_t merged = id_of(rule.left + (has_prefix ? rule.right.substr(prefix.size()) : rule.right), i);
    table.set(left, right, {static_cast<uint32_t>(i), merged});
  }
  return table;
}

}  // namespace

std::unique_ptr<const Model> make_bpe(const JsonView& json) {
  Vocabulary vocabulary = read_vocabulary(json.at("vocab"));
  BpeOptions options;
  options.continuing_prefix = json.string_or("continuing_subword_prefix", "");
  options.word_suffix = json.string_or("end_of_word_suffix", "");
  options.fuse_unk = json.boolean_or("fuse_unk", false);
  options.byte_fallback = json.boolean_or("byte_fallback", false);
  options.ignore_merges = json.boolean_or("ignore_merges", false);
  options.unk_token = json.string_or("unk_token", "");
  if (!options.unk_token.empty()) {
    options.unk_id = vocabulary.find(options.unk_token);
    if (!options.unk_id) {
      json.at("unk_token").fail("the unknown token \"" + options.unk_token + "\" is not in the vocabulary");
    }
  }
  MergeTable merges = read_merges(json.at("merges"), vocabulary, options.continuing_prefix);
  return std::make_unique<Bpe>(std::move(vocabulary), std::move(merges), std::move(options));
}

}  // namespace msplora::detail
