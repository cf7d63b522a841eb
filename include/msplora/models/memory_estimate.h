#pragma once

#include <cstdint>
#include <set>

#include "msplora/models/architecture.h"

namespace msplora {

/// What the estimate is made for.
struct MemoryQuestion {
  int64_t trainable_parameters = 0;  // of adapter, biases and head, or of the whole model
  bool trains_base = false;          // all of the base, without an adapter
  std::set<LinearRole> adapted;      // roles of the layers that have an update
  int64_t rank = 0;                  // of one update, all levels together
  int64_t tokens_per_batch = 4096;   // T: tokens of a micro-batch
  int64_t bytes_per_weight = 4;      // 4: float32, 2: bfloat16; of frozen weights and activations
  double bytes_in_products = 0.0;    // of a frozen matrix' number (nn/weight.h); 0: bytes_per_weight
  bool is_causal_lm = false;         // logits of some rows at a time
  bool checkpoint_activations = false;
};

/// Bytes by purpose.
struct MemoryEstimate {
  int64_t model_parameters = 0;  // count, not bytes
  int64_t weights = 0;
  int64_t trainable = 0;
  int64_t activations = 0;
  int64_t shared = 0;  // counted in both of the last two
  int64_t total() const { return weights + trainable + activations - shared; }
};

/// Parameters of the model but for a classifier: linear layers of the blocks, embeddings, norms, biases, and
/// the output layer of a language model where it is not tied.
int64_t count_base_parameters(const Architecture& architecture);

/// Memory of one training step on a CPU, beside the program itself and the file of the model: that is mapped,
/// and its pages are the system's to drop.
///
///   weights      = the packed copies of the matrices, also of a language model's output layer, b bytes a
///       number or what is kept of quantised ones; biases and norms in float32. The table of words is read
///       from the file. Nothing where the base is trained.
///   trainable    = 16 n               n trained float32 values with gradient and two moments
///   activations  = L s + T b (2 d) + transients
///     s, of a block, for each token: b (d_q + 2 d_kv + d_o) queries, keys, values, output of attention, and
///       4 bytes a head; b d for each norm, whose input is kept; b f for the derivative of the activation, or
///       2 b f of a gated feed-forward part (3 b f where the gate is not SiLU); the inputs of layers with an
///       update that nothing else keeps, and 4 bytes for each of an update's ranks
///     with checkpoint_activations the inputs of all blocks, and s of one
///     transients: gradients of the block that runs, or the rows of logits that a causal language model forms
///       at a time (default_logit_rows), with the factors and gradients of an update of its output layer
///   shared       = the smaller of 4 n and what blocks keep: gradients take the place of activations that
///       backward has freed
///
/// No padding and no [T, T] scores are in it, as batches are packed and attention works row by row, over
/// windows or not. `msplora bench memory` measures how near it comes.
MemoryEstimate estimate_memory(const Architecture& architecture, const MemoryQuestion& question);

}  // namespace msplora
