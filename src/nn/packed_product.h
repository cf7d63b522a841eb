#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "msplora/kernels/gemm.h"
#include "msplora/kernels/kernels.h"
#include "msplora/nn/weight.h"

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

  // A gated product, or the gradient of what one gives; 0: neither (kernels::PackedGemm).
  int64_t gated_width = 0;
  int64_t half_width = 0;
};

enum class Direction {
  kForward,   // x Wᵀ, [rows, in] -> [rows, out]
  kBackward,  // x W, [rows, out] -> [rows, in]
};

/// Products with a packed matrix W [out, in]. Several threads may run one at a time.
class PackedProduct {
 public:
  virtual ~PackedProduct() = default;
  virtual void run(Direction direction, const ProductCall& call) const = 0;
  /// Whether it takes ProductCall::update.
  virtual bool adds_updates() const = 0;
  /// Rows of a chain of products that pass at a time, so that what lies between stays in cache where that
  /// helps.
  virtual int64_t rows_at_a_time() const = 0;
  /// Of the packed copies.
  virtual int64_t bytes() const = 0;
};

/// What is packed: a matrix [out, in], float32 or bfloat16, read by rows.
struct MatrixRows {
  int64_t out = 0, in = 0;
  at::ScalarType dtype = at::kFloat;
  std::function<at::Tensor(int64_t begin, int64_t end)> rows;  // contiguous [end - begin, in]
  std::function<StoredRow(int64_t row)> stored;  // of quantised matrices; without blocks, a row of zeros
};

/// Whether our own kernels multiply matrices of this type and shape here, and no other does it better
/// (kernels::prefers_packed_gemm).
bool suits_kernel_product(at::ScalarType dtype, int64_t out, int64_t in);
/// On our own kernels: one packed copy for both directions, of quantised matrices their codes.
std::unique_ptr<PackedProduct> make_kernel_product(const MatrixRows& matrix);
/// Whether oneDNN is there and multiplies matrices of this type on this processor (bfloat16: from AVX-512
/// on).
bool suits_onednn_product(at::ScalarType dtype);
/// On oneDNN, which packs for each direction when it is first asked for; null in builds without.
std::unique_ptr<PackedProduct> make_onednn_product(const MatrixRows& matrix);

}  // namespace msplora::detail
