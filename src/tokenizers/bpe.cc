#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/dump_json.h"

#include "tokenizers/bpe_merges.h"
#include "tokenizers/model.h"
#include "tokenizers/unicode.h"
#include "tokenizers/word_starts.h"

namespace msplora::detail {
namespace {

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
  Bpe(Vocabulary vocabulary, BpeMerges merges, BpeOptions options, WordStarts starts)
      : Model(std::move(vocabulary)),
        merges_(std::move(merges)),
        options_(std::move(options)),
        starts_(std::move(starts)) {
    plain_ = options_.continuing_prefix.empty() && options_.word_suffix.empty();
    std::string text;
    for (char32_t c = 0; c < characters_.size(); ++c) {
      text.clear();
      append_utf8(text, c);
      characters_[c] = vocabulary_.table().find(text);
    }
    bytes_ = byte_pieces(vocabulary_);
  }

  void tokenize(std::string_view word, ModelScratch& scratch, std::vector<int32_t>& ids,
                std::vector<Piece>* ranges) const override {
    if (word.empty()) return;
    if (options_.ignore_merges) {
      const int32_t id = vocabulary_.table().find(word);
      if (id != StringTable::kNone) {
        ids.push_back(id);
        if (ranges) ranges->push_back({0, word.size()});
        return;
      }
    }
    scratch.sizes.clear();
    if (ranges)
      read_symbols<true>(word, scratch);
    else
      read_symbols<false>(word, scratch);
    merges_.apply(scratch);
    ids.insert(ids.end(), scratch.symbols.begin(), scratch.symbols.end());
    if (!ranges) return;
    size_t at = 0;
    for (const uint32_t size : scratch.sizes) {
      ranges->push_back({at, at + size});
      at += size;
    }
  }

  size_t next_cut(std::string_view piece, size_t from) const override { return starts_.next(piece, from); }

  std::optional<std::string> unk_token() const override {
    return options_.unk_id ? std::optional(options_.unk_token) : std::nullopt;
  }

 private:
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

  template <bool kSizes>
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
    for (const char byte : text) {
      scratch.symbols.push_back(id_of(byte));
      if constexpr (kSizes) scratch.sizes.push_back(1);
    }
    return true;
  }

  // The characters of the word as ids; unknown ones become bytes, the unknown token, or vanish when there is
  // none.
  template <bool kSizes>
  void read_symbols(std::string_view word, ModelScratch& scratch) const {
    scratch.symbols.clear();
    uint32_t unknown = 0;  // bytes of unknown text that waits for its token
    const auto flush_unknown = [&] {
      if (unknown == 0) return;
      scratch.symbols.push_back(*options_.unk_id);
      if constexpr (kSizes) scratch.sizes.push_back(unknown);
      unknown = 0;
    };
    for (size_t at = 0; at < word.size();) {
      const size_t size = std::min(utf8_length(word[at]), word.size() - at);
      const std::string_view character = word.substr(at, size);
      const bool first = at == 0;
      at += size;
      const bool last = at == word.size();
      const int32_t id = symbol(character, first, last, scratch.text);
      if (id != StringTable::kNone) {
        flush_unknown();
        scratch.symbols.push_back(id);
        if constexpr (kSizes) scratch.sizes.push_back(static_cast<uint32_t>(size));
        continue;
      }
      // As in the reference, bytes do not end a pending unknown token.
      if (options_.byte_fallback && fall_back_to_bytes<kSizes>(character, first, last, scratch)) continue;
      if (!options_.unk_id) continue;
      if (!options_.fuse_unk) flush_unknown();
      unknown += static_cast<uint32_t>(size);
    }
    flush_unknown();
  }

  BpeMerges merges_;
  BpeOptions options_;
  WordStarts starts_;
  bool plain_ = true;
  std::array<int32_t, 0x800> characters_{};  // ids of the characters of one or two bytes
  std::array<int32_t, 256> bytes_{};
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
              dump_json(node));
}

BpeMerges read_merges(const JsonView& json, const Vocabulary& vocabulary, const std::string& prefix,
                      WordStarts& starts) {
  const auto& node = json.node();
  if (!node.is_array()) json.fail(std::string("expected an array, found ") + node.type_name());
  BpeMerges table(node.size());
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
    table.set(left, right, static_cast<uint32_t>(i), merged);
    starts.add_merge(rule.left, rule.right);
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
  WordStarts starts;
  BpeMerges merges = read_merges(json.at("merges"), vocabulary, options.continuing_prefix, starts);
  const bool has_parts = options.continuing_prefix.empty() && options.word_suffix.empty();
  if (!has_parts || options.ignore_merges || !vocabulary.find(kWordStart)) starts.disable();
  return std::make_unique<Bpe>(std::move(vocabulary), std::move(merges), std::move(options),
                               std::move(starts));
}

std::unique_ptr<const Model> make_ranked_bpe(Vocabulary vocabulary) {
  BpeMerges merges(4 * vocabulary.size());
  for (size_t i = 0; i < vocabulary.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    if (!vocabulary.has(id)) continue;
    const std::string_view token = vocabulary.token(id);
    for (size_t at = utf8_length(token[0]); at < token.size(); at += utf8_length(token[at])) {
      const int32_t left = vocabulary.table().find(token.substr(0, at));
      if (left == StringTable::kNone) continue;
      const int32_t right = vocabulary.table().find(token.substr(at));
      if (right != StringTable::kNone) merges.set(left, right, static_cast<uint32_t>(i), id);
    }
  }
  BpeOptions options;
  options.ignore_merges = true;
  WordStarts starts;
  starts.disable();
  return std::make_unique<Bpe>(std::move(vocabulary), std::move(merges), std::move(options),
                               std::move(starts));
}

}  // namespace msplora::detail
