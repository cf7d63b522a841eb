#include "tokenizers/sentencepiece.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizers/bpe_merges.h"
#include "tokenizers/byte_trie.h"
#include "tokenizers/unicode.h"
#include "tokenizers/unigram_lattice.h"
#include "tokenizers/word_starts.h"

namespace msplora::detail {
namespace {

using Type = SentencePieceFile::Type;

Vocabulary make_vocabulary(const SentencePieceFile& file) {
  Vocabulary vocabulary;
  for (size_t i = 0; i < file.pieces.size(); ++i)
    vocabulary.set(file.pieces[i].text, static_cast<int32_t>(i));
  return vocabulary;
}

// What both kinds of model do with text that no piece stands for.
class SentencePieceModel : public Model {
 public:
  std::optional<std::string> unk_token() const override { return vocabulary_.token(unk_id_); }

 protected:
  explicit SentencePieceModel(const SentencePieceFile& file)
      : Model(make_vocabulary(file)), unk_id_(file.unk_id), byte_fallback_(file.byte_fallback) {
    if (byte_fallback_) bytes_ = byte_pieces(vocabulary_);
  }

  // Appends the bytes of the character [begin, end) of `text`, or the unknown id once for a run of them. All
  // bytes but the last are empty ranges.
  void add_unknown(std::string_view text, Piece range, bool after_unknown, std::vector<int32_t>& ids,
                   std::vector<Piece>* ranges) const {
    if (byte_fallback_) {
      for (size_t i = range.begin; i < range.end; ++i) {
        ids.push_back(bytes_[static_cast<unsigned char>(text[i])]);
        if (ranges) ranges->push_back({range.begin, i + 1 == range.end ? range.end : range.begin});
      }
    } else if (!after_unknown) {
      ids.push_back(unk_id_);
      if (ranges) ranges->push_back(range);
    } else if (ranges) {
      ranges->back().end = range.end;
    }
  }

  int32_t unk_id_;
  bool byte_fallback_;
  std::array<int32_t, 256> bytes_{};
};

std::vector<bool> usable_pieces(const SentencePieceFile& file) {
  std::vector<bool> usable;
  for (const auto& piece : file.pieces)
    usable.push_back(piece.type == Type::kNormal || piece.type == Type::kUserDefined);
  return usable;
}

std::vector<double> piece_scores(const SentencePieceFile& file) {
  std::vector<double> scores;
  for (const auto& piece : file.pieces) scores.push_back(piece.score);
  return scores;
}

// Sums in float32. User-defined pieces have no precedence here, only their score.
class SentencePieceUnigram : public SentencePieceModel {
 public:
  explicit SentencePieceUnigram(const SentencePieceFile& file)
      : SentencePieceModel(file), lattice_(vocabulary_, piece_scores(file), usable_pieces(file), unk_id_) {}

  void tokenize(std::string_view text, ModelScratch& scratch, std::vector<int32_t>& ids,
                std::vector<Piece>* ranges) const override {
    lattice_.find_path(text, scratch);
    for (const auto& part : scratch.path) {
      if (part.id != unk_id_) {
        ids.push_back(part.id);
        if (ranges) ranges->push_back({part.begin, part.end});
        continue;
      }
      for (size_t at = part.begin; at < part.end;) {
        const size_t size = std::min(utf8_length(text[at]), part.end - at);
        add_unknown(text, {at, at + size}, at > part.begin, ids, ranges);
        at += size;
      }
    }
  }

 private:
  UnigramLattice<float> lattice_;
};

// Joins the neighbours whose result has the highest score, leftmost first. Only what is joined may be unused:
// it is taken apart again at the end.
class SentencePieceBpe : public SentencePieceModel {
 public:
  explicit SentencePieceBpe(const SentencePieceFile& file)
      : SentencePieceModel(file),
        user_defined_(pieces_of(file, Type::kUserDefined)),
        merges_(file.pieces.size()) {
    for (const auto& piece : file.pieces) types_.push_back(piece.type);
    has_user_defined_ = !pieces_of(file, Type::kUserDefined).empty();
    add_merges(file);
    const auto start = vocabulary_.find(kWordStart);
    if (!start || types_[static_cast<size_t>(*start)] != Type::kNormal) starts_.disable();
    for (const auto& [piece, id] : pieces_of(file, Type::kUserDefined)) {
      if (piece.find(kWordStart) != std::string_view::npos && starts_.next(piece, 0) < piece.size())
        starts_.disable();
    }
  }

  void tokenize(std::string_view text, ModelScratch& scratch, std::vector<int32_t>& ids,
                std::vector<Piece>* ranges) const override {
    read_symbols(text, scratch);
    merges_.apply(scratch);
    size_t at = 0;
    bool after_unknown = false;
    for (size_t i = 0; i < scratch.symbols.size(); ++i) {
      const size_t end = at + scratch.sizes[i];
      const int32_t symbol = scratch.symbols[i];
      if (is_piece(symbol)) {
        ids.push_back(symbol);
        if (ranges) ranges->push_back({at, end});
        after_unknown = false;
      } else if (count_code_points(text.substr(at, end - at)) > 1 && type_of(symbol) == Type::kUnused) {
        after_unknown = take_apart(text, {at, end}, after_unknown, ids, ranges);
      } else {
        add_unknown(text, {at, end}, after_unknown, ids, ranges);
        after_unknown = true;
      }
      at = end;
    }
  }

  size_t next_cut(std::string_view piece, size_t from) const override { return starts_.next(piece, from); }

 private:
  using Pieces = std::vector<std::pair<std::string_view, int32_t>>;
  static constexpr int32_t kUnknownCharacter = -1;

