#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "analysis/page_parts.h"
#include "msplora/report/numbers.h"

namespace msplora::analysis {
namespace {

const Spectrum* spectrum_of_level(const SiteAnalysis& site, size_t level) {
  for (const LevelPart& part : site.levels) {
    if (part.level == level) return &part.spectrum;
  }
  return nullptr;
}

/// A number of a spectrum by layer: of the whole, of each level, and of the adapters beside.
template <class NumberOf>
report::LineChart by_layer(const PageSubject& subject, const StackAnalysis& stack, NumberOf&& number_of) {
  const AdapterAnalysis& adapter = *subject.adapter;
  report::LineChart chart;
  chart.x.label = "layer";
  chart.x.integer = true;
  chart.legend = false;
  const bool has_levels = adapter.levels.size() > 1;
  report::Series whole =
      over_layers(adapter, stack, [&](const SiteAnalysis& site) { return number_of(site.whole); });
  whole.name = has_levels ? "sum of the levels" : adapter.name;
  whole.style = 0;
  chart.series.push_back(std::move(whole));
  for (size_t k = 0; has_levels && k < adapter.levels.size(); ++k) {
    report::Series series = over_layers(adapter, stack, [&](const SiteAnalysis& site) {
      const Spectrum* spectrum = spectrum_of_level(site, k);
      return spectrum == nullptr ? NAN : number_of(*spectrum);
    });
    series.name = adapter.levels[k].name;
    series.style = subject.style_of_level(k);
    chart.series.push_back(std::move(series));
  }
  for (size_t i = 0; i < subject.beside.size(); ++i) {
    const StackAnalysis* other = same_stack(*subject.beside[i], stack);
    if (other == nullptr) continue;
    report::Series series = over_layers(*subject.beside[i], *other,
                                        [&](const SiteAnalysis& site) { return number_of(site.whole); });
    series.name = subject.beside[i]->name;
    series.style = subject.style_of_beside(i);
    series.dashed = true;
    chart.series.push_back(std::move(series));
  }
  return chart;
}

double zero_is_missing(double value) {
  return value > 0.0 ? value : NAN;
}

report::Figure ranks_figure(const PageSubject& subject) {
  report::Figure figure;
  figure.title = "Stable and effective rank by layer" + (subject.label.empty() ? "" : ", " + subject.label);
  for (const StackAnalysis* stack : page_stacks(*subject.adapter)) {
    if (stack->sites.size() < 2) continue;
    report::LineChart stable =
        by_layer(subject, *stack, [](const Spectrum& s) { return zero_is_missing(s.stable_rank); });
    stable.title = stack->module + ": stable rank";
    stable.y.min = 0;
    report::LineChart effective =
        by_layer(subject, *stack, [](const Spectrum& s) { return s.effective_rank.value_or(NAN); });
    effective.title = stack->module + ": effective rank";
    effective.y.min = 0;
    figure.plots.emplace_back(std::move(stable));
    figure.plots.emplace_back(std::move(effective));
  }
  figure.caption = {
      "How many directions an update really uses. Where both numbers lie far below the rank, a smaller rank "
      "would do.",
      counted(subject.adapter->sites.size(), "layer"),
      "stable rank |dW|² / S₁² (how much more than the first direction); effective rank exp(−Σ p ln p) with "
      "p = S / ΣS (Roy and Vetterli 2007). 1 ≤ stable rank ≤ rank.",
      "parts of single layers are said to need the least rank. An effective rank as high as that of the "
      "shared levels would speak against ranks that fall from level to level."};
  return figure;
}

}  // namespace

report::Section ranks_section(const Report& report) {
  report::Section section{"Rank", {}};
  for (const PageSubject& subject : page_subjects(report)) {
    report::Figure figure = ranks_figure(subject);
    if (!figure.plots.empty()) section.blocks.emplace_back(std::move(figure));
  }
  return section;
}

}  // namespace msplora::analysis
