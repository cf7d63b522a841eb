#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "msplora/tokenizers/tokenizer.h"
#include "tokenizers/added_tokens.h"
#include "tokenizers/character_index.h"
#include "tokenizers/decoders.h"
#include "tokenizers/model.h"
#include "tokenizers/normalizers.h"
#include "tokenizers/post_processors.h"
#include "tokenizers/pre_tokenizers.h"
#include "tokenizers/tokenizer_files.h"
#include "tokenizers/truncation.h"

namespace msplora {
namespace detail {

/// Tokens of one text; the ranges, bytes of the text, only where they are asked for.
struct TokenizedText {
  std::string_view text;
  std::vector<int32_t> ids;
  std::vector<Piece> ranges;
};

/// Working memory of one thread.
struct TokenizerScratch {
  WordCache cache;
  ModelScratch model;
  PieceBuffer pieces;
  std::string valid;
  std::string normalized;
  std::string spare;
  TracedText traced, spare_traced;
  std::vector<Piece> token_ranges;
  std::vector<AddedTokenMatcher::Part> outer_parts, inner_parts;
  TokenizedText first, second;
};

struct TokenRoles {
  std::optional<int32_t> pad, mask, unk, cls, sep, bos, eos;
};

}  // namespace detail

struct Tokenizer::Impl {
  using Scratch = detail::TokenizerScratch;

  std::string file;
  detail::TokenizerParts parts;
  detail::PostProcessor post_processor;
  std::optional<detail::Truncation> truncation;
  std::optional<detail::Padding> padding;
  std::vector<detail::AddedToken> added_tokens;
  std::optional<detail::AddedTokenMatcher> raw_matcher, normalized_matcher;
  detail::Vocabulary vocabulary;  // the model's and the added tokens
  std::unordered_set<int32_t> special;
  detail::TokenRoles roles;
  std::function<nlohmann::json()> make_tokenizer;  // tokenizer.json for save(), where none is at hand
  std::vector<std::pair<std::string, std::string>> saved_files;  // names and contents that save() writes

  explicit Impl(detail::TokenizerFiles files);

  Encoding encode(const TextPair& text, const EncodeOptions& options, Scratch& scratch) const;
  std::vector<Encoding> encode_windows(const TextPair& text, const EncodeOptions& options,
                                       Scratch& scratch) const;
  void pad(Encoding& encoding, size_t length) const;
  size_t padded_length(size_t longest) const;
  std::string decode(const std::vector<int32_t>& ids, bool skip_special_tokens) const;
  /// The token of `id` into a stage of the decoder.
  void pass_on(int32_t id, bool skip_special_tokens, detail::TextSink& stage) const;

  // Scratch memory is kept between calls, so that encoding one text at a time finds its words cached.
  std::unique_ptr<Scratch> take_scratch() const;
  void give_back(std::unique_ptr<Scratch> scratch) const;

 private:
  /// How many tokens of each text stay, and how the rest is laid out.
  struct Fit {
    detail::Lengths kept;
    size_t stride = 0;
    bool from_left = false;
  };

  /// Of both texts.
  struct Characters {
    detail::LazyCharacterIndex first, second;
  };

  void read_vocabulary(const detail::JsonView& document);
  void find_roles(const detail::TokenizerFiles& files);
  /// Both texts into scratch.first and scratch.second.
  void read(const TextPair& text, const EncodeOptions& options, Scratch& scratch) const;
  void tokenize(std::string_view text, Scratch& scratch, detail::TokenizedText& result) const;
  void tokenize_normalized(std::string_view text, bool at_start, Scratch& scratch,
                           std::vector<int32_t>& ids) const;
  void tokenize_traced(std::string_view text, Scratch& scratch, detail::TokenizedText& result) const;
  void tokenize_traced_part(detail::Piece part, Scratch& scratch, detail::TokenizedText& result) const;
  Fit fit(const Scratch& scratch, bool is_pair, const EncodeOptions& options) const;
  Encoding assemble(const Scratch& scratch, bool is_pair, detail::Piece first, detail::Piece second,
                    const EncodeOptions& options, Characters& characters) const;
  void append_offsets(const detail::TokenizedText& text, detail::Piece window, OffsetUnit unit,
                      detail::LazyCharacterIndex& characters, std::vector<TextSpan>& offsets) const;

  mutable std::mutex scratch_mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> free_scratch_;
};

}  // namespace msplora
