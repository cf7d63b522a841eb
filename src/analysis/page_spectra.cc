#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "analysis/page_parts.h"

namespace msplora::analysis {
namespace {

report::Series spectrum_line(const Spectrum& spectrum, const std::string& name, int style,
                             bool dashed = false) {
  report::Series series;
  series.name = name;
  series.style = style;
  series.dashed = dashed;
  for (size_t i = 0; i < spectrum.values.size(); ++i) {
    series.x.push_back(static_cast<double>(i + 1));
    series.y.push_back(spectrum.values[i]);
  }
  return series;
}

/// All spectra of one layer: the whole, its levels or its low-rank part, and the other adapters.
report::LineChart spectrum_chart(const PageSubject& subject, const StackAnalysis& stack, size_t index) {
  const AdapterAnalysis& adapter = *subject.adapter;
  const SiteAnalysis& site = adapter.sites[stack.sites[index]];
  report::LineChart chart;
  chart.title = layer_name(adapter, stack, index);
  chart.description = fmt::format("Singular values of the update of {} by their rank", site.path);
  chart.x.integer = true;
  chart.x.label = "";
  chart.y.scale = report::Scale::kLog;
  chart.width = report::kSmallWidth;
  chart.height = report::kSmallHeight;
  chart.legend = false;
  const bool has_levels = adapter.levels.size() > 1;
  chart.series.push_back(spectrum_line(site.whole, has_levels ? "sum of the levels" : adapter.name, 0));
  if (site.low_rank) chart.series.push_back(spectrum_line(*site.low_rank, "its low-rank part", 1));
  if (has_levels) {
    for (const LevelPart& part : site.levels) {
      chart.series.push_back(
          spectrum_line(part.spectrum, adapter.levels[part.level].name, subject.style_of_level(part.level)));
    }
  }
  for (size_t i = 0; i < subject.beside.size(); ++i) {
    const StackAnalysis* other = same_stack(*subject.beside[i], stack);
    const SiteAnalysis* beside =
        other == nullptr ? nullptr : site_of_layer(*subject.beside[i], *other, stack.layers[index]);
    if (beside == nullptr) continue;
    chart.series.push_back(
        spectrum_line(beside->whole, subject.beside[i]->name, subject.style_of_beside(i), true));
  }
  return chart;
}

/// One range for all panels; values below a millionth of the largest stand at its edge.
void share_range(std::vector<report::LineChart>& charts) {
  double largest = 0, smallest = INFINITY, longest = 2;
  for (const report::LineChart& chart : charts) {
    for (const report::Series& series : chart.series) {
      for (const double value : series.y) {
        largest = std::max(largest, value);
        if (value > 0) smallest = std::min(smallest, value);
      }
      if (!series.x.empty()) longest = std::max(longest, series.x.back());
    }
  }
  if (!(largest > 0)) return;
  largest = nice_ceiling(largest);
  const double lowest = std::pow(10.0, std::floor(std::log10(std::max(smallest, largest * 1e-6)) + 1e-9));
  for (report::LineChart& chart : charts) {
    chart.y.max = largest;
    chart.y.min = std::min(lowest, largest / 10);
    chart.x.min = 0.5;
    chart.x.max = longest + 0.5;
  }
}

report::Figure spectra_figure(const PageSubject& subject, const StackAnalysis& stack) {
  report::Figure figure;
  figure.title = fmt::format("{}{} ({} × {})", subject.label.empty() ? "" : subject.label + ", ",
                             stack.module, stack.out_features, stack.in_features);
  const size_t stride = (stack.sites.size() + kPageLayers - 1) / kPageLayers;
  std::vector<report::LineChart> charts;
  size_t most = 0;
  for (size_t i = 0; i < stack.sites.size(); i += stride) {
    charts.push_back(spectrum_chart(subject, stack, i));
    most = std::max(most, subject.adapter->sites[stack.sites[i]].whole.values.size());
  }
  share_range(charts);
  for (report::LineChart& chart : charts) figure.plots.emplace_back(std::move(chart));
  figure.caption.n = counted(stack.sites.size(), "layer") +
                     (stride > 1 ? fmt::format(", of which one in {} is shown", stride) : std::string()) +
                     fmt::format(", up to {} each", counted(most, "value"));
  return figure;
}

}  // namespace

report::Section spectra_section(const Report& report) {
  report::Section section{"Spectra", {}};
  bool is_first = true;
  for (const PageSubject& subject : page_subjects(report)) {
    for (const StackAnalysis* stack : page_stacks(*subject.adapter)) {
      report::Figure figure = spectra_figure(subject, *stack);
      if (is_first) {
        figure.caption.shows =
            "Singular values of the update of each layer, from the largest on, on one logarithmic scale for "
            "all panels. A line that falls steeply has few directions that matter; it ends where values are "
            "rounding.";
        figure.caption.definition =
            "S of dW = Σ s B A, for the sum of all levels and for each of them alone; other adapters are "
            "dashed.";
        figure.caption.against =
            "levels are said to work at different scales. Levels whose spectra have the same height and the "
            "same fall in all layers would speak against it, and so would a sum that is no wider than its "
            "widest level.";
        is_first = false;
      }
      section.blocks.emplace_back(std::move(figure));
    }
  }
  return section;
}

}  // namespace msplora::analysis
