#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "msplora/report/numbers.h"
#include "report/canvas.h"
#include "report/frame.h"

namespace msplora::report {
namespace {

int part_style(const StackedBars& bars, size_t part) {
  return bars.parts[part].style.value_or(static_cast<int>(part) + 1);
}

double part_value(const std::vector<double>& values, size_t i) {
  return i < values.size() && std::isfinite(values[i]) ? values[i] : 0.0;
}

bool has_marks(const StackedBars& bars) {
  return std::any_of(bars.parts.begin(), bars.parts.end(),
                     [](const auto& part) { return !part.marks.empty(); });
}

/// What stacks reach above and below 0.
Extent stack_extent(const StackedBars& bars) {
  Extent extent(Scale::kLinear);
  extent.add(0.0);
  for (size_t i = 0; i < bars.categories.size(); ++i) {
    for (const bool marks : {false, true}) {
      double above = 0, below = 0;
      for (const StackedBars::Part& part : bars.parts) {
        const double value = part_value(marks ? part.marks : part.values, i);
        (value < 0 ? below : above) += value;
      }
      extent.add(above);
      extent.add(below);
    }
  }
  return extent;
}

class StackDrawing {
 public:
  StackDrawing(const StackedBars& bars, const std::string& id, const Detail& detail)
      : bars_(bars), detail_(detail), canvas_(id) {}

  Drawing draw() {
    const std::vector<LegendEntry> entries =
        bars_.legend ? legend_entries(bars_) : std::vector<LegendEntry>();
    Axis categories;
    categories.label = bars_.category_label;
    categories.categories = bars_.categories;
    FrameRequest request{draw_title(canvas_, bars_.title, bars_.width),
                         bars_.width,
                         bars_.height,
                         2,
                         0,
                         Extent(Scale::kLinear),
                         stack_extent(bars_)};
    request.bottom = legend_height(entries, bars_.width);
    request.height += request.bottom;
    frame_ = draw_frame(canvas_, categories, bars_.value, request);
    if (bars_.categories.empty() || bars_.parts.empty()) draw_no_data(canvas_, frame_.area);
    const double slot =
        frame_.area.width() / static_cast<double>(std::max<size_t>(1, bars_.categories.size()));
    const double width = std::min(slot * (has_marks(bars_) ? 0.54 : 0.74), 42.0);
    const double narrow = std::clamp(slot * 0.16, 1.5, 7.0);
    for (size_t i = 0; i < bars_.categories.size(); ++i) {
      const double middle = frame_.x_of(static_cast<double>(i));
      const double left = has_marks(bars_) ? middle - (width + narrow + 1) / 2 : middle - width / 2;
      draw_stack(i, left, width, false);
      if (has_marks(bars_)) draw_stack(i, left + width + 1, narrow, true);
    }
    draw_legend(canvas_, entries, request.height - request.bottom, bars_.width);
    return {canvas_.body(), bars_.width, request.height};
  }

 private:
  void draw_stack(size_t category, double left, double width, bool marks) {
    double above = 0, below = 0;
    for (size_t p = 0; p < bars_.parts.size(); ++p) {
      const StackedBars::Part& part = bars_.parts[p];
      const double value = part_value(marks ? part.marks : part.values, category);
      if (value == 0.0) continue;
      double& base = value < 0 ? below : above;
      const double from = frame_.y_of(base), to = frame_.y_of(base + value);
      base += value;
      Box box = {left, std::min(from, to), left + width, std::max(from, to)};
      if (box.height() > 2.5) box.bottom -= 0.8;  // parts of like colours stay apart
      const int style = style_index(part_style(bars_, p));
      const std::string& what = marks ? bars_.marks_name : bars_.values_name;
      const std::string title = detail_.titles
                                    ? fmt::format("{} · {}: {}{}{}", bars_.categories[category], part.name,
                                                  number_text(value), what.empty() ? "" : ", ", what)
                                    : std::string();
      canvas_.rectangle(box, fmt::format("class=\"f{}\"", style), title);
      if (!marks && width > 5) canvas_.rectangle(box, fmt::format("class=\"p{}\"", style));
    }
  }

  const StackedBars& bars_;
  const Detail& detail_;
  Canvas canvas_;
  Frame frame_;
};

}  // namespace

std::vector<LegendEntry> legend_entries(const StackedBars& bars) {
  std::vector<LegendEntry> entries;
  for (size_t i = 0; i < bars.parts.size(); ++i) {
    entries.push_back({bars.parts[i].name, part_style(bars, i), LegendEntry::Kind::kBox, false});
  }
  if (has_marks(bars)) {
    if (!bars.values_name.empty()) entries.push_back({bars.values_name, 7, LegendEntry::Kind::kBox, false});
    if (!bars.marks_name.empty())
      entries.push_back({bars.marks_name, 7, LegendEntry::Kind::kNarrowBox, false});
  }
  return entries;
}

Drawing draw(const StackedBars& bars, const std::string& id, const Detail& detail) {
  return StackDrawing(bars, id, detail).draw();
}

}  // namespace msplora::report
