#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizers/byte_trie.h"
#include "tokenizers/model.h"
#include "tokenizers/unicode.h"
#include "tokenizers/vocabulary.h"

namespace msplora::detail {

/// Finds the segmentation of highest summed score (Viterbi). Of equal sums the one found first stays, pieces
/// being tried by where they begin and then by their length. `Sum` is the type that scores are added in.
template <class Sum>
class UnigramLattice {
 public:
  /// `scores` by id. `usable` says by id what text may become; empty: everything. A character that no usable
  /// piece is becomes `unk_id`, at ten less than the lowest score of a usable piece.
  UnigramLattice(const Vocabulary& vocabulary, std::vector<double> scores, const std::vector<bool>& usable,
                 std::optional<int32_t> unk_id)
      : trie_(entries(vocabulary, usable)), unk_id_(unk_id) {
    auto lowest = std::numeric_limits<Sum>::infinity();
    for (size_t id = 0; id < scores.size(); ++id) {
      scores_.push_back(static_cast<Sum>(scores[id]));
      if (usable.empty() || usable[id]) lowest = std::min(lowest, scores_.back());
    }
    constexpr Sum kUnknownPenalty = 10;
    unknown_score_ = lowest - kUnknownPenalty;
  }

  /// Fills scratch.path; neighbouring unknown characters are one part of it. The byte where the search is
  /// stuck, when there is no unk_id to go on with.
  std::optional<size_t> find_path(std::string_view text, ModelScratch& scratch) const {
    auto& steps = scratch.steps;
    steps.assign(text.size() + 1, {0.0, 0, kNotReached});
    for (size_t at = 0; at < text.size();) {
      const auto so_far = static_cast<Sum>(steps[at].score);
      const size_t character = std::min(utf8_length(text[at]), text.size() - at);
      bool has_character = false;
      const auto offer = [&](size_t size, int32_t id, Sum score) {
        ModelScratch::Step& target = steps[at + size];
        const Sum sum = score + so_far;
        if (target.id == kNotReached || sum > static_cast<Sum>(target.score)) target = {sum, at, id};
      };
      trie_.for_each_prefix(text.substr(at), [&](size_t size, int32_t id) {
        offer(size, id, scores_[static_cast<size_t>(id)]);
        has_character |= size == character;
      });
      if (!has_character) {
        if (!unk_id_) return at;
        offer(character, *unk_id_, unknown_score_);
      }
      at += character;
    }
    read_path(text, scratch);
    return std::nullopt;
  }

 private:
  static constexpr int32_t kNotReached = -1;

  static std::vector<std::pair<std::string_view, int32_t>> entries(const Vocabulary& vocabulary,
                                                                   const std::vector<bool>& usable) {
    std::vector<std::pair<std::string_view, int32_t>> result;
    for (size_t i = 0; i < vocabulary.size(); ++i) {
      const auto id = static_cast<int32_t>(i);
      if (vocabulary.has(id) && (usable.empty() || usable[i])) result.emplace_back(vocabulary.token(id), id);
    }
    return result;
  }

  void read_path(std::string_view text, ModelScratch& scratch) const {
    auto& path = scratch.path;
    path.clear();
    bool unknown_before = false;
    for (size_t end = text.size(); end > 0;) {
      const ModelScratch::Step& step = scratch.steps[end];
      const bool unknown = unk_id_ && step.id == *unk_id_;
      if (unknown && unknown_before)
        path.back().begin = step.begin;
      else
        path.push_back({step.begin, end, step.id});
      unknown_before = unknown;
      end = step.begin;
    }
    std::reverse(path.begin(), path.end());
  }

  ByteTrie trie_;
  std::vector<Sum> scores_;
  std::optional<int32_t> unk_id_;
  Sum unknown_score_ = 0;
};

}  // namespace msplora::detail
