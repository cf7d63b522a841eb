#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>
#include <string>

#include "msplora/core/random.h"

namespace msplora::testing {

/// Standard normal numbers, a function of (seed, name).
inline at::Tensor normals(at::IntArrayRef shape, const std::string& name, at::ScalarType dtype = at::kDouble,
                          uint64_t seed = 1) {
  at::Tensor tensor = at::empty(shape, at::kDouble);
  RandomStream stream(seed, name);
  for (int64_t i = 0; i < tensor.numel(); ++i) tensor.data_ptr<double>()[i] = stream.normal();
  return tensor.to(dtype);
}

}  // namespace msplora::testing
