#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "msplora/core/ignored_label.h"

namespace msplora {

/// One example as the model sees it.
struct TokenizedExample {
  std::vector<int32_t> ids;
  std::vector<int32_t> type_ids;  // empty when all are 0
  int64_t label = kIgnoredLabel;  // class index of a classification task
  double target = 0.0;            // value of a regression task
  int32_t prompt_tokens = 0;      // of a causal language model: first tokens, which are read, not predicted
};

/// A packed batch: the tokens of B sequences laid end to end, without any padding.
struct Batch {
  std::vector<int64_t> input_ids;       // [T]
  std::vector<int64_t> token_type_ids;  // [T], or empty when all are 0
  std::vector<int32_t> cu_seqlens;      // [B+1]; sequence b is [cu_seqlens[b], cu_seqlens[b+1])
  std::vector<int64_t> labels;          // [B] class indices, or [T] token labels (kIgnoredLabel: none)
  std::vector<float> targets;           // [B] regression targets, or empty
  std::vector<uint32_t> examples;       // [B] index of each sequence in its data set

  size_t tokens() const { return input_ids.size(); }
  size_t sequences() const { return cu_seqlens.empty() ? 0 : cu_seqlens.size() - 1; }
};

/// Labels that are not kIgnoredLabel.
int64_t count_labels(const Batch& batch);
/// Tokens that a causal language model predicts: all behind the prompts but the first of each sequence.
int64_t count_predicted(const std::vector<TokenizedExample>& examples);

}  // namespace msplora