  static Pieces pieces_of(const SentencePieceFile& file, Type type) {
    Pieces result;
    for (size_t i = 0; i < file.pieces.size(); ++i) {
      if (file.pieces[i].type == type) result.emplace_back(file.pieces[i].text, static_cast<int32_t>(i));
    }
    return result;
  }

  Type type_of(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < types_.size() ? types_[static_cast<size_t>(id)]
                                                              : Type::kUnknown;
  }
  bool is_piece(int32_t id) const {
    return type_of(id) == Type::kNormal || type_of(id) == Type::kUserDefined;
  }

  // The symbol that `text` is before or after joining: a piece, or a character that pieces consist of without
  // being one itself, which has a number behind the pieces.
  int32_t symbol_of(std::string_view text) const {
    const int32_t id = vocabulary_.table().find(text);
    if (id != StringTable::kNone && (type_of(id) == Type::kNormal || type_of(id) == Type::kUnused)) return id;
    const auto found = other_characters_.find(text);
    return found == other_characters_.end() ? kUnknownCharacter : found->second;
  }

  void add_merges(const SentencePieceFile& file) {
    std::vector<float> scores;
    for (const auto& piece : file.pieces) scores.push_back(piece.score);
    std::sort(scores.begin(), scores.end(), std::greater<>());
    scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
    for (size_t i = 0; i < file.pieces.size(); ++i) {
      const auto& piece = file.pieces[i];
      if (piece.type != Type::kNormal && piece.type != Type::kUnused) continue;
      const auto rank = static_cast<uint32_t>(
          std::lower_bound(scores.begin(), scores.end(), piece.score, std::greater<>()) - scores.begin());
      const std::string_view text = piece.text;
      for (size_t at = utf8_length(text[0]); at < text.size(); at += utf8_length(text[at])) {
        const int32_t left = part_symbol(text.substr(0, at));
        const int32_t right = part_symbol(text.substr(at));
        if (left == kUnknownCharacter || right == kUnknownCharacter) continue;
        merges_.set(left, right, rank, static_cast<int32_t>(i));
        starts_.add_merge(text.substr(0, at), text.substr(at));
      }
    }
  }

  int32_t part_symbol(std::string_view part) {
    const int32_t known = symbol_of(part);
    if (known != kUnknownCharacter || utf8_length(part[0]) != part.size()) return known;
    const auto number = static_cast<int32_t>(types_.size() + other_characters_.size());
    return other_characters_.emplace(part, number).first->second;
  }

  // User-defined pieces, which never join, and characters.
  void read_symbols(std::string_view text, ModelScratch& scratch) const {
    scratch.symbols.clear();
    scratch.sizes.clear();
    for (size_t at = 0; at < text.size();) {
      size_t size = 0;
      int32_t id = kUnknownCharacter;
      if (has_user_defined_) {
        user_defined_.for_each_prefix(text.substr(at), [&](size_t longest, int32_t piece) {
          size = longest;
          id = piece;
        });
      }
      if (size == 0) {
        size = std::min(utf8_length(text[at]), text.size() - at);
        id = symbol_of(text.substr(at, size));
      }
      scratch.symbols.push_back(id);
      scratch.sizes.push_back(static_cast<uint32_t>(size));
      at += size;
    }
  }

  // Appends the two symbols that an unused one was last joined of, and theirs in turn. What was joined inside
  // of it does not depend on what stands around, so it is joined once more by itself.
  bool take_apart(std::string_view text, Piece range, bool after_unknown, std::vector<int32_t>& ids,
                  std::vector<Piece>* ranges) const {
    std::vector<Piece> parts;
    std::vector<int32_t> symbols;
    for (size_t at = range.begin; at < range.end;) {
      const size_t size = std::min(utf8_length(text[at]), range.end - at);
      parts.push_back({at, at + size});
      symbols.push_back(symbol_of(text.substr(at, size)));
      at += size;
    }
    while (parts.size() > 2) {
      size_t best = 0;
      uint32_t best_rank = merges_.find(symbols[0], symbols[1]).rank;
      for (size_t i = 1; i + 1 < parts.size(); ++i) {
        const uint32_t rank = merges_.find(symbols[i], symbols[i + 1]).rank;
        if (rank < best_rank) {
          best = i;
          best_rank = rank;
        }
      }
      symbols[best] = merges_.find(symbols[best], symbols[best + 1]).merged;
      parts[best].end = parts[best + 1].end;
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      const std::string_view part = text.substr(parts[i].begin, parts[i].end - parts[i].begin);
      if (is_piece(symbols[i])) {
        ids.push_back(symbols[i]);
        if (ranges) ranges->push_back(parts[i]);
        after_unknown = false;
      } else if (type_of(symbols[i]) == Type::kUnused && utf8_length(part[0]) < part.size()) {
        after_unknown = take_apart(text, parts[i], after_unknown, ids, ranges);
      } else {
        add_unknown(text, parts[i], after_unknown, ids, ranges);
        after_unknown = true;
      }
    }
    return after_unknown;
  }

  std::vector<Type> types_;
  std::map<std::string, int32_t, std::less<>> other_characters_;
  ByteTrie user_defined_;
  bool has_user_defined_ = false;
  BpeMerges merges_;
  WordStarts starts_;
};

}  // namespace

std::unique_ptr<const Model> make_sentencepiece_model(const SentencePieceFile& file) {
  if (file.is_bpe) return std::make_unique<SentencePieceBpe>(file);
  return std::make_unique<SentencePieceUnigram>(file);
}

}  // namespace msplora::detail
