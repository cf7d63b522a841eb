#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <memory>

#include <cstdint>
#include <mutex>
#include <vector>

#include "msplora/kernels/kernels.h"
#include "msplora/nn/linear.h"
#include "nn/packed_product.h"

namespace msplora::detail {

/// kHalves: the outputs of the weights are two halves, of a gate and of what it lets through, which are
/// packed apart (kernels::PackedGemm::gated_width).
enum class Gating { kNone, kHalves };

/// Products with frozen matrices that have one input, one below the other, packed once instead of in every
/// call: for our own kernels, or for oneDNN's where those do better (packed_product.h). Several threads may
/// use one at a time.
class PackedLinear : public torch::CustomClassHolder {
 public:
  /// Null where packing does not help or is not possible (packs_weights): for weights that can be trained, on
  /// another device. Weights that are tensors must not change while the result is used.
  static c10::intrusive_ptr<PackedLinear> make(const std::vector<const Weight*>& weights,
                                               Gating gating = Gating::kNone);

  /// Columns of each half of a gated product with `out` outputs, half of them and what fills up a last panel.
  static int64_t packed_half(at::ScalarType dtype, int64_t out, int64_t in);

  /// Whether this was made of the weights as they are now, and for this.
  bool is_of(const std::vector<const Weight*>& weights, Gating gating) const;

  /// x [T, in] -> x Wᵀ + b; bias float32 [out], or undefined or empty. With an update, which must stand where
  /// `adds_updates`, z U is added before the result is rounded.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& bias, const LowRankSum* update = nullptr) const;
  bool adds_updates() const { return product_->adds_updates(); }
  /// dy [T, out] -> dy W, with an update as in `forward`.
  at::Tensor backward(const at::Tensor& dy, const LowRankSum* update = nullptr) const;
  /// dy W + others, which may be undefined; written into `others` itself where it is contiguous.
  at::Tensor backward_onto(const at::Tensor& dy, const at::Tensor& others,
                           const LowRankSum* update = nullptr) const;
  /// The same into contiguous rows that are there already; with `add`, onto what they hold.
  void forward_into(const at::Tensor& x, const at::Tensor& bias, const at::Tensor& y,
                    const LowRankSum* update = nullptr) const;
  void backward_into(const at::Tensor& dy, const at::Tensor& dx, bool add = false,
                     const LowRankSum* update = nullptr) const;
  /// y = f(x Wᵀ + b), and f' into `derivative` where that is defined.
  void activated_into(const at::Tensor& x, const at::Tensor& bias, kernels::Activation activation,
                      const at::Tensor& y, const at::Tensor& derivative) const;
  /// dx = factor * (dy W), element by element.
  void backward_times(const at::Tensor& dy, const at::Tensor& factor, const at::Tensor& dx) const;
  /// Of a gated product: y [T, gated_width] = f(gate) * up, and what is by them (kernels::GatedActivation)
  /// into the halves of `derivative` [T, out_features]; bias as `in_halves` has it.
  void gated_into(const at::Tensor& x, const at::Tensor& bias, kernels::Activation activation,
                  const at::Tensor& y, const at::Tensor& derivative,
                  const LowRankSum* update = nullptr) const;
  /// dx [T, 2 half] = dy W times each half of factor [T, 2 half], which hold the columns of W and more.
  void backward_halves(const at::Tensor& dy, const at::Tensor& factor, const at::Tensor& dx) const;
  /// [2 gated_width] -> [out_features], 0 between; undefined and empty ones as they are.
  at::Tensor in_halves(const at::Tensor& bias) const;
  int64_t gated_width() const { return gated_width_; }
  int64_t out_features() const { return out_; }
  /// See PackedProduct.
  int64_t rows_at_a_time() const { return product_->rows_at_a_time(); }
  int64_t packed_bytes() const { return product_->bytes(); }

  ~PackedLinear() override;

 private:
  /// A weight as it was when it was packed: its form or its tensor, kept alive, and the tensor's version.
  struct Origin {
    Weight weight;
    uint32_t version = 0;

    explicit Origin(const Weight& weight);
    bool is_of(const Weight& other) const;
  };

  PackedLinear(std::vector<Origin> origins, int64_t out, int64_t in, at::ScalarType dtype, Gating gating);
  /// The weights, one below the other.
  MatrixRows stacked(int64_t out, int64_t in, at::ScalarType dtype) const;
  void run(const at::Tensor& x, Direction direction, ProductCall call) const;

  std::vector<Origin> origins_;
  int64_t in_, out_;
  int64_t gated_width_ = 0;  // of a half without what fills up its last panel; 0: not gated
  std::unique_ptr<PackedProduct> product_;
};

/// A PackedLinear that is kept as long as the weights are the same. Several threads may ask at a time.
class KeptProduct {
 public:
  /// Of these weights, made anew when they are others than last time or have changed; null where packing does
  /// not help.
  c10::intrusive_ptr<PackedLinear> of(const std::vector<const Weight*>& weights,
                                      Gating gating = Gating::kNone);

 private:
  std::mutex mutex_;
  c10::intrusive_ptr<PackedLinear> kept_;
};

/// The kept product of a layer that is neither adapted nor trained; null for others and where packing does
/// not help.
c10::intrusive_ptr<PackedLinear> frozen_product(const Linear& layer, const at::Tensor& x);

}  // namespace msplora::detail
