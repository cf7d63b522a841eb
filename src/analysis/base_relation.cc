#include "analysis/base_relation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <cmath>

#include "analysis/subspaces.h"

namespace msplora::analysis {
namespace {

constexpr int64_t kFirstVectors = 32;

/// Whether the value is known well enough: no further vector can lie closer, or none can carry it over one of
/// the thresholds.
bool is_decided(double seen, double rest, const std::vector<double>& thresholds) {
  if (rest <= seen) return true;
  return std::none_of(thresholds.begin(), thresholds.end(),
                      [&](double eps) { return seen < eps && eps <= rest; });
}

/// W0 + dW, formed: asked for where W0 is small.
at::Tensor adapted_weight(const SiteForm& form, const at::Tensor& weight) {
  if (form.whole) return weight + form.whole->rows(0, form.site.out_features);
  const msplora::detail::LowRank terms = stacked(form.terms());
  return terms.rank() == 0 ? weight : weight.addmm(terms.up, terms.down);
}

BaseDirections directions_beside(const SiteForm& form, const Directions& whole, const Options& options) {
  const at::Tensor weight = form.base->rows(0, form.site.out_features);
  const Directions base = directions_of(weight);
  const int64_t top = std::min(options.top, whole.count());
  BaseDirections result;
  result.left = overlap(whole.first(top).left, base.first(top).left);
  result.right = overlap(whole.first(top).right, base.first(top).right);
  const Directions adapted = directions_of(adapted_weight(form, weight)).first(options.intruder_top);
  result.similarity = intruder_similarities(
      adapted.left, base.count(), [&](int64_t count) { return base.first(count).left; }, options.thresholds);
  result.intruders = count_intruders(result.similarity, options.thresholds);
  return result;
}

}  // namespace

std::vector<double> intruder_similarities(const at::Tensor& leading, int64_t total,
                                          const LeadingVectors& vectors,
                                          const std::vector<double>& thresholds) {
  std::vector<double> similarities(static_cast<size_t>(leading.size(1)), 0.0);
  for (int64_t count = std::min(kFirstVectors, total); count > 0; count = std::min(2 * count, total)) {
    const at::Tensor seen = vectors(count);
    const at::Tensor cosines = at::mm(seen.t(), leading);
    bool all_decided = true;
    for (size_t j = 0; j < similarities.size(); ++j) {
      const at::Tensor own = cosines.select(1, static_cast<int64_t>(j));
      similarities[j] = own.abs().max().item<double>();
      const double rest = std::sqrt(std::max(0.0, 1.0 - own.square().sum().item<double>()));
      all_decided = all_decided && is_decided(similarities[j], rest, thresholds);
    }
    if (all_decided || count == total || seen.size(1) >= total) break;
  }
  return similarities;
}

std::vector<int64_t> count_intruders(const std::vector<double>& similarities,
                                     const std::vector<double>& thresholds) {
  std::vector<int64_t> counts;
  for (const double eps : thresholds) {
    counts.push_back(std::count_if(similarities.begin(), similarities.end(),
                                   [&](double similarity) { return similarity < eps; }));
  }
  return counts;
}

BaseRelation base_relation(const SiteForm& form, const Directions& whole, const Options& options) {
  BaseRelation relation;
  relation.norm = form.base->norm();
  relation.relative_norm = whole.norm / relation.norm;
  // All directions of a change of full rank are all of the space, which holds W0 whole.
  const Directions used = form.whole ? whole.first(options.top) : whole;
  relation.projected_norm = projected_norm(*form.base, used.left, used.right);
  relation.amplification = whole.norm / relation.projected_norm;
  const int64_t smaller = std::min(form.site.out_features, form.site.in_features);
  if (smaller <= options.largest_base) relation.directions = directions_beside(form, whole, options);
  return relation;
}

}  // namespace msplora::analysis
