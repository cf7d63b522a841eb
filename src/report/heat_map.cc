#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "msplora/report/numbers.h"
#include "report/canvas.h"
#include "report/colours.h"
#include "report/frame.h"
#include "report/png.h"

namespace msplora::report {
namespace {

constexpr double kScaleHeight = 10, kCellSize = 11.5;  // the size of text in cells as in style.cc

/// Numbers in cells are short (".25", with a hyphen for a minus): the reader compares them, the table has
/// them in full.
std::string cell_text(double value, int decimals) {
  if (value == std::floor(value) && std::abs(value) < 1e4) return fmt::format("{:.0f}", value + 0.0);
  std::string text = fmt::format("{:.{}f}", std::abs(value), decimals);
  const bool zero = text.find_first_not_of("0.") == std::string::npos;
  if (text.rfind("0.", 0) == 0) text.erase(0, 1);
  return value < 0 && !zero ? fmt::format("-{}", text) : text;
}

/// How many decimals the cells have: two digits of the largest value that count, fewer where they do not fit;
/// -1 where what fits would say nothing.
int cell_decimals(const HeatMap& map, double width) {
  double largest = 0.0;
  for (const double value : map.values)
    largest = std::isfinite(value) ? std::max(largest, std::abs(value)) : largest;
  const int needed = largest >= 10 ? 0
                     : largest > 0 ? std::max(1, -static_cast<int>(std::floor(std::log10(largest))))
                                   : 1;
  for (int decimals = std::max(2, std::min(4, needed + 1)); decimals >= needed; --decimals) {
    const bool fits = std::all_of(map.values.begin(), map.values.end(), [&](double value) {
      return !std::isfinite(value) || text_width(cell_text(value, decimals), kCellSize) <= width - 1.5;
    });
    if (fits) return decimals;
  }
  return -1;
}

class HeatDrawing {
 public:
  HeatDrawing(const HeatMap& map, const std::string& id, const Detail& detail)
      : map_(map), detail_(detail), canvas_(id), rows_(map.rows.size()), columns_(map.columns.size()) {
    low_ = map.min;
    high_ = map.max;
    if (map.colours == Colours::kDiverging) {
      high_ = std::max(std::abs(map.min), std::abs(map.max));
      low_ = -high_;
    }
    if (!(low_ < high_)) high_ = low_ + 1;
  }

  Drawing draw() {
    const double top = draw_title(canvas_, map_.title, map_.width);
    place_cells(top);
    const double height = area_.bottom + (map_.column_label.empty() ? 24 : 40) + scale_height();
    if (rows_ == 0 || columns_ == 0) {
      draw_no_data(canvas_, area_);
    } else if (rows_ * columns_ > detail_.cells) {
      draw_picture();
    } else {
      draw_cells();
    }
    canvas_.rectangle(area_, "class=\"x\"");
    draw_axes(top);
    draw_scale(height - scale_height() + 4);
    return {canvas_.body(), map_.width, height};
  }

 private:
  double scale_height() const { return map_.unit.empty() ? 38 : 54; }

  void place_cells(double top) {
    double left = 0;
    for (const std::string& name : map_.rows) left = std::max(left, text_width(name));
    left = std::min(left, 0.3 * map_.width) + 6;
    const double label_row = map_.row_label.empty() ? 4 : 18;
    const double width = map_.width - left - 2;
    // Cells are squares where the map is about a square, else not higher than a line needs.
    const double square = width / static_cast<double>(std::max<size_t>(1, columns_));
    const double cell =
        std::clamp(square, 2.0, std::max(22.0, width / static_cast<double>(std::max<size_t>(1, rows_))));
    const double row = rows_ == columns_ ? cell : std::min(cell, 30.0);
    const double height = rows_ == 0 ? 80 : std::min(row * static_cast<double>(rows_), map_.width * 1.1);
    area_ = {left, top + label_row, map_.width - 2, top + label_row + height};
  }

  double place_of(double value) const { return (value / 2 - low_ / 2) / (high_ / 2 - low_ / 2); }

  std::string cell_title(size_t row, size_t column, double value) const {
    return fmt::format("{} · {}: {}", map_.rows[row], map_.columns[column],
                       std::isfinite(value) ? number_text(value) : "no value");
  }

  double value_of(size_t row, size_t column) const {
    const size_t at = row * columns_ + column;
    return at < map_.values.size() ? map_.values[at] : std::nan("");
  }

  void draw_cells() {
    const double width = area_.width() / static_cast<double>(columns_);
    const double height = area_.height() / static_cast<double>(rows_);
    const int decimals = height < 13 ? -1 : cell_decimals(map_, width);
    for (size_t row = 0; row < rows_; ++row) {
      for (size_t column = 0; column < columns_; ++column) {
        const double value = value_of(row, column);
        if (!std::isfinite(value)) continue;
        const double left = area_.left + width * static_cast<double>(column);
        const double top = area_.top + height * static_cast<double>(row);
        const Colour ground = scale_colour(map_.colours, place_of(value));
        canvas_.rectangle({left, top, left + width, top + height}, fmt::format("fill=\"{}\"", hex(ground)),
                          detail_.titles ? cell_title(row, column, value) : "");
        if (decimals < 0) continue;
        canvas_.text({left + width / 2, top + height / 2 + 4}, cell_text(value, decimals), Anchor::kMiddle,
                     ink_on(ground) == Colour{} ? "i ink0" : "i ink1");
      }
    }
  }

