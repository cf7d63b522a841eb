#pragma once

#include <cstdint>

#include "msplora/models/architecture.h"

namespace msplora {

/// What the estimate is made for.
struct MemoryQuestion {
  int64_t trainable_parameters = 0;  // of adapter, biases and head
  int64_t adapted_inputs = 0;        // sum of in_features over the adapted sites of one layer, on average
  int64_t tokens_per_batch = 4096;   // T: tokens of a micro-batch
  int64_t bytes_per_weight = 4;      // 4: float32, 2: bfloat16; of frozen weights and activations
  bool is_causal_lm = false;         // logits of some rows at a time
  bool checkpoint_activations = false;
};

/// Bytes by purpose.
struct MemoryEstimate {
  int64_t model_parameters = 0;  // count, not bytes
  int64_t weights = 0;
  int64_t trainable = 0;
  int64_t activations = 0;
  int64_t total() const { return weights + trainable + activations; }
};

/// Parameters of the model but for a classifier: linear layers of the blocks, embeddings, norms, biases, and
/// the output layer of a language model where it is not tied.
int64_t count_base_parameters(const Architecture& architecture);

/// Memory of one training step on a CPU.
///
///   weights      = P b                P base parameters of b bytes
///   trainable    = 16 n               n trained float32 values with gradient and two moments
///   activations  = T b (L s + 2 d) + logits
///     s = 2 d + 2 d_kv                query, attention output; key and value (d_kv = kv heads x head size)
///       + 2 d                         inputs of the two norms
///       + m f                         f feed-forward width; m = 2 (input and output of the activation), 4
///       when gated
///       + a                           inputs kept for the gradients of adapted layers
///     with checkpoint_activations L s becomes L d + s: the inputs of the blocks, and one block at a time
///     logits = vocab b min(T, r)      of the r = default_logit_rows(T, d, vocab) rows that a causal language
///       model forms at a time, else small and left out
///
/// It is an upper bound: where joint and blocked products are taken, layers with one input keep it once, and
/// of a frozen feed-forward part the derivative of the activation alone is kept. No padding and no [T, T]
/// scores are in it, as batches are packed and attention works row by row, over windows or not.
MemoryEstimate estimate_memory(const Architecture& architecture, const MemoryQuestion& question);

}  // namespace msplora
