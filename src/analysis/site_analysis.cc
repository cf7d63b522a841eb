#include "analysis/site_analysis.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sort.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "analysis/base_relation.h"
#include "analysis/subspaces.h"

namespace msplora::analysis {
namespace {

Directions whole_directions(const SiteForm& form, const Options& options) {
  const Site& site = form.site;
  if (!form.whole) return directions_of(stacked(form.terms()), site.out_features, site.in_features);
  if (std::min(site.out_features, site.in_features) <= options.largest_base)
    return directions_of(form.whole->rows(0, site.out_features));
  return leading_directions(*form.whole, options.top);
}

Quantiles quantiles_of(const at::Tensor& values) {
  const at::Tensor sorted = std::get<0>(at::sort(values)).contiguous();
  const double* v = sorted.data_ptr<double>();
  const auto at_share = [&](double share) {
    const double place = share * static_cast<double>(sorted.size(0) - 1);
    const auto below = static_cast<int64_t>(place);
    const int64_t above = std::min(below + 1, sorted.size(0) - 1);
    return v[below] + (place - static_cast<double>(below)) * (v[above] - v[below]);
  };
  return {at_share(0.0), at_share(0.25), at_share(0.5), at_share(0.75), at_share(1.0)};
}

void add_weight_part(const SiteForm& form, SiteAnalysis& result) {
  const Site& site = form.site;
  const Directions low_rank = directions_of(stacked(form.terms()), site.out_features, site.in_features);
  result.low_rank = spectrum_of(low_rank);
  if (!form.scaling.left.defined()) return;
  WeightPart part;
  const RowMatrix scaled{site.out_features, site.in_features, [&](int64_t begin, int64_t end) {
                           return at::mm(form.scaling.left.slice(0, begin, end), form.scaling.right) *
                                  form.base->rows(begin, end);
                         }};
  part.norm = scaled.norm();
  part.low_rank_norm = low_rank.norm;
  if (form.scaling.gain.defined()) part.gain = quantiles_of(form.scaling.gain);
  result.weight_part = part;
}

}  // namespace

std::vector<LevelEnergy> level_energies(const at::Tensor& inner) {
  const double total = inner.sum().item<double>(), apart = inner.diagonal().sum().item<double>();
  std::vector<LevelEnergy> energies;
  for (int64_t k = 0; k < inner.size(0); ++k)
    energies.push_back({inner[k].sum().item<double>() / total, inner[k][k].item<double>() / apart});
  return energies;
}

SiteAnalysis analyze_site(const SiteForm& form, const at::Tensor& inner, const Options& options,
                          SiteSpaces& spaces) {
  const Site& site = form.site;
  SiteAnalysis result;
  result.path = site.path;
  result.module = site.module;
  result.layer = site.layer;
  result.out_features = site.out_features;
  result.in_features = site.in_features;
  for (const LowRankTerm& term : form.terms()) result.rank += term.down.size(0);

  const Directions whole = whole_directions(form, options);
  result.whole = spectrum_of(whole);
  spaces.whole = whole.first(options.top);
  if (form.whole && !form.terms().empty()) add_weight_part(form, result);

  const std::vector<LevelEnergy> energies =
      inner.defined() ? level_energies(inner) : std::vector<LevelEnergy>();
  std::vector<Directions> levels;
  for (size_t k = 0; k < form.levels.size(); ++k) {
    levels.push_back(directions_of(stacked(form.levels[k]), site.out_features, site.in_features));
    spaces.levels.push_back(levels.back().first(options.top));
    if (form.levels[k].empty()) continue;
    LevelPart part;
    part.level = k;
    for (const LowRankTerm& term : form.levels[k]) part.rank += term.down.size(0);
    part.spectrum = spectrum_of(levels.back());
    part.share = energies.at(k).share;
    part.own = energies.at(k).own;
    for (const LevelPart& other : result.levels) {
      result.overlaps.push_back({other.level, k, overlap(levels[other.level].left, levels[k].left),
                                 overlap(levels[other.level].right, levels[k].right)});
    }
    result.levels.push_back(std::move(part));
  }
  if (form.base) result.base = base_relation(form, whole, options);
  return result;
}

}  // namespace msplora::analysis
