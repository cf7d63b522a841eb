#include "report/frame.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace msplora::report {
namespace {

constexpr double kTickGap = 6, kRow = 17, kSwatch = 24, kBetweenEntries = 14;

double kept(double place) {
  return std::clamp(place, 0.0, 1.0);
}

/// Every how many labels one stands, so that none meets the next.
size_t label_stride(const std::vector<double>& at, const std::vector<double>& widths) {
  for (size_t stride = 1; stride < at.size(); ++stride) {
    bool fits = true;
    for (size_t i = stride; i < at.size() && fits; i += stride) {
      fits = at[i] - at[i - stride] >= (widths[i] + widths[i - stride]) / 2 + 5;
    }
    if (fits) return stride;
  }
  return std::max<size_t>(1, at.size());
}

double entry_width(const LegendEntry& entry, double width) {
  return std::min(kSwatch + 5 + text_width(entry.name), width);
}

/// Calls use(entry, x, row) for every entry, row by row.
template <class Use>
size_t lay_out(const std::vector<LegendEntry>& entries, double width, Use&& use) {
  double x = 0;
  size_t row = 0;
  for (const LegendEntry& entry : entries) {
    const double needed = entry_width(entry, width);
    if (x > 0 && x + needed > width) {
      x = 0;
      ++row;
    }
    use(entry, x, row);
    x += needed + kBetweenEntries;
  }
  return entries.empty() ? 0 : row + 1;
}

}  // namespace

double Frame::x_of(double value) const {
  return area.left + kept(x.place(value)) * area.width();
}
double Frame::y_of(double value) const {
  return area.bottom - kept(y.place(value)) * area.height();
}

double horizontal_axis_height(const Axis& axis) {
  return 20 + (axis.label.empty() ? 0.0 : 17);
}

void draw_horizontal_axis(Canvas& canvas, const Box& area, const Ticks& ticks, const std::string& label,
                          double width) {
  std::vector<double> at, widths;
  for (size_t i = 0; i < ticks.at.size(); ++i) {
    at.push_back(area.left + kept(ticks.place(ticks.at[i])) * area.width());
    widths.push_back(std::min(text_width(ticks.labels[i]), area.width()));
  }
  const size_t stride = label_stride(at, widths);
  for (size_t i = 0; i < at.size(); i += stride) {
    canvas.line({at[i], area.bottom}, {at[i], area.bottom + 4}, "a");
    const double half = widths[i] / 2;  // the text stays within the plot
    canvas.text(
        {std::clamp(at[i], std::min(half, width / 2), std::max(width - half, width / 2)), area.bottom + 16},
        cut_to_width(ticks.labels[i], area.width()), Anchor::kMiddle, "m");
  }
  canvas.text({(area.left + area.right) / 2, area.bottom + 32}, cut_to_width(label, area.width() + 24),
              Anchor::kMiddle, "m");
}

Frame draw_frame(Canvas& canvas, const Axis& x, const Axis& y, const FrameRequest& request) {
  Frame frame;
  const double label_row = y.label.empty() ? 8 : 25;
  const double bottom = request.height - request.bottom - horizontal_axis_height(x);
  const double top = request.top + label_row;
  frame.y = choose_ticks(
      y, {request.y.low(), request.y.high(), std::max(2, static_cast<int>((bottom - top) / 26))});
  double left = 0;
  for (const std::string& text : frame.y.labels) left = std::max(left, text_width(text));
  left = std::min(left + kTickGap, request.width * 0.4);
  frame.area = {left, top, request.width - request.right, bottom};
  TickRequest across{request.x.low(), request.x.high(),
                     std::max(2, static_cast<int>(frame.area.width() / 36)), request.x_to_ticks};
  frame.x = choose_ticks(x, across);
  if (request.inset && x.categories.empty() && !x.min && !x.max) {
    const double inset = std::min(0.04, 6 / frame.area.width());
    if (frame.x.scale == Scale::kLog) {
      const double factor = std::exp((std::log(frame.x.max) - std::log(frame.x.min)) * inset);
      frame.x.min /= factor;
      frame.x.max *= factor;
    } else {
      const double room = (frame.x.max - frame.x.min) * inset;
      frame.x.min -= room;
      frame.x.max += room;
    }
  }
  canvas.text({0, request.top + 12}, cut_to_width(y.label, request.width), Anchor::kStart, "m");
  for (const double value : frame.y.minor) {
    canvas.line({frame.area.left, frame.y_of(value)}, {frame.area.right, frame.y_of(value)}, "n");
  }
  for (size_t i = 0; i < frame.y.at.size(); ++i) {
    const double at = frame.y_of(frame.y.at[i]);
    canvas.line({frame.area.left, at}, {frame.area.right, at}, frame.y.at[i] == 0.0 ? "a" : "g");
    canvas.text({frame.area.left - kTickGap, at + 4}, cut_to_width(frame.y.labels[i], left), Anchor::kEnd,
                "m");
  }
  canvas.line({frame.area.left, bottom}, {frame.area.right, bottom}, "a");
  draw_horizontal_axis(canvas, frame.area, frame.x, x.label, request.width);
  return frame;
}

