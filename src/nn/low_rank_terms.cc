#include "nn/low_rank_terms.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "msplora/nn/functional.h"
#include "nn/matmul.h"

namespace msplora::detail {

std::vector<LowRankTerm> terms_of(const SiteUpdate& update) {
  std::vector<LowRankTerm> terms = update.low_rank;
  if (update.computed_low_rank) {
    for (LowRankTerm& term : update.computed_low_rank()) terms.push_back(std::move(term));
  }
  return terms;
}

std::vector<kernels::LowRankSlice> merge_plain_slices(std::vector<kernels::LowRankSlice> slices) {
  std::vector<kernels::LowRankSlice> merged;
  for (const kernels::LowRankSlice& slice : slices) {
    const bool joins = !merged.empty() && !merged.back().mask.active() && !slice.mask.active() &&
                       merged.back().end == slice.begin;
    if (joins) {
      merged.back().end = slice.end;
    } else {
      merged.push_back(slice);
    }
  }
  return merged;
}

Stacked stack(const std::vector<LowRankTerm>& terms, const ForwardContext& context) {
  Stacked stacked;
  std::vector<at::Tensor> downs, ups;
  int64_t rows = 0;
  for (const LowRankTerm& term : terms) {
    downs.push_back(term.down);
    ups.push_back(term.scaling == 1.0 ? term.up : term.up * term.scaling);
    const int64_t rank = term.down.size(0);
    stacked.slices.push_back({rows, rows + rank, dropout_mask(context, term.dropout, term.dropout_stream)});
    rows += rank;
  }
  if (terms.empty()) return stacked;
  stacked.down = downs.size() == 1 ? downs[0] : at::cat(downs, 0);
  stacked.up = ups.size() == 1 ? ups[0] : at::cat(ups, 1);
  return stacked;
}

bool adds_gradient(const PackedLinear& product, const std::vector<kernels::LowRankSlice>& slices) {
  return product.adds_updates() &&
         std::none_of(slices.begin(), slices.end(),
                      [](const kernels::LowRankSlice& slice) { return slice.mask.active(); });
}

LowRankSum gradient_sum(const at::Tensor& dz, const at::Tensor& down) {
  return {dz, {{0, down.size(0), 0, down.size(1), data<float>(down)}}};
}

}  // namespace msplora::detail

namespace msplora {

at::Tensor looked_up_terms(const SiteUpdate& update, const at::Tensor& ids) {
  const detail::Stacked stacked = detail::stack(detail::terms_of(update), {});
  const at::Tensor chosen = at::embedding(stacked.down.t(), ids.to(stacked.down.device()));
  return detail::matmul(chosen, stacked.up.t());
}

}  // namespace msplora
