#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "msplora/kernels/gemm.h"
#include "msplora/nn/context.h"
#include "msplora/nn/linear.h"
#include "nn/dispatch.h"
#include "nn/packed_linear.h"

namespace msplora::detail {

/// The terms of an update in this forward pass, those that are computed anew included.
std::vector<LowRankTerm> terms_of(const SiteUpdate& update);

/// Stacked factors, scalings folded into `up`: down [R, in], up [out, R]; undefined without terms.
struct Stacked {
  at::Tensor down, up;
  std::vector<kernels::LowRankSlice> slices;
};
Stacked stack(const std::vector<LowRankTerm>& terms, const ForwardContext& context);

/// Slices without dropout share one input, so neighbours of that kind are one product.
std::vector<kernels::LowRankSlice> merge_plain_slices(std::vector<kernels::LowRankSlice> slices);

/// Whether a product forms the whole gradient of an input, its own share and that of the terms beside it:
/// where none of these has a mask.
bool adds_gradient(const PackedLinear& product, const std::vector<kernels::LowRankSlice>& slices);
/// The share of the terms: dz [rows, R] times down [R, in].
LowRankSum gradient_sum(const at::Tensor& dz, const at::Tensor& down);

/// The kernel's arguments but for the outputs; the tensors and slices must outlive it.
template <typename T>
kernels::LowRank<T> low_rank_op(const at::Tensor& x, const at::Tensor& down, const at::Tensor& z,
                                const std::vector<kernels::LowRankSlice>& slices) {
  using Factor = kernels::Exact<T>;
  kernels::LowRank<T> op;
  op.rows = x.size(0);
  op.in = x.size(1);
  op.rank = down.size(0);
  op.slices = slices.data();
  op.num_slices = static_cast<int64_t>(slices.size());
  op.x = data<T>(x);
  op.down = data<Factor>(down);
  op.z = data<Factor>(z);
  op.precision = kernels::matmul_precision(kernels::active_isa());
  return op;
}

}  // namespace msplora::detail
