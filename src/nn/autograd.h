#pragma once

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

#include "msplora/core/error.h"

namespace msplora::detail {

/// Of backward passes whose results have no graph: with create_graph they would be constants, and gradients
/// of gradients wrong without a word.
inline void refuse_second_derivatives(const char* operation) {
  if (!at::GradMode::is_enabled()) return;
  throw Error(ErrorCode::kUsage, operation,
              "has first derivatives alone, gradients of gradients were asked for",
              "differentiate without create_graph");
}

/// An autograd function over kernels: `Derived` has forward(), gradients() in place of backward(), and kName.
template <typename Derived>
struct KernelFunction : torch::autograd::Function<Derived> {
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    refuse_second_derivatives(Derived::kName);
    return Derived::gradients(context, std::move(grads));
  }
};

/// Function::apply(arguments...). Where no graph is made, its forward pass alone: making a node costs more
/// than what many kernels do for one token.
template <typename Function, typename... Arguments>
auto apply_function(Arguments&&... arguments) {
  if (at::GradMode::is_enabled()) return Function::apply(std::forward<Arguments>(arguments)...);
  torch::autograd::AutogradContext context;
  return Function::forward(&context, std::forward<Arguments>(arguments)...);
}

}  // namespace msplora::detail
