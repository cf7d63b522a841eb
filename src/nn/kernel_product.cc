#include <ATen/ops/empty.h>

#include <algorithm>
#include <memory>
#include <mutex>

#include "msplora/kernels/gemm.h"
#include "msplora/nn/feed_forward.h"
#include "nn/kernel_product.h"

namespace msplora::detail {
namespace {

template <typename T>
class KernelProduct : public PackedProduct {
 public:
  explicit KernelProduct(const MatrixRows& matrix)
      : isa_(kernels::active_isa()),
        precision_(kernels::matmul_precision(isa_)),
        out_(matrix.out),
        in_(matrix.in) {
    packed_ = at::empty({kernels::packed_gemm_elements<T>(isa_, in_, out_, precision_)}, matrix.dtype);
    // Whole panels of every instruction set at a time: what is converted or joined is never there as a whole.
    constexpr int64_t kRows = 3072;
    for (int64_t begin = 0; begin < out_; begin += kRows) {
      const int64_t end = std::min(out_, begin + kRows);
      const at::Tensor part = matrix.rows(begin, end);
      T* const to = data<T>(packed_) + kernels::packed_gemm_elements<T>(isa_, in_, begin, precision_);
      kernels::PackGemm<T> op{in_, end - begin, 1, in_, isa_, data<T>(part), to};
      op.precision = precision_;
      kernels::pack_gemm<T>(op);
    }
  }

  void run(Direction direction, const ProductCall& call) const override {
    kernels::PackedGemm<T> op = kernel_call<T>(direction, call, out_, in_);
    const bool is_forward = direction == Direction::kForward;
    op.isa = isa_;
    op.precision = precision_;
    op.is_transposed = !is_forward && !kernels::packs_both_directions<T>(isa_, precision_);
    op.packed = data<T>(is_forward || op.is_transposed ? packed_ : turned());
    kernels::packed_gemm<T>(op);
  }
  bool adds_updates() const override { return true; }
  int64_t rows_at_a_time() const override { return kFeedForwardRows; }
  int64_t bytes() const override {
    const std::lock_guard lock(mutex_);
    return static_cast<int64_t>(packed_.nbytes() + (turned_.defined() ? turned_.nbytes() : 0));
  }

 private:
  // For backward, made on first use.
  const at::Tensor& turned() const {
    const std::lock_guard lock(mutex_);
    if (!turned_.defined()) {
      turned_ = at::empty({kernels::packed_gemm_elements<T>(isa_, out_, in_, precision_)}, packed_.options());
      kernels::PackGemm<T> op;
      op.inner = out_, op.width = in_, op.isa = isa_, op.precision = precision_;
      op.transposed = data<T>(packed_), op.packed = data<T>(turned_);
      kernels::pack_gemm<T>(op);
    }
    return turned_;
  }

  kernels::Isa isa_;
  kernels::Precision precision_;
  int64_t out_, in_;
  at::Tensor packed_;
  mutable std::mutex mutex_;
  mutable at::Tensor turned_;  // Wᵀ
};

}  // namespace

bool suits_kernel_product(at::ScalarType dtype, int64_t out, int64_t in) {
  if (dtype == at::kFloat) return kernels::prefers_packed_gemm<float>();
  // Pairs of bfloat16 are multiplied at once, along either dimension.
  return dtype == at::kBFloat16 && out % 2 == 0 && in % 2 == 0 &&
         kernels::prefers_packed_gemm<kernels::Bfloat16>();
}

bool is_on_matrix_units(at::ScalarType dtype) {
  const kernels::Isa isa = kernels::active_isa();
  return dtype == at::kBFloat16 ? kernels::packs_both_directions<kernels::Bfloat16>(isa)
                                : kernels::packs_both_directions<float>(isa, kernels::matmul_precision(isa));
}

std::unique_ptr<PackedProduct> make_kernel_product(const MatrixRows& matrix) {
  if (matrix.stored && keeps_codes(matrix.dtype)) return make_quantised_product(matrix);
  if (matrix.dtype == at::kFloat) return std::make_unique<KernelProduct<float>>(matrix);
  return std::make_unique<KernelProduct<kernels::Bfloat16>>(matrix);
}

}  // namespace msplora::detail
