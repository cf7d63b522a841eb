#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/models/model.h"

namespace msplora {

/// What merging did.
struct MergeReport {
  int64_t sites = 0;
};

/// Makes the adapter a part of the model: adds its updates to the weights and leaves the parameters of the
/// base that it trains (heads, biases) as they are with it. It is on the model no more then, and cannot be
/// attached or merged again; destroying it takes nothing back. One that is detached is attached first.
///
/// Each weight (and bias, where the method changes it) becomes round(W + delta_W): the sum is formed in
/// float32 and rounded once, to `stored_dtype`, the type that the model will be saved in. The model keeps its
/// own dtype. Weights are replaced, not written into, so those mapped from a file stay as they are on disk.
/// Where the output layer is tied to the table of words and one of the two is adapted, they are tied no more
/// (Model::untie). Throws Error{kNumerics} naming the site when a merged tensor is not finite, Error{kUsage}
/// when the adapter gives a bias to a layer that has none, was merged before, or stored_dtype is no
/// floating-point type, and as Adapter::attach and Model::untie; the model is unchanged then.
MergeReport merge_adapter(Adapter& adapter, at::ScalarType stored_dtype);

/// Logits of every sample, without dropout and without a graph.
std::vector<at::Tensor> sample_logits(Model& model, const std::vector<PackedInput>& samples);

/// How far two runs over the same samples lie apart.
struct LogitDifference {
  double largest = 0.0;        // of a logit
  double largest_logit = 0.0;  // of the first run
};
LogitDifference compare_logits(const std::vector<at::Tensor>& first, const std::vector<at::Tensor>& second);

}  // namespace msplora
