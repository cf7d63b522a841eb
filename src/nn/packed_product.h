#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "msplora/kernels/gemm.h"
#include "msplora/kernels/kernels.h"

namespace msplora::detail {

/// The end of a low-rank update, z U: parts of U add to columns of a product (kernels::GemmUpdate).
struct LowRankSum {
  at::Tensor z;  // float32 [rows, rank]
  std::vector<kernels::GemmUpdate> parts;
};

/// What a product does beside multiplying. Arrays are contiguous.
struct ProductCall {
  const void* x = nullptr;
  int64_t rows = 0;
  const float* bias = nullptr;  // added to the product
  bool add = false;             // onto what y holds
  void* y = nullptr;

  const void* factor = nullptr;                     // multiplies the product, element by element
  const kernels::Activation* activation = nullptr;  // of product and bias
  void* derivative = nullptr;                       // gets the activation's, when not null

  const LowRankSum* update = nullptr;  // added to the sums; for products that add updates
};

/// x [rows, inner] times a packed matrix [inner, width]. Several threads may run one at a time.
class PackedProduct {
 public:
  virtual ~PackedProduct() = default;
  virtual void run(const ProductCall& call) const = 0;
  /// Of the packed copy.
  virtual int64_t bytes() const = 0;
};

/// What is packed.
struct MatrixView {
  at::Tensor weight;           // [out, in], float32 or bfloat16
  bool is_transposed = false;  // false: x times weightᵀ, [rows, in] -> [rows, out]; true: x times weight

  int64_t inner() const { return weight.size(is_transposed ? 0 : 1); }
  int64_t width() const { return weight.size(is_transposed ? 1 : 0); }
};

/// Whether our own kernels multiply [rows, inner] of this type here, and no other does it better
/// (kernels::prefers_packed_gemm).
bool suits_kernel_product(at::ScalarType dtype, int64_t inner);
/// On our own kernels.
std::unique_ptr<PackedProduct> make_kernel_product(const MatrixView& matrix);
/// On oneDNN; null in builds without.
std::unique_ptr<PackedProduct> make_onednn_product(const MatrixView& matrix, bool with_bias);

}  // namespace msplora::detail
