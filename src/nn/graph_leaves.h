#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace msplora::detail {

/// The leaves that the outputs were computed from, without the inputs, in the order in which they are found.
std::vector<at::Tensor> leaves_of(const std::vector<at::Tensor>& outputs,
                                  const std::vector<at::Tensor>& inputs);

}  // namespace msplora::detail