void draw_swatch(Canvas& canvas, const LegendEntry& entry, double x, double middle) {
  switch (entry.kind) {
    case LegendEntry::Kind::kLine:
      canvas.line({x, middle}, {x + kSwatch - 4, middle}, line_classes(entry.style, entry.dashed));
      canvas.marker({x + (kSwatch - 4) / 2, middle}, entry.style);
      return;
    case LegendEntry::Kind::kDots:
      canvas.marker({x + (kSwatch - 4) / 2, middle}, entry.style);
      return;
    case LegendEntry::Kind::kBox:
    case LegendEntry::Kind::kNarrowBox: {
      const double half = entry.kind == LegendEntry::Kind::kBox ? 8 : 2.5;
      const Box box = {x + 10 - half, middle - 5.5, x + 10 + half, middle + 5.5};
      canvas.rectangle(box, fmt::format("class=\"f{}\"", style_index(entry.style)));
      canvas.rectangle(box, fmt::format("class=\"p{}\"", style_index(entry.style)));
      return;
    }
  }
}

double legend_height(const std::vector<LegendEntry>& entries, double width) {
  const size_t rows = lay_out(entries, width, [](const LegendEntry&, double, size_t) {});
  return rows == 0 ? 0.0 : 4 + kRow * static_cast<double>(rows);
}

void draw_legend(Canvas& canvas, const std::vector<LegendEntry>& entries, double top, double width) {
  lay_out(entries, width, [&](const LegendEntry& entry, double x, size_t row) {
    const double middle = top + 4 + kRow * (static_cast<double>(row) + 0.5);
    draw_swatch(canvas, entry, x, middle);
    canvas.text({x + kSwatch + 1, middle + 4}, cut_to_width(entry.name, width - kSwatch - 1));
  });
}

std::vector<double> spread(const std::vector<double>& wanted, double distance, double top, double bottom) {
  std::vector<size_t> order(wanted.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return wanted[a] < wanted[b]; });
  // Neighbours that would meet become a group around the mean of what they want; groups join in the same way.
  struct Group {
    double sum;  // of what members want, less their place in the group
    size_t count;
    double first(double distance, double top, double bottom) const {
      const double length = distance * static_cast<double>(count - 1);
      return std::max(top, std::min(sum / static_cast<double>(count), bottom - length));
    }
  };
  std::vector<Group> groups;
  for (const size_t i : order) {
    groups.push_back({wanted[i], 1});
    while (groups.size() > 1) {
      Group& last = groups.back();
      Group& before = groups[groups.size() - 2];
      const double reach = before.first(distance, top, bottom) + distance * static_cast<double>(before.count);
      if (last.first(distance, top, bottom) >= reach) break;
      before.sum += last.sum - distance * static_cast<double>(before.count * last.count);
      before.count += last.count;
      groups.pop_back();
    }
  }
  std::vector<double> places(wanted.size());
  size_t next = 0;
  for (const Group& group : groups) {
    for (size_t i = 0; i < group.count; ++i, ++next) {
      places[order[next]] = group.first(distance, top, bottom) + distance * static_cast<double>(i);
    }
  }
  return places;
}

}  // namespace msplora::report
