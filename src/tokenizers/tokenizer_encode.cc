#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/error.h"
#include "tokenizers/character_index.h"
#include "tokenizers/tokenizer_impl.h"
#include "tokenizers/unicode.h"

namespace msplora {
using detail::CharacterIndex;
using detail::LazyCharacterIndex;
using detail::Lengths;
using detail::Piece;
using detail::TokenizedText;

namespace {

// The parts that a text of `length` tokens is cut into when `kept` of them fit.
std::vector<Piece> window_ranges(size_t length, size_t kept, size_t stride, bool from_left) {
  if (kept >= length) return {{0, length}};
  std::vector<Piece> ranges = {from_left ? Piece{length - kept, length} : Piece{0, kept}};
  if (kept == 0) {
    ranges.push_back({0, length});
    return ranges;
  }
  const size_t step = kept - stride;
  while (from_left ? ranges.back().begin > 0 : ranges.back().end < length) {
    if (from_left) {
      const size_t end = ranges.back().end - step;
      ranges.push_back({end - std::min(end, kept), end});
    } else {
      const size_t begin = ranges.back().begin + step;
      ranges.push_back({begin, std::min(begin + kept, length)});
    }
  }
  return ranges;
}

// Origins of a text whose damaged parts were replaced: which bytes of `text` each byte of `valid` stands for.
std::vector<Piece> repaired_origins(std::string_view text, std::string_view valid) {
  const CharacterIndex from(text);
  std::vector<Piece> origins;
  size_t character = 0;
  for (size_t at = 0; at < valid.size(); ++character) {
    const size_t size = detail::utf8_length(valid[at]);
    origins.resize(at + size, {from.byte(character), from.byte(character + 1)});
    at += size;
  }
  return origins;
}

}  // namespace

void Tokenizer::Impl::tokenize_normalized(std::string_view text, bool at_start, Scratch& scratch,
                                          std::vector<int32_t>& ids) const {
  auto& pieces = scratch.pieces;
  pieces.text.assign(text);
  pieces.origins.clear();
  pieces.at_start = at_start;
  pieces.pieces.assign(1, {0, text.size()});
  if (parts.pre_tokenizer) parts.pre_tokenizer->apply(pieces);
  for (const auto& piece : pieces.pieces) {
    std::string_view rest = pieces.view(piece);
    // Long pieces are words in a row for some models.
    while (rest.size() > detail::WordCache::kWordBytes) {
      const size_t cut = parts.model->next_cut(rest, 0);
      scratch.cache.tokenize(*parts.model, rest.substr(0, cut), scratch.model, ids);
      rest.remove_prefix(cut);
    }
    if (!rest.empty()) scratch.cache.tokenize(*parts.model, rest, scratch.model, ids);
  }
}

void Tokenizer::Impl::tokenize(std::string_view text, Scratch& scratch, TokenizedText& result) const {
  result.text = text;
  result.ids.clear();
  result.ranges.clear();
  const bool any_bytes = parts.normalizer && parts.normalizer->reads_any_bytes();
  const std::string_view valid = any_bytes ? text : detail::valid_utf8(text, scratch.valid);
  scratch.outer_parts.clear();
  raw_matcher->split(valid, scratch.outer_parts);
  for (const auto& outer : scratch.outer_parts) {
    if (outer.id != detail::AddedTokenMatcher::kText) {
      result.ids.push_back(outer.id);
      continue;
    }
    scratch.normalized.assign(valid.substr(outer.begin, outer.end - outer.begin));
    if (parts.normalizer) parts.normalizer->apply(scratch.normalized, scratch.spare);
    scratch.inner_parts.clear();
    normalized_matcher->split(scratch.normalized, scratch.inner_parts);
    for (const auto& inner : scratch.inner_parts) {
      if (inner.id != detail::AddedTokenMatcher::kText) {
        result.ids.push_back(inner.id);
        continue;
      }
      const auto part = std::string_view(scratch.normalized).substr(inner.begin, inner.end - inner.begin);
      tokenize_normalized(part, outer.begin == 0 && inner.begin == 0, scratch, result.ids);
    }
  }
}

// tokenize(), and where every token comes from: the same steps, with texts that know it.
void Tokenizer::Impl::tokenize_traced(std::string_view text, Scratch& scratch, TokenizedText& result) const {
  result.text = text;
  result.ids.clear();
  result.ranges.clear();
  const bool any_bytes = parts.normalizer && parts.normalizer->reads_any_bytes();
  const std::string_view valid = any_bytes ? text : detail::valid_utf8(text, scratch.valid);
  std::vector<detail::AddedTokenMatcher::Part> outer_parts;
  raw_matcher->split(valid, outer_parts);
  for (const auto& outer : outer_parts) {
    if (outer.id != detail::AddedTokenMatcher::kText) {
      result.ids.push_back(outer.id);
      result.ranges.push_back({outer.begin, outer.end});
      continue;
    }
    auto& traced = scratch.traced;
    traced.text.assign(valid.substr(outer.begin, outer.end - outer.begin));
    traced.base = outer.begin;
    traced.end = outer.end;
    traced.origins.clear();
    for (size_t at = 0; at < traced.text.size();) {
      const size_t size = any_bytes ? 1 : detail::utf8_length(traced.text[at]);
      traced.origins.resize(at + size, {outer.begin + at, outer.begin + at + size});
      at += size;
    }
    if (parts.normalizer) parts.normalizer->trace(traced, scratch.spare_traced);
    scratch.inner_parts.clear();
    normalized_matcher->split(traced.text, scratch.inner_parts);
    for (const auto& inner : scratch.inner_parts) {
      if (inner.id == detail::AddedTokenMatcher::kText) {
        tokenize_traced_part({inner.begin, inner.end}, scratch, result);
        continue;
      }
      result.ids.push_back(inner.id);
      result.ranges.push_back({traced.origins[inner.begin].begin, traced.origins[inner.end - 1].end});
    }
  }
  if (valid.data() == text.data()) return;
  const std::vector<Piece> origins = repaired_origins(text, valid);
  const auto at = [&](size_t byte) { return byte < origins.size() ? origins[byte].begin : text.size(); };
  for (Piece& range : result.ranges) range = {at(range.begin), at(range.end)};
}

void Tokenizer::Impl::tokenize_traced_part(Piece part, Scratch& scratch, TokenizedText& result) const {
  const auto& traced = scratch.traced;
  auto& pieces = scratch.pieces;
  pieces.text.assign(traced.text, part.begin, part.end - part.begin);
  pieces.origins.assign(traced.origins.begin() + static_cast<std::ptrdiff_t>(part.begin),
                        traced.origins.begin() + static_cast<std::ptrdiff_t>(part.end));
  pieces.at_start = traced.base == 0 && part.begin == 0;
  pieces.pieces.assign(1, {0, pieces.text.size()});
  if (parts.pre_tokenizer) parts.pre_tokenizer->apply(pieces);
  const bool any_bytes = parts.normalizer && parts.normalizer->reads_any_bytes();
  const auto& origins = pieces.origins;
  // SentencePiece's tokens end where the next byte begins, others where their last byte ends.
  const auto range_of = [&](size_t begin, size_t end) -> Piece {
    if (!any_bytes) return {origins[begin].begin, origins[end - 1].end};
    const auto at = [&](size_t byte) { return byte < origins.size() ? origins[byte].begin : traced.end; };
    return {at(begin), at(end)};
  };
  for (const auto& piece : pieces.pieces) {
    if (piece.begin >= piece.end) continue;
    scratch.token_ranges.clear();
    parts.model->tokenize(pieces.view(piece), scratch.model, result.ids, &scratch.token_ranges);
    for (const Piece& range : scratch.token_ranges) {
      const size_t begin = std::min(piece.begin + range.begin, piece.end - 1);
      const size_t end = std::min(piece.begin + range.end, piece.end);
      result.ranges.push_back(range_of(begin, any_bytes ? end : std::max(end, begin + 1)));
    }
  }
}

Tokenizer::Impl::Fit Tokenizer::Impl::fit(const Scratch& scratch, bool is_pair,
                                          const EncodeOptions& options) const {
  Fit result;
  const Lengths lengths{scratch.first.ids.size(), scratch.second.ids.size()};
  result.kept = lengths;
  const auto* stored = options.use_file_settings && truncation ? &*truncation : nullptr;
  if (options.max_length == 0 && !stored) return result;
  const size_t limit = options.max_length > 0 ? options.max_length : stored->max_length;
  const size_t added = options.add_special_tokens ? post_processor.added(is_pair) : 0;
  if (limit < added) {
    throw Error(ErrorCode::kUsage, file,
                "max_length " + std::to_string(limit) + " is smaller than the " + std::to_string(added) +
                    " special tokens around " + (is_pair ? "a pair" : "a text"),
                "use a max_length above " + std::to_string(added));
  }
  result.from_left = stored ? stored->from_left : options.truncate_left;
  const bool own_stride = options.max_length > 0;
  result.stride = own_stride ? options.stride : stored->stride;
  result.kept = detail::truncated_lengths(lengths, is_pair, limit - added,
                                          stored ? stored->strategy : options.truncation);
  const size_t around_one = options.add_special_tokens ? post_processor.added(false) : 0;
  detail::check_stride(result.stride, lengths, result.kept, limit - std::min(limit, around_one),
                       own_stride ? "stride" : file + ": truncation.stride");
  return result;
}

void Tokenizer::Impl::append_offsets(const TokenizedText& text, Piece window, OffsetUnit unit,
                                     LazyCharacterIndex& characters, std::vector<TextSpan>& offsets) const {
  for (size_t i = window.begin; i < window.end; ++i) {
    TextSpan span{text.ranges[i].begin, text.ranges[i].end};
    if (post_processor.trims_offsets || unit == OffsetUnit::kCharacters) {
      const CharacterIndex& index = *characters;
      span = {index.character(span.begin), index.character(span.end)};
      if (post_processor.trims_offsets)
        post_processor.trim(vocabulary.token(text.ids[i]), i == window.begin, span);
      if (unit == OffsetUnit::kBytes) span = {index.byte(span.begin), index.byte(span.end)};
    }
    offsets.push_back(span);
  }
}

Encoding Tokenizer::Impl::assemble(const Scratch& scratch, bool is_pair, Piece first, Piece second,
                                   const EncodeOptions& options, Characters& characters) const {
  Encoding result;
  const size_t kept = first.end - first.begin + second.end - second.begin;
  result.dropped_tokens = scratch.first.ids.size() + scratch.second.ids.size() - kept;
  const size_t expected = kept + post_processor.added(is_pair);
  result.ids.reserve(expected);
  result.type_ids.reserve(expected);
  const bool offsets = options.offsets != OffsetUnit::kNone;
  const auto append = [&](const std::vector<int32_t>& ids, Piece range, int32_t type_id) {
    result.ids.insert(result.ids.end(), ids.begin() + static_cast<std::ptrdiff_t>(range.begin),
                      ids.begin() + static_cast<std::ptrdiff_t>(range.end));
    result.type_ids.resize(result.ids.size(), type_id);
  };
  for (const auto& item : is_pair ? post_processor.pair : post_processor.single) {
    if (item.kind == detail::PostProcessor::Kind::kSpecial) {
      if (!options.add_special_tokens) continue;
      append(item.ids, {0, item.ids.size()}, item.type_id);
      if (offsets) result.offsets.resize(result.ids.size());
      continue;
    }
    const bool is_first = item.kind == detail::PostProcessor::Kind::kFirst;
    const TokenizedText& text = is_first ? scratch.first : scratch.second;
    append(text.ids, is_first ? first : second, item.type_id);
    if (!offsets) continue;
    append_offsets(text, is_first ? first : second, options.offsets,
                   is_first ? characters.first : characters.second, result.offsets);
  }
  return result;
}

void Tokenizer::Impl::read(const TextPair& text, const EncodeOptions& options, Scratch& scratch) const {
  const auto read_one = [&](std::string_view one, TokenizedText& result) {
    const bool needs_origins =
        parts.normalizer && parts.pre_tokenizer && parts.pre_tokenizer->needs_origins();
    const bool traced = options.offsets != OffsetUnit::kNone || needs_origins;
    traced ? tokenize_traced(one, scratch, result) : tokenize(one, scratch, result);
  };
  read_one(text.text, scratch.first);
  scratch.second.ids.clear();
  scratch.second.ranges.clear();
  if (text.pair) read_one(*text.pair, scratch.second);
}

Encoding Tokenizer::Impl::encode(const TextPair& text, const EncodeOptions& options, Scratch& scratch) const {
  read(text, options, scratch);
  const Fit fitted = fit(scratch, text.pair.has_value(), options);
  Characters characters{LazyCharacterIndex(scratch.first.text), LazyCharacterIndex(scratch.second.text)};
  const auto range = [&](const TokenizedText& one, size_t kept) -> Piece {
    return {fitted.from_left ? one.ids.size() - kept : 0, fitted.from_left ? one.ids.size() : kept};
  };
  return assemble(scratch, text.pair.has_value(), range(scratch.first, fitted.kept.first),
                  range(scratch.second, fitted.kept.second), options, characters);
}

std::vector<Encoding> Tokenizer::Impl::encode_windows(const TextPair& text, const EncodeOptions& options,
                                                      Scratch& scratch) const {
  read(text, options, scratch);
  const bool is_pair = text.pair.has_value();
  const Fit fitted = fit(scratch, is_pair, options);
  const auto ranges = [&](const TokenizedText& one, size_t kept) {
    return window_ranges(one.ids.size(), kept, fitted.stride, fitted.from_left);
  };
  const auto first = ranges(scratch.first, fitted.kept.first);
  const auto second = ranges(scratch.second, fitted.kept.second);
  Characters characters{LazyCharacterIndex(scratch.first.text), LazyCharacterIndex(scratch.second.text)};
  std::vector<Encoding> results;
  const auto add = [&](Piece a, Piece b) {
    results.push_back(assemble(scratch, is_pair, a, b, options, characters));
  };
  // In Hugging Face's order: the further windows of the first text come before those of the second.
  add(first[0], second[0]);
  for (size_t i = 1; i < first.size(); ++i) {
    for (const Piece& other : second) add(first[i], other);
  }
  for (size_t j = 1; j < second.size(); ++j) add(first[0], second[j]);
  return results;
}

size_t Tokenizer::Impl::padded_length(size_t longest) const {
  const size_t length = padding->fixed.value_or(longest);
  const size_t multiple = padding->multiple_of.value_or(1);
  return (length + multiple - 1) / multiple * multiple;
}

void Tokenizer::Impl::pad(Encoding& encoding, size_t length) const {
  if (encoding.ids.size() >= length) return;
  encoding.padding_tokens = length - encoding.ids.size();
  const auto fill = [&](auto& values, auto value) {
    values.insert(padding->on_left ? values.begin() : values.end(), encoding.padding_tokens, value);
  };
  const bool offsets = encoding.offsets.size() == encoding.ids.size() && !encoding.offsets.empty();
  fill(encoding.ids, padding->id);
  fill(encoding.type_ids, padding->type_id);
  if (offsets) fill(encoding.offsets, TextSpan{});
}

}  // namespace msplora
