#pragma once

#include <ATen/core/Tensor.h>

#include <ATen/TensorOperators.h>
#include <string>

#include "msplora/core/error.h"
#include "msplora/core/ignored_label.h"
#include "nn/int64_vector.h"

namespace msplora::detail {

/// Throws Error{kUsage} unless the labels are int64, one for each of `rows` rows.
inline void check_label_count(const at::Tensor& labels, int64_t rows) {
  require_int64_vector(labels, "labels", rows, "the rows that are read");
}

/// The same, and Error{kData} when a label is neither kIgnoredLabel nor in [0, classes).
inline void check_labels(const at::Tensor& labels, int64_t rows, int64_t classes) {
  check_label_count(labels, rows);
  const at::Tensor counted = labels.ne(kIgnoredLabel);
  const at::Tensor wrong = counted.logical_and(labels.lt(0).logical_or(labels.ge(classes)));
  if (!wrong.any().item<bool>()) return;
  const int64_t label = labels.masked_select(wrong)[0].item<int64_t>();
  throw Error(ErrorCode::kData, "labels",
              "label " + std::to_string(label) + " is outside of the model's " + std::to_string(classes) +
                  " classes");
}

}  // namespace msplora::detail
