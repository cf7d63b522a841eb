#pragma once

#include <ATen/core/Tensor.h>

#include "msplora/data/batch.h"
#include "msplora/nn/context.h"

namespace msplora {

/// A batch as the tensors a model takes. output_rows stays undefined.
PackedInput packed_input(const Batch& batch);

/// The same for a batch with token labels: output_rows are the N tokens that have one, so that the head, the
/// largest product of a language model, runs on those alone. `labels` receives their labels, int64 [N].
PackedInput packed_input_with_labels(const Batch& batch, at::Tensor& labels);

/// Labels int64 [B] of a classification batch; targets float32 [B] of a regression batch.
at::Tensor label_tensor(const Batch& batch);
at::Tensor target_tensor(const Batch& batch);

}  // namespace msplora
