#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "msplora/report/numbers.h"
#include "report/canvas.h"
#include "report/frame.h"

namespace msplora::report {
namespace {

constexpr double kNameGap = 13;

int line_style(const LineChart& chart, size_t i) {
  return chart.series[i].style.value_or(static_cast<int>(i));
}

double value_at(const std::vector<double>& values, size_t i) {
  return i < values.size() ? values[i] : std::nan("");
}

/// The parts of a line between missing values.
std::vector<std::vector<size_t>> pieces_of(const Frame& frame, const Series& series) {
  std::vector<std::vector<size_t>> pieces(1);
  for (size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i) {
    if (frame.can_show(series.x[i], series.y[i])) {
      pieces.back().push_back(i);
    } else if (!pieces.back().empty()) {
      pieces.emplace_back();
    }
  }
  if (pieces.back().empty()) pieces.pop_back();
  return pieces;
}

class LineDrawing {
 public:
  LineDrawing(const LineChart& chart, const std::string& id, const Detail& detail)
      : chart_(chart), detail_(detail), canvas_(id) {}

  Drawing draw() {
    FrameRequest request = plan();
    frame_ = draw_frame(canvas_, chart_.x, chart_.y, request);
    for (const Reference& reference : chart_.references) draw_reference(reference);
    bool any = false;
    for (size_t i = 0; i < chart_.series.size(); ++i) any = draw_series(i) || any;
    if (!any) draw_no_data(canvas_, frame_.area);
    if (at_ends_) draw_names();
    if (!entries_.empty()) draw_legend(canvas_, entries_, request.height - request.bottom, chart_.width);
    return {canvas_.body(), chart_.width, request.height};
  }

 private:
  /// Ranges, and where names stand: at the ends of the lines while there is room for all of them.
  FrameRequest plan() {
    Extent x(chart_.x.scale), y(chart_.y.scale);
    double widest = 0;
    size_t names = 0;
    for (const Series& series : chart_.series) {
      for (size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i) {
        x.add(series.x[i]);
        for (const double value : {series.y[i], value_at(series.low, i), value_at(series.high, i)})
          y.add(value);
      }
      if (!series.name.empty()) ++names;
      widest = std::max(widest, text_width(series.name));
    }
    for (const Reference& reference : chart_.references) y.add(reference.value);
    FrameRequest request;
    request.x = x;
    request.y = y;
    request.top = draw_title(canvas_, chart_.title, chart_.width);
    request.width = chart_.width;
    request.height = chart_.height;
    const double room = chart_.height - request.top - 18 - horizontal_axis_height(chart_.x);
    const size_t rows = names + chart_.references.size();
    at_ends_ = chart_.legend && names > 0 && static_cast<double>(rows) * kNameGap <= room &&
               widest <= 0.34 * chart_.width;
    if (at_ends_) {
      for (const Reference& reference : chart_.references)
        widest = std::max(widest, text_width(reference.label));
      request.right = std::min(widest, 0.34 * chart_.width) + 12;
    } else if (chart_.legend && names > 0) {
      for (size_t i = 0; i < chart_.series.size(); ++i) {
        const Series& series = chart_.series[i];
        if (!series.name.empty()) {
          entries_.push_back({series.name, line_style(chart_, i), LegendEntry::Kind::kLine, series.dashed});
        }
      }
      request.bottom = legend_height(entries_, chart_.width);
      request.height += request.bottom;
    }
    return request;
  }

  void draw_reference(const Reference& reference) {
    if (!frame_.y.can_show(reference.value)) return;
    const double y = frame_.y_of(reference.value);
    canvas_.line({frame_.area.left, y}, {frame_.area.right, y}, "r");
    if (at_ends_) {
      names_.push_back({reference.label, y, -1});
    } else {
      const double above = y - 4 < frame_.area.top + 10 ? y + 13 : y - 4;
      canvas_.text({frame_.area.right - 2, above}, cut_to_width(reference.label, frame_.area.width()),
                   Anchor::kEnd, "m o");
    }
  }

