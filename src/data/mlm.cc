#include "msplora/data/mlm.h"

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "msplora/core/error.h"
#include "msplora/core/random.h"

namespace msplora {

std::string MlmCorpusSummary::text() const {
  std::string line = fmt::format("{} lines, {} sequences, {} tokens", lines, sequences, tokens);
  if (split_lines > 0) line += fmt::format("; {} long lines were split", split_lines);
  if (unusable_lines > 0)
    line += fmt::format("; {} lines without usable tokens were left out", unusable_lines);
  if (const std::string note = unknown.note(); !note.empty()) line += "; " + note;
  return line;
}

MlmCorpus::MlmCorpus(MlmVocabulary vocabulary) : vocabulary_(std::move(vocabulary)) {
  const auto& special = vocabulary_.special;
  if (vocabulary_.continuation.size() != special.size() ||
      std::find(special.begin(), special.end(), uint8_t{0}) == special.end()) {
    throw Error(ErrorCode::kUsage, "MlmCorpus",
                "the vocabulary has no ordinary tokens, or its tables differ in size");
  }
  narrow_ = special.size() <= size_t{std::numeric_limits<uint16_t>::max()} + 1;
}

void MlmCorpus::add_line(std::span<const int32_t> ids, int64_t max_length) {
  const auto added = static_cast<int64_t>(vocabulary_.added_tokens());
  if (max_length <= added) {
    throw Error(ErrorCode::kUsage, "MlmCorpus",
                fmt::format("a length of {} leaves no room beside {} special tokens", max_length, added));
  }
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocabulary_.size()) {
      throw Error(ErrorCode::kUsage, "MlmCorpus",
                  fmt::format("token {} is outside the vocabulary of {}", id, vocabulary_.size()));
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

void MlmCorpus::append_piece(std::span<const int32_t> ids) {
  const auto ordinary = [this](int32_t id) { return vocabulary_.special[static_cast<size_t>(id)] == 0; };
  if (std::none_of(ids.begin(), ids.end(), ordinary)) return;
  if (narrow_) {
    for (const int32_t id : ids) ids16_.push_back(static_cast<uint16_t>(id));
  } else {
    ids32_.insert(ids32_.end(), ids.begin(), ids.end());
  }
  offsets_.push_back(offsets_.back() + ids.size());
  ++summary_.sequences;
  summary_.tokens += static_cast<int64_t>(ids.size() + vocabulary_.added_tokens());
}

uint32_t MlmCorpus::length(size_t index) const {
  return static_cast<uint32_t>(offsets_.at(index + 1) - offsets_.at(index) + vocabulary_.added_tokens());
}

std::vector<uint32_t> MlmCorpus::lengths() const {
  std::vector<uint32_t> lengths(size());
  for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = length(i);
  return lengths;
}

std::vector<int32_t> MlmCorpus::sequence(size_t index) const {
  if (index >= size()) {
    throw Error(ErrorCode::kUsage, "MlmCorpus",
                fmt::format("sequence {} of {} does not exist", index, size()));
  }
  std::vector<int32_t> ids;
  ids.reserve(length(index));
  ids.insert(ids.end(), vocabulary_.prefix.begin(), vocabulary_.prefix.end());
  for (uint64_t i = offsets_[index]; i < offsets_[index + 1]; ++i)
    ids.push_back(narrow_ ? static_cast<int32_t>(ids16_[i]) : ids32_[i]);
  ids.insert(ids.end(), vocabulary_.suffix.begin(), vocabulary_.suffix.end());
  return ids;
}

namespace {

/// Start of each unit that is chosen as a whole (a token, or the pieces of a word), in [begin, end) pairs.
struct Unit {
  size_t begin;
  size_t end;
};

std::vector<Unit> maskable_units(std::span<const int64_t> ids, const MlmVocabulary& vocabulary,
                                 bool whole_word) {
  std::vector<Unit> units;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto id = static_cast<size_t>(ids[i]);
    if (vocabulary.special[id] != 0) continue;
    const bool joins =
        whole_word && vocabulary.continuation[id] != 0 && !units.empty() && units.back().end == i;
    if (joins) {
      units.back().end = i + 1;
    } else {
      units.push_back({i, i + 1});
    }
  }
  return units;
}

int64_t random_token(const MlmVocabulary& vocabulary, RandomStream& random) {
  for (;;) {
    const uint64_t id = random.below(vocabulary.special.size());
    if (vocabulary.special[id] == 0) return static_cast<int64_t>(id);
  }
}

}  // namespace

void mask_tokens(std::span<int64_t> ids, std::span<int64_t> labels, const MlmVocabulary& vocabulary,
                 const MaskOptions& options, uint64_t epoch, uint64_t example) {
  std::fill(labels.begin(), labels.end(), kIgnoredLabel);
  const std::vector<Unit> units = maskable_units(ids, vocabulary, options.whole_word);
  if (units.empty()) {
    throw Error(ErrorCode::kUsage, "mask_tokens",
                fmt::format("sequence {} has no token that could be masked", example));
  }
  RandomStream random(mix_seed(mix_seed(options.seed, epoch), example), "mlm");
  const bool has_first = vocabulary.special[static_cast<size_t>(ids[0])] != 0;
  if (options.first_token && has_first) labels[0] = ids[units[random.below(units.size())].begin];
  std::vector<Unit> chosen;
  for (const Unit& unit : units) {
    if (random.uniform() < options.probability) chosen.push_back(unit);
  }
  if (chosen.empty()) chosen.push_back(units[random.below(units.size())]);
  for (const auto& [begin, end] : chosen) {
    for (size_t i = begin; i < end; ++i) {
      labels[i] = ids[i];
      const double kind = random.uniform();
      if (kind < 0.8) {
        ids[i] = vocabulary.mask_id;
      } else if (kind < 0.9) {
        ids[i] = random_token(vocabulary, random);
      }
    }
  }
}

Examples all_of(const MlmCorpus& corpus) {
  Examples all;
  all.size = corpus.size();
  all.length = [&corpus](size_t index) { return corpus.length(index); };
  all.get = [&corpus](size_t index) { return TokenizedExample{corpus.sequence(index), {}}; };
  all.where = [](size_t index) { return fmt::format("sequence {} of the text", index + 1); };
  all.is_labelled = false;
  return all;
}

}  // namespace msplora
