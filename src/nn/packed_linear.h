#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <memory>

#include <cstdint>

#include "msplora/nn/linear.h"

namespace msplora::detail {

/// Products with a frozen matrix that lies in the layouts oneDNN's kernels want, packed once instead of in
/// every call: the forward layout when made, the backward layout on first use. Not for weights that change.
class PackedLinear : public torch::CustomClassHolder {
 public:
  /// Null where packing does not help or is not possible: built without oneDNN, another dtype than float32
  /// and bfloat16, a matrix smaller than kSmallest elements. `weight` [out, in] is kept.
  static c10::intrusive_ptr<PackedLinear> make(const at::Tensor& weight);

  /// Whether this was made of the tensor as it is now.
  bool is_of(const at::Tensor& weight) const;

  /// x [T, in] -> x Wᵀ + b; bias float32 [out], or undefined or empty.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& bias) const;
  /// dy [T, out] -> dy W.
  at::Tensor backward(const at::Tensor& dy) const;
  /// The same into contiguous rows that are there already.
  void forward_into(const at::Tensor& x, const at::Tensor& bias, const at::Tensor& y) const;
  void backward_into(const at::Tensor& dy, const at::Tensor& dx) const;

  /// Bytes of the packed copies.
  int64_t packed_bytes() const;

  ~PackedLinear() override;

  static constexpr int64_t kSmallest = 64 * 64;
  /// Fewer rows are not worth the packed path.
  static constexpr int64_t kFewestRows = 32;

 private:
  struct Impl;
  PackedLinear(const at::Tensor& weight, std::unique_ptr<Impl> impl);

  at::Tensor weight_;
  uint32_t version_ = 0;
  std::unique_ptr<Impl> impl_;
};

/// The kept product of a layer that is neither adapted nor trained; null for others and where packing does
/// not help.
c10::intrusive_ptr<PackedLinear> frozen_product(const Linear& layer, const at::Tensor& x);

}  // namespace msplora::detail
