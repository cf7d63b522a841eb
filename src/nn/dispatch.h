#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <initializer_list>
#include <string>

#include "kernels/table.h"
#include "msplora/core/error.h"
#include "msplora/kernels/kernels.h"
#include "msplora/nn/composed.h"
#include "msplora/nn/dtype.h"

namespace msplora::detail {

template <typename T>
struct KernelType {
  using type = T;
};
template <>
struct KernelType<at::BFloat16> {
  using type = kernels::Bfloat16;
};

template <typename T>
T* data(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<T*>(tensor.data_ptr()) : nullptr;
}

/// kernels::Exact beside activations of `dtype`, or like x.
inline at::ScalarType exact_dtype(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}
inline at::ScalarType exact_dtype(const at::Tensor& x) {
  return exact_dtype(x.scalar_type());
}

inline at::Tensor as(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : tensor.to(dtype);
}

/// libtorch 1.13 cannot take undefined tensors as inputs of an autograd function: an empty one stands for
/// "none".
inline const at::Tensor& or_empty(const at::Tensor& tensor) {
  static const at::Tensor none = at::empty({0});
  return tensor.defined() ? tensor : none;
}
inline at::Tensor or_undefined(const at::Tensor& tensor) {
  return tensor.numel() > 0 ? tensor : at::Tensor();
}

/// Calls body(T{}) with the kernels' type for the tensor's dtype.
template <typename Body>
void dispatch(const at::Tensor& tensor, const char* where, Body body) {
  TORCH_INTERNAL_ASSERT(tensor.is_contiguous());
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return body(float{});
    case at::kBFloat16:
      return body(kernels::Bfloat16{});
    case at::kDouble:
      return body(double{});
    default:
      throw Error(
          ErrorCode::kUsage, where,
          std::string("expected float32, bfloat16 or float64, got ") + dtype_name(tensor.scalar_type()));
  }
}

/// The kernels of the device of x. Null where it has none.
template <typename T>
const kernels::Table<T>& kernels_of(const at::Tensor& x) {
  return kernels::device_table<T>(static_cast<int>(x.device().type()));
}

/// Whether an operation is composed of libtorch's own: asked for, or its kernels are not there for x.
bool is_composed(const at::Tensor& x, std::initializer_list<kernels::Kernel> operation);

}  // namespace msplora::detail
