#pragma once

#include <memory>

#include "msplora/kernels/kernels.h"
#include "nn/dispatch.h"
#include "nn/packed_product.h"

namespace msplora::detail {

/// What the kernel is told of a call of a product with W [out, in]: all but the matrix.
template <typename T>
kernels::PackedGemm<T> kernel_call(Direction direction, const ProductCall& call, int64_t out, int64_t in) {
  const bool is_forward = direction == Direction::kForward;
  kernels::PackedGemm<T> op;
  op.rows = call.rows;
  op.inner = is_forward ? in : out;
  op.width = is_forward ? out : in;
  op.x = static_cast<const T*>(call.x);
  op.bias = call.bias;
  op.factor = static_cast<const T*>(call.factor);
  op.add = call.add;
  op.y = static_cast<T*>(call.y);
  op.is_activated = call.activation != nullptr;
  if (op.is_activated) op.activation = *call.activation;
  op.derivative = static_cast<T*>(call.derivative);
  op.gated_width = call.gated_width;
  op.half_width = call.half_width;
  if (call.update != nullptr) {
    op.z = data<float>(call.update->z);
    op.rank = call.update->z.size(1);
    op.updates = call.update->parts.data();
    op.num_updates = static_cast<int64_t>(call.update->parts.size());
  }
  return op;
}

/// Whether products of a type run on matrix units, at the precision that the calling thread has.
bool is_on_matrix_units(at::ScalarType dtype);
/// Whether products of a type take what is kept as quantised files hold it: not those of floats in parts.
bool keeps_codes(at::ScalarType dtype);
/// Of a matrix that has `stored`: its codes in panels, from which numbers are formed while they are
/// multiplied. The results are the bits of those with packed numbers.
std::unique_ptr<PackedProduct> make_quantised_product(const MatrixRows& matrix);

}  // namespace msplora::detail
