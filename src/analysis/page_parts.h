#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "msplora/analysis/report.h"
#include "msplora/report/page.h"

namespace msplora::analysis {

/// What a page shows of very many.
inline constexpr size_t kPageModules = 8, kPageLayers = 24;

/// An adapter that has figures of its own, and those that stand in them.
struct PageSubject {
  const AdapterAnalysis* adapter = nullptr;
  std::vector<const AdapterAnalysis*> beside;

  /// The styles of lines: 0 is the whole, then levels, then other adapters.
  int style_of_level(size_t level) const { return 1 + static_cast<int>(level); }
  int style_of_beside(size_t index) const;
  /// "adapter a" where there are several subjects, to be put into titles.
  std::string label;
};

/// Adapters with several levels, or the first one where there are none.
std::vector<PageSubject> page_subjects(const Report& report);

/// The stacks that are shown, the largest number of layers first kept; at most kPageModules.
std::vector<const StackAnalysis*> page_stacks(const AdapterAnalysis& adapter);
/// The stack of the same module and shape, or null.
const StackAnalysis* same_stack(const AdapterAnalysis& adapter, const StackAnalysis& stack);
/// The site of a stack's layer, or null.
const SiteAnalysis* site_of_layer(const AdapterAnalysis& adapter, const StackAnalysis& stack, int64_t layer);
/// "layer 3", or the path of what lies outside of the blocks.
std::string layer_name(const AdapterAnalysis& adapter, const StackAnalysis& stack, size_t index);

/// One line of a chart over layers: `value_of(site)` is NaN where the site has no such number.
template <class ValueOf>
report::Series over_layers(const AdapterAnalysis& adapter, const StackAnalysis& stack, ValueOf&& value_of) {
  report::Series series;
  for (size_t i = 0; i < stack.sites.size(); ++i) {
    series.x.push_back(static_cast<double>(stack.layers[i]));
    series.y.push_back(value_of(adapter.sites[stack.sites[i]]));
  }
  return series;
}

/// 1, 2 or 5 times a power of ten, at least `value`: where a scale of colours ends.
double nice_ceiling(double value);

/// "3 layers", "1 layer".
std::string counted(size_t count, const std::string& noun);

/// Sections of the page; one without blocks has nothing to show.
report::Section spectra_section(const Report& report);
report::Section levels_section(const Report& report);
report::Section layers_section(const Report& report);
report::Section ranks_section(const Report& report);
report::Section base_section(const Report& report);
report::Section training_section(const Report& report);

}  // namespace msplora::analysis
