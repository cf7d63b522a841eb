#include "msplora/data/text_corpus.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "msplora/core/error.h"

namespace msplora {

std::string TextCorpusSummary::text() const {
  std::string line = fmt::format("{} lines, {} sequences, {} tokens", lines, sequences, tokens);
  if (split_lines > 0) line += fmt::format("; {} long lines were split", split_lines);
  if (unusable_lines > 0)
    line += fmt::format("; {} lines without usable tokens were left out", unusable_lines);
  if (const std::string note = unknown.note(); !note.empty()) line += "; " + note;
  return line;
}

TextCorpus::TextCorpus(TextFrame frame) : frame_(std::move(frame)) {
  const auto& special = frame_.special;
  if (std::find(special.begin(), special.end(), uint8_t{0}) == special.end())
    throw Error(ErrorCode::kUsage, "TextCorpus", "the vocabulary has no ordinary tokens");
  narrow_ = special.size() <= size_t{std::numeric_limits<uint16_t>::max()} + 1;
}

void TextCorpus::add_line(std::span<const int32_t> ids, int64_t max_length) {
  std::vector<int32_t> framed;
  if (frame_.around_lines && !ids.empty()) {
    for (const auto part :
         {std::span<const int32_t>(frame_.prefix), ids, std::span<const int32_t>(frame_.suffix)})
      framed.insert(framed.end(), part.begin(), part.end());
    ids = framed;
  }
  const auto added = static_cast<int64_t>(frame_.added_tokens());
  if (max_length <= added) {
    throw Error(ErrorCode::kUsage, "TextCorpus",
                fmt::format("a length of {} leaves no room beside {} special tokens", max_length, added));
  }
  for (const int32_t id : ids) {
    if (id < 0 || id >= frame_.vocab_size()) {
      throw Error(ErrorCode::kUsage, "TextCorpus",
                  fmt::format("token {} is outside the vocabulary of {}", id, frame_.vocab_size()));
    }
  }
  ++summary_.lines;
  const auto room = static_cast<size_t>(max_length - added);
  const size_t pieces = (ids.size() + room - 1) / room;
  if (pieces > 1) ++summary_.split_lines;
  const size_t before = size();
  for (size_t piece = 0; piece < pieces; ++piece) {
    const size_t begin = ids.size() * piece / pieces, end = ids.size() * (piece + 1) / pieces;
    append_piece(ids.subspan(begin, end - begin));
  }
  if (size() == before) ++summary_.unusable_lines;
}

void TextCorpus::append_piece(std::span<const int32_t> ids) {
  const auto ordinary = [this](int32_t id) { return frame_.special[static_cast<size_t>(id)] == 0; };
  if (std::none_of(ids.begin(), ids.end(), ordinary)) return;
  if (narrow_) {
    for (const int32_t id : ids) ids16_.push_back(static_cast<uint16_t>(id));
  } else {
    ids32_.insert(ids32_.end(), ids.begin(), ids.end());
  }
  offsets_.push_back(offsets_.back() + ids.size());
  ++summary_.sequences;
  summary_.tokens += static_cast<int64_t>(ids.size() + frame_.added_tokens());
}

uint32_t TextCorpus::length(size_t index) const {
  return static_cast<uint32_t>(offsets_.at(index + 1) - offsets_.at(index) + frame_.added_tokens());
}

std::vector<uint32_t> TextCorpus::lengths() const {
  std::vector<uint32_t> lengths(size());
  for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = length(i);
  return lengths;
}

std::vector<int32_t> TextCorpus::sequence(size_t index) const {
  if (index >= size()) {
    throw Error(ErrorCode::kUsage, "TextCorpus",
                fmt::format("sequence {} of {} does not exist", index, size()));
  }
  std::vector<int32_t> ids;
  ids.reserve(length(index));
  const bool is_framed = !frame_.around_lines;
  if (is_framed) ids.insert(ids.end(), frame_.prefix.begin(), frame_.prefix.end());
  for (uint64_t i = offsets_[index]; i < offsets_[index + 1]; ++i)
    ids.push_back(narrow_ ? static_cast<int32_t>(ids16_[i]) : ids32_[i]);
  if (is_framed) ids.insert(ids.end(), frame_.suffix.begin(), frame_.suffix.end());
  return ids;
}

Examples all_of(const TextCorpus& corpus) {
  Examples all;
  all.size = corpus.size();
  all.length = [&corpus](size_t index) { return corpus.length(index); };
  all.get = [&corpus](size_t index) { return TokenizedExample{corpus.sequence(index), {}}; };
  all.where = [](size_t index) { return fmt::format("sequence {} of the text", index + 1); };
  all.is_labelled = false;
  return all;
}

}  // namespace msplora
