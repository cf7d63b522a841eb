#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "analysis/page_parts.h"
#include "msplora/report/numbers.h"

namespace msplora::analysis {
namespace {

report::StackedBars energy_bars(const PageSubject& subject, const StackAnalysis& stack) {
  const AdapterAnalysis& adapter = *subject.adapter;
  report::StackedBars bars;
  bars.title = stack.module;
  bars.description =
      fmt::format("Share of each level in the energy of the update of {}, layer by layer", stack.module);
  bars.category_label = "layer";
  bars.value.label = "share of the energy";
  bars.values_name = "wide: share";
  bars.marks_name = "narrow: own energy";
  bars.legend = false;
  for (size_t k = 0; k < adapter.levels.size(); ++k) {
    bars.parts.push_back({adapter.levels[k].name, std::vector<double>(stack.sites.size(), 0.0),
                          std::vector<double>(stack.sites.size(), 0.0), subject.style_of_level(k)});
  }
  for (size_t i = 0; i < stack.sites.size(); ++i) {
    bars.categories.push_back(stack.layers[i] < 0 ? "–" : std::to_string(stack.layers[i]));
    for (const LevelPart& part : adapter.sites[stack.sites[i]].levels) {
      bars.parts[part.level].values[i] = part.share;
      bars.parts[part.level].marks[i] = part.own;
    }
  }
  return bars;
}

/// One scale for all plots of the figure, which always shows 0 to 1.
void share_scale(std::vector<report::StackedBars>& plots) {
  double low = 0, high = 1;
  for (const report::StackedBars& bars : plots) {
    for (size_t i = 0; i < bars.categories.size(); ++i) {
      double above = 0, below = 0;
      for (const auto& part : bars.parts) (part.values[i] < 0 ? below : above) += part.values[i];
      if (std::isfinite(above)) high = std::max(high, above);
      if (std::isfinite(below)) low = std::min(low, below);
    }
  }
  for (report::StackedBars& bars : plots) {
    bars.value.min = low < 0 ? -nice_ceiling(-low) : 0.0;
    bars.value.max = high > 1.0 + 1e-9 ? std::ceil(high * 4) / 4 : 1.0;
  }
}

report::Figure energy_figure(const PageSubject& subject) {
  report::Figure figure;
  figure.title = "Energy per level" + (subject.label.empty() ? "" : ", " + subject.label);
  std::vector<report::StackedBars> plots;
  size_t sites = 0;
  for (const StackAnalysis* stack : page_stacks(*subject.adapter)) {
    plots.push_back(energy_bars(subject, *stack));
    sites += stack->sites.size();
  }
  share_scale(plots);
  for (report::StackedBars& bars : plots) figure.plots.emplace_back(std::move(bars));
  figure.caption = {
      "How much of the update each level makes up. Wide bars divide the update itself, narrow ones what the "
      "levels are on their own; where the two differ, levels work on the same directions, with or against "
      "each other.",
      counted(sites, "layer"),
      "share e = <dW_k, dW> / |dW|², own energy o = |dW_k|² / Σ|dW_j|². Both sum to 1; only e can be "
      "negative.",
      "each level is said to be of use. A level that is near 0 in both measures in all layers does nothing, "
      "and one with a large own energy and no share only takes back what others do."};
  return figure;
}

struct LevelSide {
  const char* name;
  Grid LevelGrid::*values;
  Grid LevelGrid::*random;
};

report::HeatMap overlap_map(const AdapterAnalysis& adapter, const LevelGrid& grid, const LevelSide& side,
                            const std::string& module) {
  const Grid &values = grid.*side.values, &random = grid.*side.random;
  const std::string &first = adapter.levels[grid.first].name, &second = adapter.levels[grid.second].name;
  report::HeatMap map;
  map.title = fmt::format("{}: {} and {}, {}", module, first, second, side.name);
  map.description = fmt::format("Overlap of the leading directions of the levels {} and {} in the {}", first,
                                second, side.name);
  map.row_label = "first i of " + first;
  map.column_label = "first j of " + second;
  map.unit = "phi(i, j)";
  map.values = values.values;
  for (size_t i = 0; i < values.rows; ++i) map.rows.push_back(std::to_string(i + 1));
  for (size_t j = 0; j < values.columns; ++j) map.columns.push_back(std::to_string(j + 1));
  double largest = 0;
  for (const double value : random.values) {
    if (std::isfinite(value)) largest = std::max(largest, value);
  }
  if (largest > 0) map.references = {{largest, "random " + report::number_text(largest, 2)}};
  return map;
}

report::Figure overlap_figure(const PageSubject& subject) {
  const AdapterAnalysis& adapter = *subject.adapter;
  report::Figure figure;
  figure.title = "Do levels use the same directions?" + (subject.label.empty() ? "" : " " + subject.label);
  size_t layers = 0;
  double largest = 0;
  std::vector<report::HeatMap> maps;
  for (const StackAnalysis* stack : page_stacks(adapter)) {
    layers = std::max(layers, stack->sites.size());
    for (const LevelGrid& grid : stack->levels) {
      for (const LevelSide& side : {LevelSide{"outputs", &LevelGrid::left, &LevelGrid::random_left},
                                    LevelSide{"inputs", &LevelGrid::right, &LevelGrid::random_right}}) {
        if ((grid.*side.values).values.empty()) continue;
        maps.push_back(overlap_map(adapter, grid, side, stack->module));
        for (const double value : maps.back().values) {
          if (std::isfinite(value)) largest = std::max(largest, value);
        }
        for (const auto& reference : maps.back().references) largest = std::max(largest, reference.value);
      }
    }
  }
  for (report::HeatMap& map : maps) {
    map.max = std::min(1.0, nice_ceiling(largest));
    figure.plots.emplace_back(std::move(map));
  }
  figure.caption = {fmt::format("How much of the first i directions of one level lies in the first j of "
                                "another, for outputs (U) and inputs (V). All maps have one scale, which "
                                "ends at {}.",
                                report::number_text(std::min(1.0, nice_ceiling(largest)), 2)),
                    fmt::format("means over up to {} of a module", counted(layers, "layer")),
                    "phi(i, j) = |U_iᵀV_j|² / min(i, j), the mean squared cosine of the principal angles. "
                    "Spaces drawn at random have max(i, j) / d; the mark on the scale is the largest of "
                    "these.",
                    "levels are said to hold different information. Overlaps many times above the random "
                    "value would speak against it."};
  return figure;
}

}  // namespace

report::Section levels_section(const Report& report) {
  report::Section section{"Levels beside each other", {}};
  for (const PageSubject& subject : page_subjects(report)) {
    if (subject.adapter->levels.size() < 2) continue;
    section.blocks.emplace_back(energy_figure(subject));
    report::Figure overlaps = overlap_figure(subject);
    if (!overlaps.plots.empty()) section.blocks.emplace_back(std::move(overlaps));
  }
  return section;
}

}  // namespace msplora::analysis
