#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "msplora/report/numbers.h"
#include "report/canvas.h"
#include "report/frame.h"

namespace msplora::report {
namespace {

constexpr double kBarRow = 21;

bool has_bounds(const Bars& bars) {
  return std::any_of(bars.bars.begin(), bars.bars.end(), [](const auto& bar) { return bar.low && bar.high; });
}

Ticks bar_ticks(const Bars& bars, double width) {
  Extent extent(bars.value.scale);
  if (!has_bounds(bars)) extent.add(0.0);  // the length of a bar is its value
  for (const Bars::Bar& bar : bars.bars) {
    for (const double value : {bar.value, bar.low.value_or(bar.value), bar.high.value_or(bar.value)})
      extent.add(value);
  }
  for (const Reference& reference : bars.references) extent.add(reference.value);
  return choose_ticks(bars.value, {extent.low(), extent.high(), std::max(2, static_cast<int>(width / 52))});
}

/// The widest of the texts, at most `most`.
template <class TextOf>
double widest_of(const Bars& bars, double most, TextOf&& text_of) {
  double widest = 0;
  for (const Bars::Bar& bar : bars.bars) widest = std::max(widest, text_width(text_of(bar)));
  return std::min(widest, most);
}

class BarDrawing {
 public:
  BarDrawing(const Bars& bars, const std::string& id, const Detail& detail)
      : bars_(bars), detail_(detail), canvas_(id) {}

  Drawing draw() {
    const double top = draw_title(canvas_, bars_.title, bars_.width) + (bars_.references.empty() ? 4 : 18);
    const double left = widest_of(bars_, 0.42 * bars_.width, [](const auto& bar) { return bar.name; }) + 8;
    const double right = widest_of(bars_, 60, [](const auto& bar) { return number_text(bar.value, 3); }) + 8;
    const double height = bars_.bars.empty() ? 60 : kBarRow * static_cast<double>(bars_.bars.size());
    area_ = {left, top, bars_.width - right, top + height};
    ticks_ = bar_ticks(bars_, area_.width());
    for (const double value : ticks_.at) {
      canvas_.line({x_of(value), area_.top}, {x_of(value), area_.bottom}, value == 0.0 ? "a" : "g");
    }
    draw_horizontal_axis(canvas_, area_, ticks_, bars_.value.label, bars_.width);
    for (const Reference& reference : bars_.references) draw_reference(reference);
    for (size_t i = 0; i < bars_.bars.size(); ++i)
      draw_bar(bars_.bars[i], area_.top + kBarRow * (0.5 + static_cast<double>(i)));
    if (bars_.bars.empty()) draw_no_data(canvas_, area_);
    return {canvas_.body(), bars_.width, area_.bottom + horizontal_axis_height(bars_.value) + 2};
  }

 private:
  double x_of(double value) const {
    return area_.left + std::clamp(ticks_.place(value), 0.0, 1.0) * area_.width();
  }

  void draw_reference(const Reference& reference) {
    if (!ticks_.can_show(reference.value)) return;
    const double x = x_of(reference.value), width = text_width(reference.label);
    canvas_.line({x, area_.top - 3}, {x, area_.bottom}, "r");
    canvas_.text({std::clamp(x - width / 2, 0.0, std::max(0.0, bars_.width - width)), area_.top - 6},
                 reference.label, Anchor::kStart, "m");
  }

  void draw_bar(const Bars::Bar& bar, double middle) {
    canvas_.text({area_.left - 8, middle + 4}, cut_to_width(bar.name, area_.left - 8), Anchor::kEnd);
    canvas_.text({bars_.width, middle + 4}, number_text(bar.value, 3), Anchor::kEnd, "m");
    if (!ticks_.can_show(bar.value)) return;
    const std::string title = detail_.titles ? fmt::format("{}: {}", bar.name, number_text(bar.value)) : "";
    if (!has_bounds(bars_)) {
      const double zero = ticks_.scale == Scale::kLog ? area_.left : x_of(0.0), end = x_of(bar.value);
      canvas_.rectangle({std::min(zero, end), middle - 6, std::max(zero, end), middle + 6}, "class=\"f1\"",
                        title);
      return;
    }
    if (bar.low && bar.high && ticks_.can_show(*bar.low) && ticks_.can_show(*bar.high)) {
      const double low = x_of(*bar.low), high = x_of(*bar.high);
      canvas_.line({low, middle}, {high, middle}, "e c1");
      canvas_.line({low, middle - 4}, {low, middle + 4}, "e c1");
      canvas_.line({high, middle - 4}, {high, middle + 4}, "e c1");
    }
    canvas_.marker({x_of(bar.value), middle}, 1, title, 4);
  }

  const Bars& bars_;
  const Detail& detail_;
  Canvas canvas_;
  Box area_;
  Ticks ticks_;
};

}  // namespace

Drawing draw(const Bars& bars, const std::string& id, const Detail& detail) {
  return BarDrawing(bars, id, detail).draw();
}

}  // namespace msplora::report
