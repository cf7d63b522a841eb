#include "report/legend.h"

#include <fmt/format.h>

#include <algorithm>

#include "report/canvas.h"

namespace msplora::report {
namespace {

std::vector<LegendEntry> left_out(const LineChart& chart) {
  std::vector<LegendEntry> entries;
  if (chart.legend) return entries;
  for (size_t i = 0; i < chart.series.size(); ++i) {
    const Series& series = chart.series[i];
    const int style = series.style.value_or(static_cast<int>(i));
    if (!series.name.empty())
      entries.push_back({series.name, style, LegendEntry::Kind::kLine, series.dashed});
  }
  return entries;
}

std::vector<LegendEntry> left_out(const StackedBars& bars) {
  return bars.legend ? std::vector<LegendEntry>() : legend_entries(bars);
}

std::vector<LegendEntry> left_out(const HeatMap&) {
  return {};
}
std::vector<LegendEntry> left_out(const Scatter&) {
  return {};
}
std::vector<LegendEntry> left_out(const Bars&) {
  return {};
}

}  // namespace

std::vector<LegendEntry> shared_legend(const std::vector<Plot>& plots) {
  std::vector<LegendEntry> entries;
  for (const Plot& plot : plots) {
    for (const LegendEntry& entry : std::visit([](const auto& data) { return left_out(data); }, plot)) {
      const bool known = std::any_of(entries.begin(), entries.end(),
                                     [&](const LegendEntry& other) { return other.name == entry.name; });
      if (!known) entries.push_back(entry);
    }
  }
  return entries;
}

std::string legend_html(const std::vector<LegendEntry>& entries) {
  if (entries.empty()) return {};
  std::string out = "<ul class=\"key\">";
  for (const LegendEntry& entry : entries) {
    Canvas canvas("");
    draw_swatch(canvas, entry, 1, 7);
    out += fmt::format("<li><svg class=\"plot\" viewBox=\"0 0 26 14\" aria-hidden=\"true\">{}</svg>{}</li>",
                       canvas.body(), escaped(entry.name));
  }
  return out + "</ul>";
}

}  // namespace msplora::report
