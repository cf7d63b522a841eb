#pragma once

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace msplora::detail {

/// Function::apply(arguments...). Where no graph is made, its forward pass alone: making a node costs more
/// than what many kernels do for one token.
template <typename Function, typename... Arguments>
auto apply_function(Arguments&&... arguments) {
  if (at::GradMode::is_enabled()) return Function::apply(std::forward<Arguments>(arguments)...);
  torch::autograd::AutogradContext context;
  return Function::forward(&context, std::forward<Arguments>(arguments)...);
}

}  // namespace msplora::detail
