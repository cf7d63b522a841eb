#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "analysis/page_parts.h"
#include "msplora/report/numbers.h"

namespace msplora::analysis {
namespace {

std::string part_name(const Report& report, const AdapterAnalysis& adapter, const std::string& part) {
  const bool has_levels = adapter.levels.size() > 1;
  const std::string what = has_levels ? part : std::string();
  if (report.adapters.size() == 1) return has_levels ? what : adapter.name;
  return has_levels ? adapter.name + ", " + what : adapter.name;
}

/// Whether a part says something: what layers share is alike by construction, and the only level of an
/// adapter is its whole.
template <class Part>
bool is_shown(const AdapterAnalysis& adapter, const Part& part) {
  return !part.is_shared && (adapter.levels.size() > 1 || part.part == "whole");
}

report::HeatMap layer_map(const StackAnalysis& stack, const Grid& grid, const std::string& title) {
  report::HeatMap map;
  map.title = title;
  map.row_label = map.column_label = "layer";
  map.values = grid.values;
  for (size_t i = 0; i < grid.rows; ++i) {
    map.rows.push_back(std::to_string(stack.layers[i]));
    map.columns.push_back(std::to_string(stack.layers[i]));
    map.values[i * grid.columns + i] = NAN;  // 1 by construction
  }
  return map;
}

double largest_shown(const std::vector<report::HeatMap>& maps) {
  double largest = 0;
  for (const report::HeatMap& map : maps) {
    for (const double value : map.values) {
      if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
    }
    for (const report::Reference& reference : map.references) largest = std::max(largest, reference.value);
  }
  return std::min(1.0, nice_ceiling(largest));
}

/// What the adapters have of one module, whichever of them has it first.
template <class Use>
void for_each_part(const Report& report, const StackAnalysis& stack, Use&& use) {
  for (const AdapterAnalysis& adapter : report.adapters) {
    const StackAnalysis* own = same_stack(adapter, stack);
    if (own != nullptr && own->sites.size() > 1) use(adapter, *own);
  }
}

report::Figure cosine_figure(const Report& report, const StackAnalysis& stack) {
  report::Figure figure;
  figure.title = fmt::format("How alike are the updates of two layers? {}", stack.module);
  std::vector<report::HeatMap> maps;
  for_each_part(report, stack, [&](const AdapterAnalysis& adapter, const StackAnalysis& own) {
    for (const LayerCosines& cosines : own.cosines) {
      if (!is_shown(adapter, cosines)) continue;
      report::HeatMap map = layer_map(own, cosines.cosines, part_name(report, adapter, cosines.part));
      map.description = fmt::format("Cosine of the updates of each pair of layers of {}", stack.module);
      map.colours = report::Colours::kDiverging;
      map.unit = "cosine";
      map.references = {{cosines.random, "random"}};
      maps.push_back(std::move(map));
    }
  });
  const double largest = largest_shown(maps);
  for (report::HeatMap& map : maps) {
    map.min = -largest;
    map.max = largest;
    figure.plots.emplace_back(std::move(map));
  }
  const size_t layers = stack.sites.size();
  figure.caption.n =
      fmt::format("{}, {} of them", counted(layers, "layer"), counted(layers * (layers - 1) / 2, "pair"));
  figure.caption.shows =
      fmt::format("One scale for all maps, from −{0} to {0}.", report::number_text(largest, 2));
  return figure;
}

/// The means beside the random line: what the maps come to.
report::Figure redundancy_figure(const Report& report, const std::vector<const StackAnalysis*>& stacks) {
  report::Figure figure;
  figure.title = "Redundancy: mean |cosine| over pairs of layers";
  for (const StackAnalysis* stack : stacks) {
    report::Bars bars;
    bars.title = stack->module;
    bars.description =
        fmt::format("Mean absolute cosine between the updates of different layers of {}", stack->module);
    bars.value.label = "mean |cosine|";
    for_each_part(report, *stack, [&](const AdapterAnalysis& adapter, const StackAnalysis& own) {
      for (const LayerCosines& cosines : own.cosines) {
        if (!is_shown(adapter, cosines)) continue;
        bars.bars.push_back({part_name(report, adapter, cosines.part), cosines.mean_absolute});
        bars.references = {{cosines.random, "random " + report::number_text(cosines.random, 2)}};
      }
    });
    figure.plots.emplace_back(std::move(bars));
  }
  figure.caption = {
      "How much the layers repeat each other, in each part that they do not share. Shared levels are left "
      "out: their cosine is 1 by construction.",
      counted(stacks.size(), "module"),
      "mean of |<dW_i, dW_j>| / (|dW_i| |dW_j|) over pairs of layers. Independent Gaussian factors have √(2 "
      "/ (π out in)).",
      "the hierarchy is said to reduce redundancy between layers. Parts of single layers that are as alike "
      "as LoRA's of the same rank would speak against it; LoRA at the random line would mean that there is "
      "nothing to reduce. One seed decides neither."};
  return figure;
}

report::Figure spaces_figure(const Report& report, const StackAnalysis& stack) {
  report::Figure figure;
  figure.title = fmt::format("Do layers use the same directions? {}", stack.module);
  std::vector<report::HeatMap> maps;
  for_each_part(report, stack, [&](const AdapterAnalysis& adapter, const StackAnalysis& own) {
    for (const LayerSpaces& spaces : own.spaces) {
      if (!is_shown(adapter, spaces)) continue;
      const std::string name = part_name(report, adapter, spaces.part);
      for (const bool left : {true, false}) {
        report::HeatMap map =
            layer_map(own, left ? spaces.left : spaces.right, name + (left ? ", outputs" : ", inputs"));
        const double random = left ? spaces.random_left : spaces.random_right;
        map.description =
            fmt::format("Overlap of the leading directions of each pair of layers of {}", stack.module);
        map.unit = "phi";
        map.references = {{random, "random " + report::number_text(random, 2)}};
        maps.push_back(std::move(map));
      }
    }
  });
  const double largest = largest_shown(maps);
  for (report::HeatMap& map : maps) {
    map.max = largest;
    figure.plots.emplace_back(std::move(map));
  }
  figure.caption.shows =
      fmt::format("One scale for all maps, from 0 to {}.", report::number_text(largest, 2));
  figure.caption.n = fmt::format("{} of {}, {} leading directions each", counted(stack.sites.size(), "layer"),
                                 stack.module, report.options.top);
  return figure;
}

/// Modules of all adapters, each once, that have several layers.
std::vector<const StackAnalysis*> modules_of(const Report& report) {
  std::vector<const StackAnalysis*> stacks;
  for (const AdapterAnalysis& adapter : report.adapters) {
    for (const StackAnalysis* stack : page_stacks(adapter)) {
      const bool known = std::any_of(stacks.begin(), stacks.end(), [&](const StackAnalysis* other) {
        return other->module == stack->module && other->out_features == stack->out_features &&
               other->in_features == stack->in_features;
      });
      if (!known && stack->sites.size() > 1 && !stack->cosines.empty()) stacks.push_back(stack);
    }
  }
  if (stacks.size() > kPageModules) stacks.resize(kPageModules);
  return stacks;
}

}  // namespace

report::Section layers_section(const Report& report) {
  report::Section section{"Layers beside each other", {}};
  const std::vector<const StackAnalysis*> stacks = modules_of(report);
  if (stacks.empty()) return section;
  section.blocks.emplace_back(redundancy_figure(report, stacks));
  for (const StackAnalysis* stack : stacks) {
    report::Figure figure = cosine_figure(report, *stack);
    if (stack == stacks.front()) {
      figure.caption.shows +=
          " The diagonal, 1 by construction, is left empty. The whole of an adapter with shared levels is "
          "more alike than LoRA's by construction and decides nothing.";
      figure.caption.definition = "<dW_i, dW_j> / (|dW_i| |dW_j|) of the layers i and j.";
      figure.caption.against =
          "blocks of strong colour in the parts of single layers are layers that repeat each other: the "
          "levels above them did not take that over.";
    }
    section.blocks.emplace_back(std::move(figure));
  }
  for (const StackAnalysis* stack : stacks) {
    report::Figure figure = spaces_figure(report, *stack);
    if (figure.plots.empty()) continue;
    if (stack == stacks.front()) {
      figure.caption.definition =
          "phi = |U_iᵀU_j|² / k of the k leading left (outputs) or right (inputs) directions of two layers: "
          "1 where they span one space.";
      figure.caption.against =
          "layers that share directions without sharing factors spend parameters twice: values far above the "
          "random one in the parts of single layers speak against the hierarchy.";
    }
    section.blocks.emplace_back(std::move(figure));
  }
  return section;
}

}  // namespace msplora::analysis
