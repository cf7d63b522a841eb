#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "msplora/core/ignored_label.h"

namespace msplora {

/// Tokens [begin, end) of an example.
struct TokenSpan {
  int32_t begin = 0, end = 0;
};

/// One example as the model sees it.
struct TokenizedExample {
  std::vector<int32_t> ids;
  std::vector<int32_t> type_ids;          // empty when all are 0
  int64_t label = kIgnoredLabel;          // class index of a classification task
  double target = 0.0;                    // value of a regression task
  std::vector<int32_t> starts = {};       // where its second and later sequences start; empty: it is one
  std::vector<TokenSpan> predicted = {};  // what a causal language model learns; empty: all of it
};

/// A packed batch: the tokens of B sequences laid end to end, without any padding.
struct Batch {
  std::vector<int64_t> input_ids;       // [T]
  std::vector<int64_t> token_type_ids;  // [T], or empty when all are 0
  std::vector<int32_t> cu_seqlens;      // [B+1]; sequence b is [cu_seqlens[b], cu_seqlens[b+1])
  std::vector<int64_t> labels;          // [B] class indices, or [T] token labels (kIgnoredLabel: none)
  std::vector<float> targets;           // [B] regression targets, or empty
  std::vector<uint32_t> examples;       // [B] index of the example of each sequence in its data set

  size_t tokens() const { return input_ids.size(); }
  size_t sequences() const { return cu_seqlens.empty() ? 0 : cu_seqlens.size() - 1; }
};

/// Labels that are not kIgnoredLabel.
int64_t count_labels(const Batch& batch);

}  // namespace msplora