  bool draw_series(size_t index) {
    const Series& series = chart_.series[index];
    const int style = line_style(chart_, index);
    const auto pieces = pieces_of(frame_, series);
    size_t points = 0;
    for (const auto& piece : pieces) {
      points += piece.size();
      if (!series.bars) draw_band(series, style, piece);
    }
    // Markers of different lines stand at different points, and the last point always has one.
    const size_t at_most =
        std::max<size_t>(2, std::min(detail_.markers, static_cast<size_t>(frame_.area.width() / 22)));
    const size_t stride = (points + at_most - 1) / std::max<size_t>(1, at_most);
    size_t seen = 0;
    for (const auto& piece : pieces) {
      std::vector<Place> places;
      for (const size_t i : piece) places.push_back({frame_.x_of(series.x[i]), frame_.y_of(series.y[i])});
      canvas_.polyline(places, line_classes(style, series.dashed));
      for (size_t j = 0; j < piece.size(); ++j, ++seen) {
        if (series.bars) draw_error_bar(series, style, piece[j]);
        const bool marked =
            stride <= 1 || seen % stride == index % stride || seen + 1 == points || piece.size() == 1;
        if (marked)
          canvas_.marker(places[j], style, point_title(series, piece[j]), chart_.width < 240 ? 2.4 : 3.2);
      }
    }
    if (points > 0 && at_ends_ && !series.name.empty()) {
      names_.push_back({series.name, frame_.y_of(series.y[pieces.back().back()]), style});
      ends_.push_back(frame_.x_of(series.x[pieces.back().back()]));
    }
    return points > 0;
  }

  std::string point_title(const Series& series, size_t i) const {
    if (!detail_.titles) return {};
    const std::string name = series.name.empty() ? "" : series.name + ": ";
    const auto category = static_cast<size_t>(std::max(0.0, std::round(series.x[i])));
    const bool named = category < chart_.x.categories.size();
    return fmt::format("{}{} at {}", name, number_text(series.y[i]),
                       named ? chart_.x.categories[category] : number_text(series.x[i]));
  }

  void draw_band(const Series& series, int style, const std::vector<size_t>& piece) {
    std::vector<Place> upper, lower;
    for (const size_t i : piece) {
      const double low = value_at(series.low, i), high = value_at(series.high, i);
      if (!frame_.y.can_show(low) || !frame_.y.can_show(high)) continue;
      upper.push_back({frame_.x_of(series.x[i]), frame_.y_of(high)});
      lower.push_back({frame_.x_of(series.x[i]), frame_.y_of(low)});
    }
    upper.insert(upper.end(), lower.rbegin(), lower.rend());
    canvas_.polyline(upper, fmt::format("b f{}", style_index(style)), true);
  }

  void draw_error_bar(const Series& series, int style, size_t i) {
    const double low = value_at(series.low, i), high = value_at(series.high, i);
    if (!frame_.y.can_show(low) || !frame_.y.can_show(high)) return;
    const std::string classes = fmt::format("e c{}", style_index(style));
    const double x = frame_.x_of(series.x[i]), top = frame_.y_of(high), bottom = frame_.y_of(low);
    canvas_.line({x, top}, {x, bottom}, classes);
    canvas_.line({x - 3, top}, {x + 3, top}, classes);
    canvas_.line({x - 3, bottom}, {x + 3, bottom}, classes);
  }

  void draw_names() {
    std::vector<double> wanted;
    for (const Name& name : names_) wanted.push_back(name.y);
    const std::vector<double> places = spread(wanted, kNameGap, frame_.area.top + 4, frame_.area.bottom - 2);
    size_t line = 0;
    for (size_t i = 0; i < names_.size(); ++i) {
      const bool reference = names_[i].style < 0;
      const double from = reference ? frame_.area.right : ends_[line++];
      if (!reference && (std::abs(places[i] - names_[i].y) > 3 || frame_.area.right - from > 6)) {
        canvas_.polyline({{from + 4, names_[i].y},
                          {std::max(from + 4, frame_.area.right - 2), names_[i].y},
                          {frame_.area.right + 7, places[i]}},
                         fmt::format("w c{}", style_index(names_[i].style)));
      }
      canvas_.text({frame_.area.right + 9, places[i] + 4},
                   cut_to_width(names_[i].text, chart_.width - frame_.area.right - 9), Anchor::kStart,
                   reference ? "m" : "");
    }
  }

  struct Name {
    std::string text;
    double y;
    int style;  // -1: of a reference
  };
  const LineChart& chart_;
  const Detail& detail_;
  Canvas canvas_;
  Frame frame_;
  bool at_ends_ = false;
  std::vector<Name> names_;
  std::vector<double> ends_;  // of the lines among the names
  std::vector<LegendEntry> entries_;
};

}  // namespace

Drawing draw(const LineChart& chart, const std::string& id, const Detail& detail) {
  return LineDrawing(chart, id, detail).draw();
}

}  // namespace msplora::report
