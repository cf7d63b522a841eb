#pragma once

#include <ATen/core/Tensor.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>

#include "msplora/core/error.h"
#include "msplora/nn/dtype.h"

namespace msplora::detail {

/// Throws Error{kUsage} unless `tensor`, called `name`, is int64 with one dimension.
inline void require_int64_vector(const at::Tensor& tensor, const char* name) {
  if (!tensor.defined()) throw Error(ErrorCode::kUsage, name, "expected int64, found an undefined tensor");
  if (tensor.scalar_type() != at::kLong) {
    throw Error(ErrorCode::kUsage, name,
                fmt::format("expected int64, found {}", dtype_name(tensor.scalar_type())),
                "convert with .to(at::kLong)");
  }
  if (tensor.dim() == 1) return;
  throw Error(ErrorCode::kUsage, name,
              fmt::format("expected one dimension, found the shape [{}]", fmt::join(tensor.sizes(), ", ")),
              "lay rows end to end with .reshape({-1})");
}

/// The same, and with `count` elements: one for each of `of`.
inline void require_int64_vector(const at::Tensor& tensor, const char* name, int64_t count, const char* of) {
  require_int64_vector(tensor, name);
  if (tensor.size(0) == count) return;
  throw Error(ErrorCode::kUsage, name,
              fmt::format("expected {}, one for each of {}, found {}", count, of, tensor.size(0)));
}

}  // namespace msplora::detail
