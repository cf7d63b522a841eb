#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace msplora {

/// A tensor under its full name: a parameter of a model, a trained tensor, a tensor of a file.
struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

}  // namespace msplora
