#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "analysis/page_parts.h"
#include "msplora/report/numbers.h"

namespace msplora::analysis {
namespace {

bool has_base(const AdapterAnalysis& adapter) {
  return std::any_of(adapter.sites.begin(), adapter.sites.end(),
                     [](const auto& site) { return site.base.has_value(); });
}

/// A number of each layer beside its weight, one line an adapter.
template <class NumberOf>
report::LineChart beside_base(const Report& report, const StackAnalysis& stack, NumberOf&& number_of) {
  report::LineChart chart;
  chart.x.label = "layer";
  chart.x.integer = true;
  chart.legend = false;
  for (size_t i = 0; i < report.adapters.size(); ++i) {
    const AdapterAnalysis& adapter = report.adapters[i];
    const StackAnalysis* own = same_stack(adapter, stack);
    if (own == nullptr || !has_base(adapter)) continue;
    report::Series series = over_layers(
        adapter, *own, [&](const SiteAnalysis& site) { return site.base ? number_of(*site.base) : NAN; });
    series.name = adapter.name;
    series.style = static_cast<int>(i);
    series.dashed = i > 0 && adapter.levels.size() < 2;
    chart.series.push_back(std::move(series));
  }
  return chart;
}

report::Figure size_figure(const Report& report, const AdapterAnalysis& adapter) {
  report::Figure figure;
  figure.title = "The update beside the weight";
  for (const StackAnalysis* stack : page_stacks(adapter)) {
    if (stack->sites.size() < 2) continue;
    report::LineChart size =
        beside_base(report, *stack, [](const BaseRelation& base) { return base.relative_norm; });
    size.title = stack->module + ": |dW| / |W0|";
    size.y.min = 0;
    report::LineChart gain =
        beside_base(report, *stack, [](const BaseRelation& base) { return base.amplification; });
    gain.title = stack->module + ": amplification";
    gain.y.scale = report::Scale::kLog;
    figure.plots.emplace_back(std::move(size));
    figure.plots.emplace_back(std::move(gain));
  }
  figure.caption = {
      "How large the update is, and how much it strengthens what the weight does in the update's own "
      "directions.",
      counted(adapter.sites.size(), "layer"),
      "Frobenius norms; amplification = |dW| / |UᵀW0V| with U, V the singular vectors of dW (LoRA, section "
      "7.3).",
      "LoRA is said to strengthen what the base knows but does not stress. An amplification near 1 would "
      "mean that the update follows the weight's own strong directions."};
  return figure;
}

/// How many vectors were looked at, and for each threshold how many are intruders.
report::Figure intruder_figure(const Report& report) {
  report::Figure figure;
  figure.title = "Intruder dimensions";
  report::LineChart chart;
  chart.description = "Number of intruder dimensions by threshold, for each adapter";
  chart.x.label = "threshold of the cosine";
  chart.y.label = "intruders, share of the vectors";
  chart.y.min = 0;
  size_t looked_at = 0;
  for (size_t i = 0; i < report.adapters.size(); ++i) {
    std::vector<double> counts(report.options.thresholds.size(), 0.0);
    size_t vectors = 0;
    for (const SiteAnalysis& site : report.adapters[i].sites) {
      if (!site.base || !site.base->directions) continue;
      const BaseDirections& directions = *site.base->directions;
      vectors += directions.similarity.size();
      for (size_t t = 0; t < std::min(counts.size(), directions.intruders.size()); ++t) {
        counts[t] += static_cast<double>(directions.intruders[t]);
      }
    }
    if (vectors == 0) continue;
    looked_at += vectors;
    for (double& count : counts) count /= static_cast<double>(vectors);
    report::Series series;
    series.name = report.adapters[i].name;
    series.x = report.options.thresholds;
    series.y = std::move(counts);
    series.style = static_cast<int>(i);
    series.dashed = i > 0 && report.adapters[i].levels.size() < 2;
    chart.series.push_back(std::move(series));
  }
  if (looked_at == 0) return figure;
  figure.plots.emplace_back(std::move(chart));
  figure.caption = {
      "Leading directions of the adapted weight that no direction of the base resembles, for every threshold "
      "of likeness.",
      fmt::format("{} vectors, the {} leading ones of each layer", looked_at, report.options.intruder_top),
      fmt::format("left singular vectors u of W0 + dW whose largest |cosine| with any left singular vector "
                  "of W0 lies below the threshold; {} is usual (arXiv 2410.21228).",
                  report::number_text(report.options.threshold, 2)),
      "low-rank updates are said to bring in directions that full fine-tuning does not. A curve at 0 for all "
      "thresholds up to 0.9 would speak against it."};
  return figure;
}

report::Figure gain_figure(const AdapterAnalysis& adapter) {
  report::Figure figure;
  figure.title = fmt::format("Gain of the rows, {}", adapter.name);
  for (const StackAnalysis* stack : page_stacks(adapter)) {
    report::LineChart chart;
    chart.title = stack->module;
    chart.description = fmt::format("Quartiles of the gain of the rows of {} by layer", stack->module);
    chart.x.label = "layer";
    chart.x.integer = true;
    chart.references = {{1.0, "unchanged"}};
    report::Series series = over_layers(adapter, *stack, [](const SiteAnalysis& site) {
      return site.weight_part && site.weight_part->gain ? site.weight_part->gain->median : NAN;
    });
    for (const size_t index : stack->sites) {
      const SiteAnalysis& site = adapter.sites[index];
      const bool known = site.weight_part && site.weight_part->gain;
      series.low.push_back(known ? site.weight_part->gain->lower_quartile : NAN);
      series.high.push_back(known ? site.weight_part->gain->upper_quartile : NAN);
    }
    const bool any =
        std::any_of(series.y.begin(), series.y.end(), [](double value) { return std::isfinite(value); });
    chart.series.push_back(std::move(series));
    if (any) figure.plots.emplace_back(std::move(chart));
  }
  figure.caption.shows =
      "Median and quartiles of what each row of the weight is multiplied by: 1 leaves it as it was.";
  figure.caption.definition = "g of dW = diag(g − 1) W0 + diag(g) s B A.";
  return figure;
}

}  // namespace

report::Section base_section(const Report& report) {
  report::Section section{"The update and its base", {}};
  const auto first = std::find_if(report.adapters.begin(), report.adapters.end(), has_base);
  if (first != report.adapters.end()) {
    report::Figure sizes = size_figure(report, *first), intruders = intruder_figure(report);
    if (!sizes.plots.empty()) section.blocks.emplace_back(std::move(sizes));
    if (!intruders.plots.empty()) section.blocks.emplace_back(std::move(intruders));
  }
  for (const AdapterAnalysis& adapter : report.adapters) {
    report::Figure gains = gain_figure(adapter);
    if (!gains.plots.empty()) section.blocks.emplace_back(std::move(gains));
  }
  return section;
}

}  // namespace msplora::analysis
