#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <memory>

#include <cstdint>
#include <mutex>
#include <vector>

#include "msplora/kernels/kernels.h"
#include "msplora/nn/linear.h"

namespace msplora::detail {

struct LowRankSum;
struct ProductCall;
class PackedProduct;

/// Products with a frozen matrix, or with several that have one input, one below the other, packed once
/// instead of in every call: for our own kernels, or for oneDNN's where those do better (packed_product.h).
/// Not for weights that change. Several threads may use one at a time.
class PackedLinear : public torch::CustomClassHolder {
 public:
  /// Null where packing does not help or is not possible: another dtype than float32 and bfloat16, a matrix
  /// smaller than kSmallest elements, no kernel that suits and no oneDNN. The weights, [out, in] each, are
  /// kept.
  static c10::intrusive_ptr<PackedLinear> make(std::vector<at::Tensor> weights);

  /// Whether this was made of the tensors as they are now.
  bool is_of(const std::vector<at::Tensor>& weights) const;

  /// x [T, in] -> x Wᵀ + b; bias float32 [out], or undefined or empty. With an update, which must stand where
  /// `adds_updates`, z U is added before the result is rounded.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& bias, const LowRankSum* update = nullptr) const;
  bool adds_updates() const;
  /// dy [T, out] -> dy W.
  at::Tensor backward(const at::Tensor& dy) const;
  /// dy W + others, which may be undefined; written into `others` itself where it is contiguous.
  at::Tensor backward_onto(const at::Tensor& dy, const at::Tensor& others) const;
  /// The same into contiguous rows that are there already; with `add`, onto what they hold.
  void forward_into(const at::Tensor& x, const at::Tensor& bias, const at::Tensor& y,
                    const LowRankSum* update = nullptr) const;
  void backward_into(const at::Tensor& dy, const at::Tensor& dx, bool add = false) const;
  /// y = f(x Wᵀ + b), and f' into `derivative` where that is defined.
  void activated_into(const at::Tensor& x, const at::Tensor& bias, kernels::Activation activation,
                      const at::Tensor& y, const at::Tensor& derivative) const;
  /// dx = factor * (dy W), element by element.
  void backward_times(const at::Tensor& dy, const at::Tensor& factor, const at::Tensor& dx) const;
  /// Rows of a chain of products that pass at a time, so that what lies between stays in cache where that
  /// helps.
  int64_t rows_at_a_time() const;

  /// Bytes of the packed copies.
  int64_t packed_bytes() const;

  ~PackedLinear() override;

  static constexpr int64_t kSmallest = 64 * 64;
  /// Fewer rows are not worth the packed path.
  static constexpr int64_t kFewestRows = 32;

 private:
  struct Impl;
  PackedLinear(std::vector<at::Tensor> weights, std::unique_ptr<Impl> impl);

  at::Tensor whole() const;  // the weights in one, [out_, in_]
  /// The product with Wᵀ, or with W itself (backward), made on first use.
  const PackedProduct& product(bool is_transposed, bool for_bias) const;
  void run(const at::Tensor& x, bool is_transposed, ProductCall call) const;

  std::vector<at::Tensor> weights_;
  std::vector<uint32_t> versions_;
  int64_t in_ = 0, out_ = 0;
  std::unique_ptr<Impl> impl_;
};

/// A PackedLinear that is kept as long as the weights are the same. Several threads may ask at a time.
class KeptProduct {
 public:
  /// Of these weights, made anew when they are others than last time or have changed; null where packing does
  /// not help.
  c10::intrusive_ptr<PackedLinear> of(const std::vector<at::Tensor>& weights);

 private:
  std::mutex mutex_;
  c10::intrusive_ptr<PackedLinear> kept_;
};

/// The kept product of a layer that is neither adapted nor trained; null for others and where packing does
/// not help.
c10::intrusive_ptr<PackedLinear> frozen_product(const Linear& layer, const at::Tensor& x);

}  // namespace msplora::detail
