#pragma once

#include <fmt/format.h>

#include <cmath>
#include <string>
#include <vector>

#include "msplora/analysis/report.h"

namespace msplora::analysis {

/// Numbers that could be those of an analysis, made by formulas.
inline Spectrum invented_spectrum(int64_t rank, double first, double fall) {
  Spectrum spectrum;
  double sum = 0;
  for (int64_t i = 0; i < rank; ++i) {
    spectrum.values.push_back(first * std::exp(-fall * static_cast<double>(i)));
    sum += spectrum.values.back() * spectrum.values.back();
  }
  spectrum.norm = std::sqrt(sum);
  spectrum.stable_rank = sum / (first * first);
  spectrum.effective_rank = 1 + static_cast<double>(rank - 1) / (1 + fall);
  spectrum.rank_99 = rank;
  return spectrum;
}

inline Grid invented_grid(size_t rows, size_t columns, double size, int seed) {
  Grid grid{rows, columns, {}};
  for (size_t i = 0; i < rows * columns; ++i)
    grid.values.push_back(size * std::sin(seed + 1.7 * static_cast<double>(i * i)));
  return grid;
}

inline StackAnalysis invented_stack(const AdapterAnalysis& adapter, const std::string& module, size_t layers,
                                    int seed) {
  StackAnalysis stack;
  stack.module = module;
  stack.out_features = stack.in_features = 768;
  std::vector<std::string> parts = {"whole"};
  if (adapter.levels.size() > 1) {
    for (const LevelSummary& level : adapter.levels) parts.push_back(level.name);
  }
  for (const std::string& part : parts) {
    const bool is_shared = part == "global";
    const Grid cosines = invented_grid(layers, layers, part == "layer" ? 0.02 : 0.3, seed);
    stack.cosines.push_back({part, is_shared, cosines, part == "layer" ? 0.013 : 0.19, 0.001});
    Grid phi = invented_grid(layers, layers, 0.2, seed);
    for (double& value : phi.values) value = std::abs(value);
    stack.spaces.push_back({part, is_shared, phi, phi, 0.13, 0.13, 0.0104, 0.0104, 0.2, 0.2, 1.0 / 12});
  }
  for (size_t first = 0; first < adapter.levels.size(); ++first) {
    for (size_t second = first + 1; second < adapter.levels.size(); ++second) {
      LevelGrid grid{first, second, {}, {}, {}, {}};
      const auto size = [&](size_t level) { return static_cast<size_t>(adapter.levels[level].rank); };
      grid.left = grid.right = invented_grid(size(first), size(second), 0.03, seed);
      for (double& value : grid.left.values) value = std::abs(value);
      for (double& value : grid.right.values) value = std::abs(value) / 2;
      grid.random_left = grid.random_right = invented_grid(size(first), size(second), 0, 0);
      for (double& value : grid.random_left.values) value = 0.0104;
      grid.random_right = grid.random_left;
      stack.levels.push_back(grid);
    }
  }
  return stack;
}

/// An adapter with these levels: name and rank each; "global" is shared.
inline AdapterAnalysis invented_adapter(const std::string& name,
                                        const std::vector<std::pair<std::string, int64_t>>& levels,
                                        const std::vector<std::string>& modules, size_t layers) {
  AdapterAnalysis adapter;
  adapter.name = name;
  adapter.path = "runs/" + name;
  adapter.method = levels.size() > 1 ? "msplora" : "lora";
  adapter.line = adapter.method + ", invented";
  adapter.base = "models/base";
  adapter.parameters = 294912;
  int64_t rank = 0;
  for (const auto& [level, size] : levels) {
    adapter.levels.push_back({level, level == "global", static_cast<int64_t>(layers), 1000, size,
                              1.0 / levels.size(), 1.0 / levels.size(), 0.5, 1.8, 3.2, 3, 4, 5});
    rank += size;
  }
  int seed = 0;
  for (const std::string& module : modules) {
    StackAnalysis stack = invented_stack(adapter, module, layers, ++seed);
    for (size_t layer = 0; layer < layers; ++layer) {
      SiteAnalysis site;
      site.path = fmt::format("encoder.layer.{}.{}", layer, module);
      site.module = module;
      site.layer = static_cast<int64_t>(layer);
      site.rank = rank;
      const double wave = 1 + 0.4 * std::sin(0.7 * static_cast<double>(layer) + seed);
      site.whole = invented_spectrum(rank, wave, 0.35);
      for (size_t k = 0; k < levels.size(); ++k) {
        const double share = k == 0 ? 0.5 * wave : (1 - 0.5 * wave) / static_cast<double>(levels.size() - 1);
        site.levels.push_back({k, levels[k].second,
                               invented_spectrum(levels[k].second, wave / (1.0 + k), 0.3 + 0.2 * k),
                               levels.size() == 1 ? 1.0 : share, 1.0 / levels.size()});
      }
      BaseRelation base;
      base.norm = 40;
      base.relative_norm = 0.02 * wave;
      base.amplification = 5 * wave;
      base.directions = BaseDirections{
          {0.1, 0.01}, {0.1, 0.01}, std::vector<double>(10, 0.55), {0, 0, 0, 0, 0, 10, 10, 10, 10}};
      site.base = base;
      stack.sites.push_back(adapter.sites.size());
      stack.layers.push_back(site.layer);
      adapter.sites.push_back(site);
    }
    adapter.stacks.push_back(stack);
  }
  adapter.findings = {{"spare rank", "5 of 8 directions hold 99 % of its energy.",
                       "adapter:\n  method: " + adapter.method + "\n"}};
  return adapter;
}

inline Curves invented_curves(const AdapterAnalysis& adapter) {
  Curves curves;
  curves.steps = {100, 200, 300, 400};
  std::vector<std::string> parts = {"whole"};
  if (adapter.levels.size() > 1) {
    for (const LevelSummary& level : adapter.levels) parts.push_back(level.name);
  }
  for (const std::string& part : parts) {
    LevelCurve curve;
    curve.part = part;
    curve.values = Grid{4, 8, {}};
    for (int row = 1; row <= 4; ++row) {
      for (int i = 0; i < 8; ++i) curve.values.values.push_back(row * std::exp(-0.3 * i));
      curve.norm.push_back(row * 0.3);
      curve.share.push_back(part == "whole" ? 1.0 : part == "layer" ? -0.05 * row : 0.4);
      curve.own.push_back(0.3);
      curve.effective_rank.push_back(2.0 + row);
      curve.phi_left.push_back(0.25 * row);
      curve.phi_right.push_back(0.2 * row + 0.2);
    }
    curves.levels.push_back(curve);
  }
  curves.layer_cosine = {0.01, 0.02, 0.04, 0.05};
  return curves;
}

}  // namespace msplora::analysis
