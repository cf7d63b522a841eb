#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace msplora {

/// The input of a model: T tokens of B sequences laid end to end. No padding exists anywhere in a model;
/// hidden states are [T, hidden_size] and attention works per segment.
struct PackedInput {
  at::Tensor input_ids;       // int64 [T]
  at::Tensor token_type_ids;  // int64 [T], or undefined when all are 0; 1: the second text of a pair, also
                              // where a model has one segment for both
  std::vector<int32_t> cu_seqlens;  // [B+1], cu_seqlens[0] = 0, cu_seqlens[B] = T; no sequence is empty
  at::Tensor output_rows;  // int64 [N]: the rows a language-model head is applied to; undefined = all

  int64_t tokens() const { return cu_seqlens.empty() ? 0 : cu_seqlens.back(); }
  int64_t sequences() const { return cu_seqlens.empty() ? 0 : static_cast<int64_t>(cu_seqlens.size()) - 1; }
};

/// What a forward pass needs to know beside its input. Dropout masks depend on (seed, step, micro_batch,
/// stream, element) alone, so that any thread count draws the same and backward can draw them again.
struct ForwardContext {
  bool training = false;
  uint64_t seed = 0;
  uint64_t step = 0;         // optimizer step
  uint64_t micro_batch = 0;  // index within the optimizer step
  uint64_t repetition = 0;   // of a layer that runs several times in a pass, so that its masks differ
  /// Of an input whose rows pass a layer in parts, from 1 on, so that their masks differ: the layer is the
  /// same for all of them, and whoever divides the input shows it to SiteUpdate::observe_input. 0: it is
  /// whole.
  uint64_t part = 0;
  /// Sees the hidden states [T, hidden_size] of the embeddings (layer 0) and behind every block (1..L); may
  /// be empty.
  std::function<void(int64_t layer, const at::Tensor& hidden)> observe_hidden;

  /// The key of the generator for one dropout place; `stream` names the place (see hash_name).
  uint64_t dropout_key(uint64_t stream) const;
  /// The same for what all micro-batches of an optimizer step share.
  uint64_t step_key(uint64_t stream) const;
};

}  // namespace msplora
