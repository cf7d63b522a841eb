#include "analysis/inner_products.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace msplora::analysis {

bool same_factors(const LowRankTerm& a, const LowRankTerm& b) {
  return a.up.is_same(b.up) && a.down.is_same(b.down);
}

at::Tensor inner_products(const std::vector<std::vector<LowRankTerm>>& updates) {
  const auto options = at::TensorOptions().dtype(at::kDouble);
  std::vector<LowRankTerm> terms;  // each pair of factors once
  std::vector<std::vector<int64_t>> places(updates.size());
  int64_t columns = 0;
  for (size_t n = 0; n < updates.size(); ++n) {
    for (const LowRankTerm& term : updates[n]) {
      const auto known = std::find_if(terms.begin(), terms.end(),
                                      [&](const LowRankTerm& other) { return same_factors(term, other); });
      places[n].push_back(known - terms.begin());
      if (known != terms.end()) continue;
      terms.push_back(term);
      columns += term.down.size(0);
    }
  }
  const auto count = static_cast<int64_t>(updates.size()), pairs = static_cast<int64_t>(terms.size());
  if (columns == 0) return at::zeros({count, count}, options);

  std::vector<at::Tensor> ups, downs;
  at::Tensor owners = at::zeros({pairs, columns}, options);  // which columns belong to which pair
  for (int64_t t = 0, begin = 0; t < pairs; ++t) {
    const LowRankTerm& term = terms[static_cast<size_t>(t)];
    ups.push_back(term.up.detach().to(at::kCPU, at::kDouble));
    downs.push_back(term.down.detach().to(at::kCPU, at::kDouble));
    owners[t].slice(0, begin, begin + term.down.size(0)).fill_(1.0);
    begin += term.down.size(0);
  }
  at::Tensor gram;
  {
    const at::Tensor up = at::cat(ups, 1);
    gram = at::mm(up.t(), up);
  }
  {
    const at::Tensor down = at::cat(downs, 0);
    gram.mul_(at::mm(down, down.t()));
  }
  const at::Tensor of_pairs = at::mm(at::mm(owners, gram), owners.t());

  at::Tensor weights = at::zeros({count, pairs}, options);
  double* weight = weights.data_ptr<double>();
  for (size_t n = 0; n < updates.size(); ++n) {
    for (size_t k = 0; k < updates[n].size(); ++k)
      weight[static_cast<int64_t>(n) * pairs + places[n][k]] += updates[n][k].scaling;
  }
  return at::mm(at::mm(weights, of_pairs), weights.t());
}

}  // namespace msplora::analysis
