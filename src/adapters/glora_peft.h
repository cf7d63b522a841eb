#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "adapters/glora_search.h"
#include "msplora/io/safetensors.h"

namespace msplora::detail {

/// Supports of GLoRA are low-rank, value = down up; a vector is the first column of `down`, a number its
/// first element.
at::Tensor first_column(const at::Tensor& down);
at::Tensor first_number(const at::Tensor& down);

/// One support of one layer, for a file as PEFT's GLORA layers read it.
struct PeftSupport {
  std::string name;  // what its tensors' names begin with, e.g. "PATH.glora_A."
  int64_t rows = 0, columns = 0;
  bool is_flat = false;  // PEFT has it as a vector, not as a matrix with one column
  Support form = Support::kNone;
  at::Tensor down, up;
  at::TensorOptions options;
};

/// Appends the support in the given form, which is at least as large as its own; PEFT has a buffer of zeros
/// where there is none.
void append_peft_support(const PeftSupport& support, Support form, int64_t rank,
                         std::vector<NamedTensor>& tensors);

}  // namespace msplora::detail