  void draw_picture() {
    constexpr size_t kShades = 255;
    std::vector<Colour> palette;
    for (size_t i = 0; i < kShades; ++i) {
      palette.push_back(scale_colour(map_.colours, static_cast<double>(i) / (kShades - 1)));
    }
    palette.emplace_back();  // no value
    std::vector<uint8_t> pixels;
    for (size_t i = 0; i < rows_ * columns_; ++i) {
      const double value = value_of(i / columns_, i % columns_);
      const double place = std::clamp(place_of(value), 0.0, 1.0);
      pixels.push_back(std::isfinite(value) ? static_cast<uint8_t>(std::lround(place * (kShades - 1)))
                                            : kShades);
    }
    canvas_.raw(
        fmt::format("<image x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" preserveAspectRatio=\"none\" "
                    "style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{}\"/>",
                    coordinate(area_.left), coordinate(area_.top), coordinate(area_.width()),
                    coordinate(area_.height()), base64(png(columns_, rows_, pixels, palette))));
  }

  void draw_axes(double top) {
    canvas_.text({0, top + 12}, cut_to_width(map_.row_label, map_.width), Anchor::kStart, "m");
    if (rows_ > 0) {
      const double height = area_.height() / static_cast<double>(rows_);
      const auto stride = static_cast<size_t>(std::ceil(13 / height));
      for (size_t row = 0; row < rows_; row += stride) {
        canvas_.text({area_.left - 5, area_.top + height * (static_cast<double>(row) + 0.5) + 4},
                     cut_to_width(map_.rows[row], area_.left - 6), Anchor::kEnd, "m");
      }
    }
    Axis axis;
    axis.categories = map_.columns;
    if (columns_ > 0)
      draw_horizontal_axis(canvas_, area_, choose_ticks(axis, {}), map_.column_label, map_.width);
  }

  /// The colours with their range, and marks of what to compare with.
  void draw_scale(double top) {
    const Box bar = {area_.left, top, area_.right, top + kScaleHeight};
    const std::string gradient = canvas_.id() + "-g";
    constexpr int kStops = 12;
    std::string stops;
    for (int i = 0; i <= kStops; ++i) {
      const double place = static_cast<double>(i) / kStops;
      stops += fmt::format("<stop offset=\"{}\" stop-color=\"{}\"/>", coordinate(place),
                           hex(scale_colour(map_.colours, place)));
    }
    canvas_.raw(fmt::format("<linearGradient id=\"{}\">{}</linearGradient>", gradient, stops));
    canvas_.rectangle(bar, fmt::format("fill=\"url(#{})\" class=\"x\"", gradient));
    const double middle = low_ / 2 + high_ / 2, y = bar.bottom + 15;
    canvas_.text({bar.left, y}, number_text(low_, 3), Anchor::kStart, "m");
    canvas_.text({bar.right, y}, number_text(high_, 3), Anchor::kEnd, "m");
    std::vector<Box> taken = {{bar.left, 0, bar.left + text_width(number_text(low_, 3)) + 6, 1},
                              {bar.right - text_width(number_text(high_, 3)) - 6, 0, bar.right, 1}};
    for (const Reference& reference : map_.references) {
      if (!std::isfinite(reference.value)) continue;
      const double x = bar.left + std::clamp(place_of(reference.value), 0.0, 1.0) * bar.width();
      const double half = text_width(reference.label) / 2;
      double centre = std::clamp(x, taken[0].right + half, std::max(taken[0].right + half, bar.right - half));
      for (const Box& box : taken) {
        if (box.meets({centre - half, 0, centre + half, 1})) centre = box.right + half;
      }
      if (centre + half > bar.right) continue;
      const double below = std::clamp(x, centre - half + 2, centre + half - 2);
      canvas_.polyline({{x, bar.top - 3}, {x, bar.bottom}, {below, bar.bottom + 4}}, "q");
      canvas_.text({centre, y}, reference.label, Anchor::kMiddle);
      taken.push_back({centre - half - 6, 0, centre + half + 6, 1});
    }
    const double half = text_width(number_text(middle, 3)) / 2;
    const Box box = {(bar.left + bar.right) / 2 - half, 0, (bar.left + bar.right) / 2 + half, 1};
    const bool free =
        std::none_of(taken.begin(), taken.end(), [&](const Box& other) { return other.meets(box); });
    if (free) canvas_.text({(bar.left + bar.right) / 2, y}, number_text(middle, 3), Anchor::kMiddle, "m");
    canvas_.text({(bar.left + bar.right) / 2, y + 16}, cut_to_width(map_.unit, bar.width()), Anchor::kMiddle,
                 "m");
  }

  const HeatMap& map_;
  const Detail& detail_;
  Canvas canvas_;
  size_t rows_, columns_;
  double low_ = 0, high_ = 1;
  Box area_;
};

}  // namespace

Drawing draw(const HeatMap& map, const std::string& id, const Detail& detail) {
  return HeatDrawing(map, id, detail).draw();
}

}  // namespace msplora::report
