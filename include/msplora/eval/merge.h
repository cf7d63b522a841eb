#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/models/model.h"

namespace msplora {

/// What merging did.
struct MergeReport {
  int64_t sites = 0;
  /// Over the samples: the largest difference of a logit before and after, and the largest logit before.
  /// Unset without samples.
  std::optional<double> largest_difference;
  std::optional<double> largest_logit;
};

/// Adds the adapter to the weights of the model and detaches it.
///
/// Each weight (and bias, where the method changes it) becomes round(W + delta_W): the sum is formed in
/// float32 and rounded once, to `stored_dtype`, the type that the model will be saved in. The model keeps its
/// own dtype. Weights are replaced, not written into, so those mapped from a file stay as they are on disk.
/// `samples` are run before and after. Throws Error{kNumerics} naming the site when a merged tensor is not
/// finite, Error{kUsage} when the adapter gives a bias to a layer that has none; the model is unchanged then.
MergeReport merge_adapter(Model& model, Adapter& adapter, at::ScalarType stored_dtype,
                          const std::vector<PackedInput>& samples = {});

}  // namespace msplora
