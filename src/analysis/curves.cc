// Curves over training: the numbers of the levels at each checkpoint of a run.
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "analysis/site_form.h"
#include "analysis/snapshot.h"
#include "analysis/subspaces.h"
#include "msplora/analysis/analyze.h"
#include "msplora/core/error.h"

namespace msplora::analysis {
namespace {

/// The whole is part 0, level k is part k + 1.
const Directions& directions_of_part(const SiteSpaces& spaces, size_t part) {
  return part == 0 ? spaces.whole : spaces.levels[part - 1];
}

const Spectrum* spectrum_of_part(const SiteAnalysis& site, size_t part) {
  if (part == 0) return &site.whole;
  for (const LevelPart& level : site.levels) {
    if (level.level == part - 1) return &level.spectrum;
  }
  return nullptr;
}

void add_spectra(const Snapshot& now, size_t part, LevelCurve& curve, size_t row) {
  std::vector<double> norms, effective;
  std::vector<std::vector<double>> values(curve.values.columns);
  for (const SiteAnalysis& site : now.sites) {
    const Spectrum* spectrum = spectrum_of_part(site, part);
    if (spectrum == nullptr) continue;
    norms.push_back(spectrum->norm);
    effective.push_back(spectrum->effective_rank.value_or(NAN));
    for (size_t i = 0; i < values.size(); ++i)
      values[i].push_back(i < spectrum->values.size() ? spectrum->values[i] : 0.0);
  }
  curve.norm.push_back(mean_of(norms));
  curve.effective_rank.push_back(mean_of(effective));
  for (size_t i = 0; i < values.size(); ++i) curve.values.at(row, i) = mean_of(values[i]);
}

void add_energies(const Snapshot& now, size_t part, LevelCurve& curve) {
  if (part == 0) {
    curve.share.push_back(1.0);
    curve.own.push_back(1.0);
    return;
  }
  std::vector<double> share, own;
  for (const SiteAnalysis& site : now.sites) {
    for (const LevelPart& level : site.levels) {
      if (level.level != part - 1) continue;
      share.push_back(level.share);
      own.push_back(level.own);
    }
  }
  curve.share.push_back(mean_of(share));
  curve.own.push_back(mean_of(own));
}

void add_overlaps(const Snapshot& now, const Snapshot& last, size_t part, LevelCurve& curve) {
  std::vector<double> left, right;
  for (size_t i = 0; i < now.spaces.size(); ++i) {
    const Directions &own = directions_of_part(now.spaces[i], part),
                     &end = directions_of_part(last.spaces[i], part);
    left.push_back(overlap(own.left, end.left).phi);
    right.push_back(overlap(own.right, end.right).phi);
  }
  curve.phi_left.push_back(mean_of(left));
  curve.phi_right.push_back(mean_of(right));
}

double layer_cosine(const Snapshot& now) {
  std::vector<double> means;
  for (const StackAnalysis& stack : now.stacks) {
    for (const LayerCosines* part : own_parts(stack)) means.push_back(part->mean_absolute);
  }
  return mean_of(means);
}

Snapshot snapshot_at(const AdapterAtStep& at, int64_t step, const Options& options,
                     std::vector<std::string>& levels) {
  const std::unique_ptr<Adapter> adapter = at(step);
  levels = adapter->level_names();
  std::vector<std::string> notes;  // those of the adapter itself are told with it
  return snapshot_of(forms_of(*adapter, nullptr, notes), levels, options);
}

}  // namespace

Curves curves_of(const std::vector<int64_t>& steps, const AdapterAtStep& at, const Options& options) {
  const c10::NoGradGuard no_grad;
  Curves curves;
  curves.steps = steps;
  if (steps.empty()) return curves;
  std::vector<std::string> levels;
  const Snapshot last = snapshot_at(at, steps.back(), options, levels);
  const size_t parts = levels.size() == 1 ? 1 : levels.size() + 1;
  for (size_t part = 0; part < parts; ++part) {
    LevelCurve curve;
    curve.part = part == 0 ? "whole" : levels[part - 1];
    size_t columns = 0;
    for (const SiteAnalysis& site : last.sites) {
      const Spectrum* spectrum = spectrum_of_part(site, part);
      if (spectrum != nullptr) columns = std::max(columns, spectrum->values.size());
    }
    columns = std::min(columns, static_cast<size_t>(options.top));
    curve.values = {steps.size(), columns, std::vector<double>(steps.size() * columns, NAN)};
    curves.levels.push_back(std::move(curve));
  }
  for (size_t row = 0; row < steps.size(); ++row) {
    const bool is_last = row + 1 == steps.size();
    const Snapshot other = is_last ? Snapshot() : snapshot_at(at, steps[row], options, levels);
    const Snapshot& now = is_last ? last : other;
    for (size_t part = 0; part < parts; ++part) {
      add_spectra(now, part, curves.levels[part], row);
      add_energies(now, part, curves.levels[part]);
      add_overlaps(now, last, part, curves.levels[part]);
    }
    curves.layer_cosine.push_back(layer_cosine(now));
  }
  return curves;
}

}  // namespace msplora::analysis
