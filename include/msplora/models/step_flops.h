#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "msplora/models/architecture.h"

namespace msplora {

/// What one linear layer costs beside its frozen product.
struct SiteWork {
  int64_t rank = 0;            // of all low-rank terms together
  bool has_adapter = false;    // something trained hangs on the layer's output
  bool trains_weight = false;  // a gradient of the weight itself is formed
};

/// One optimizer step on one packed micro-batch.
struct StepQuestion {
  std::vector<int64_t> lengths;    // tokens of each sequence
  std::vector<SiteWork> sites;     // one for each layer of linears_of(), which are the sites of the model
  bool trains_embeddings = false;  // gradients reach below the first block
  bool reads_one_row = true;       // the head reads one row of each sequence (classification)
  int64_t predicted_tokens = 0;    // rows of a language model's output layer
  bool checkpoint_activations = false;
};

/// Notes which parameters of the model itself are trained, by their names in it: weights and biases of
/// layers, the head, embeddings. What a block has beside its layers (norms) counts as if it stood where the
/// block begins.
void note_trained(const Architecture& architecture, const std::vector<std::string>& parameters,
                  StepQuestion& question);

/// Floating-point operations of matrix products, a multiplication and an addition counted as two.
struct StepFlops {
  double linear_forward = 0.0;
  double linear_backward = 0.0;  // products with the weights, and gradients of trained weights
  double attention_forward = 0.0;
  double attention_backward = 0.0;  // four products a head; computing the scores again is not counted
  double low_rank = 0.0;            // forward and backward of the terms
  double recomputation = 0.0;       // forward passes made again (checkpoint_activations)

  double total() const {
    return linear_forward + linear_backward + attention_forward + attention_backward + low_rank;
  }
};

/// The products that remain when nothing is computed that cannot matter:
///   - no padding;
///   - no gradient of a frozen weight;
///   - no gradient of an input below which nothing is trained;
///   - with reads_one_row, the last block computes queries, attention output and feed-forward for the rows
///     that the head reads alone.
/// Element-wise operations are not in it; neither is `recomputation` in total(), which states the work that
/// is needed.
StepFlops count_step_flops(const Architecture& architecture, const StepQuestion& question);

}  // namespace msplora
