#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "analysis/page_parts.h"

namespace msplora::analysis {
namespace {

std::vector<double> steps_of(const Curves& curves) {
  return {curves.steps.begin(), curves.steps.end()};
}

report::LineChart step_chart(const std::string& title) {
  report::LineChart chart;
  chart.title = title;
  chart.x.label = "step";
  chart.x.integer = true;
  return chart;
}

/// S_1, S_2, ... of one part.
report::LineChart value_chart(const Curves& curves, const LevelCurve& curve, const std::string& name) {
  report::LineChart chart = step_chart(name);
  chart.description = fmt::format("Leading singular values of {} over the checkpoints", name);
  chart.y.scale = report::Scale::kLog;
  for (size_t column = 0; column < curve.values.columns; ++column) {
    report::Series series;
    series.name = fmt::format("S{}", column + 1);
    series.x = steps_of(curves);
    for (size_t row = 0; row < curve.values.rows; ++row) series.y.push_back(curve.values.at(row, column));
    chart.series.push_back(std::move(series));
  }
  return chart;
}

/// A number of every part; the whole, whose shares are 1, may be left out.
report::LineChart part_chart(const Curves& curves, const std::string& title,
                             std::vector<double> LevelCurve::*values, bool with_whole) {
  report::LineChart chart = step_chart(title);
  for (size_t i = 0; i < curves.levels.size(); ++i) {
    if (i == 0 && !with_whole && curves.levels.size() > 1) continue;
    report::Series series;
    series.name = i == 0 && curves.levels.size() > 1 ? "sum" : curves.levels[i].part;
    series.x = steps_of(curves);
    series.y = curves.levels[i].*values;
    series.style = static_cast<int>(i);
    chart.series.push_back(std::move(series));
  }
  chart.y.min = 0;
  return chart;
}

report::Figure values_figure(const AdapterAnalysis& adapter, const std::string& of) {
  const Curves& curves = *adapter.curves;
  report::Figure figure;
  figure.title = "Leading singular values" + of;
  for (size_t i = 0; i < curves.levels.size(); ++i) {
    const bool is_sum = i == 0 && curves.levels.size() > 1;
    figure.plots.emplace_back(
        value_chart(curves, curves.levels[i], is_sum ? "sum of the levels" : curves.levels[i].part));
  }
  figure.caption = {
      "How the directions of each part grow. Lines that stay together grow alike; one that leaves the others "
      "is a direction that training found worth it.",
      fmt::format("{}, means over {}", counted(curves.steps.size(), "checkpoint"),
                  counted(adapter.sites.size(), "layer")),
      "singular values of the update at each checkpoint, largest first.",
      "levels are said to learn at different scales. Levels that grow at the same time to the same size "
      "would speak against it."};
  return figure;
}

report::Figure parts_figure(const AdapterAnalysis& adapter, const std::string& of) {
  const Curves& curves = *adapter.curves;
  const bool has_levels = curves.levels.size() > 1;
  report::Figure figure;
  figure.title = "Norms, shares and spaces" + of;
  figure.plots.emplace_back(part_chart(curves, "Norm", &LevelCurve::norm, true));
  if (has_levels) {
    report::LineChart share = part_chart(curves, "Share of the energy", &LevelCurve::share, false);
    share.y.min.reset();  // a share may be negative
    figure.plots.emplace_back(std::move(share));
  }
  figure.plots.emplace_back(part_chart(curves, "Effective rank", &LevelCurve::effective_rank, true));
  report::LineChart phi = part_chart(curves, "phi with the end, outputs", &LevelCurve::phi_left, true);
  report::LineChart phi_inputs = part_chart(curves, "phi with the end, inputs", &LevelCurve::phi_right, true);
  phi.y.max = phi_inputs.y.max = 1.0;
  figure.plots.emplace_back(std::move(phi));
  figure.plots.emplace_back(std::move(phi_inputs));
  report::LineChart cosine = step_chart("Mean |cosine| between layers");
  cosine.y.min = 0;
  cosine.series.push_back({"", steps_of(curves), curves.layer_cosine});
  figure.plots.emplace_back(std::move(cosine));
  figure.caption = {
      "What the parts are over training: how large, how much of the whole, how many directions, how near to "
      "where they end, and how alike layers are in what they do not share.",
      counted(curves.steps.size(), "checkpoint"),
      "phi compares the leading directions with those of the last checkpoint: 1 from where a space no longer "
      "turns.",
      "if levels took over what layers have in common, the cosine between layers would not rise over "
      "training."};
  return figure;
}

}  // namespace

report::Section training_section(const Report& report) {
  report::Section section{"Over training", {}};
  for (const AdapterAnalysis& adapter : report.adapters) {
    if (!adapter.curves || adapter.curves->steps.empty() || adapter.curves->levels.empty()) continue;
    const std::string of = report.adapters.size() > 1 ? ", " + adapter.name : "";
    section.blocks.emplace_back(values_figure(adapter, of));
    section.blocks.emplace_back(parts_figure(adapter, of));
  }
  return section;
}

}  // namespace msplora::analysis
