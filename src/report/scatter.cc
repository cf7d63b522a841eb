#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "msplora/report/numbers.h"
#include "report/canvas.h"
#include "report/frame.h"

namespace msplora::report {
namespace {

int point_style(const Scatter& scatter, size_t i) {
  return scatter.points[i].style.value_or(1);
}

class ScatterDrawing {
 public:
  ScatterDrawing(const Scatter& scatter, const std::string& id, const Detail& detail)
      : scatter_(scatter), detail_(detail), canvas_(id) {}

  Drawing draw() {
    Extent x(scatter_.x.scale), y(scatter_.y.scale);
    for (const Scatter::Point& point : scatter_.points) {
      if (!std::isfinite(point.y)) continue;
      x.add(point.x);
      for (const double value : {point.y, point.low.value_or(point.y), point.high.value_or(point.y)})
        y.add(value);
    }
    FrameRequest request{
        draw_title(canvas_, scatter_.title, scatter_.width), scatter_.width, scatter_.height, 10, 0, x, y};
    frame_ = draw_frame(canvas_, scatter_.x, scatter_.y, request);
    const std::vector<size_t> shown = shown_points();
    if (shown.empty()) draw_no_data(canvas_, frame_.area);
    draw_front();
    for (const Reference& reference : scatter_.references) draw_reference(reference);
    for (const size_t i : shown) draw_point(i);
    draw_names(shown);
    return {canvas_.body(), scatter_.width, scatter_.height};
  }

 private:
  Place place_of(size_t i) const {
    return {frame_.x_of(scatter_.points[i].x), frame_.y_of(scatter_.points[i].y)};
  }

  std::vector<size_t> shown_points() const {
    std::vector<size_t> shown;
    for (size_t i = 0; i < scatter_.points.size(); ++i) {
      if (frame_.can_show(scatter_.points[i].x, scatter_.points[i].y)) shown.push_back(i);
    }
    return shown;
  }

  /// As stairs: between two points of the front nothing was measured.
  void draw_front() {
    std::vector<Place> stairs;
    for (const size_t i : pareto_front(scatter_.points, scatter_.front)) {
      if (!frame_.can_show(scatter_.points[i].x, scatter_.points[i].y)) continue;
      const Place place = place_of(i);
      if (!stairs.empty()) stairs.push_back({place.x, stairs.back().y});
      stairs.push_back(place);
    }
    if (stairs.empty()) return;
    stairs.push_back({frame_.area.right, stairs.back().y});
    canvas_.polyline(stairs, "u");
    for (size_t i = 1; i < stairs.size(); ++i) {
      const Place &a = stairs[i - 1], &b = stairs[i];
      taken_.push_back(
          {std::min(a.x, b.x) - 1, std::min(a.y, b.y) - 1, std::max(a.x, b.x) + 1, std::max(a.y, b.y) + 1});
    }
    lines_ = taken_.size();
  }

  void draw_reference(const Reference& reference) {
    if (!frame_.y.can_show(reference.value)) return;
    const double y = frame_.y_of(reference.value), width = text_width(reference.label);
    canvas_.line({frame_.area.left, y}, {frame_.area.right, y}, "r");
    canvas_.text({frame_.area.right - 2, y - 4}, reference.label, Anchor::kEnd, "m o");
    taken_.push_back({frame_.area.right - 2 - width, y - 15, frame_.area.right, y});
  }

  void draw_point(size_t i) {
    const Scatter::Point& point = scatter_.points[i];
    const Place at = place_of(i);
    if (point.low && point.high && frame_.y.can_show(*point.low) && frame_.y.can_show(*point.high)) {
      const std::string classes = fmt::format("e c{}", style_index(point_style(scatter_, i)));
      const double top = frame_.y_of(*point.high), bottom = frame_.y_of(*point.low);
      canvas_.line({at.x, top}, {at.x, bottom}, classes);
      canvas_.line({at.x - 3, top}, {at.x + 3, top}, classes);
      canvas_.line({at.x - 3, bottom}, {at.x + 3, bottom}, classes);
      taken_.push_back({at.x - 2, top, at.x + 2, bottom});
    }
    const std::string title =
        detail_.titles ? fmt::format("{}: {} at {}", point.name, number_text(point.y), number_text(point.x))
                       : "";
    canvas_.marker(at, point_style(scatter_, i), title, 4);
    taken_.push_back({at.x - 5, at.y - 5, at.x + 5, at.y + 5});
  }

  /// What a name at a place would cover; other names and points weigh more than lines.
  double cost_of(const Box& box) const {
    double cost = 0;
    for (size_t i = 0; i < taken_.size(); ++i) {
      if (box.meets(taken_[i])) cost += i < lines_ ? 20 : 100;
    }
    const Box& area = frame_.area;
    if (box.left < area.left || box.right > scatter_.width || box.top < area.top - 8 ||
        box.bottom > area.bottom) {
      cost += 400;
    }
    return cost;
  }

  /// Each name as near to its point as it finds room, those with few neighbours last.
  void draw_names(const std::vector<size_t>& shown) {
    std::vector<size_t> order = shown;
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return place_of(a).y < place_of(b).y; });
    for (const size_t i : order) {
      const Place at = place_of(i);
      const std::string name = cut_to_width(scatter_.points[i].name, 0.4 * scatter_.width);
      const double width = text_width(name);
      Box best;
      double least = 1e9;
      for (const double distance : {7.0, 16.0, 28.0, 44.0}) {
        for (int turn = 0; turn < 8; ++turn) {
          constexpr double kDirections[8][2] = {{1, 0}, {1, -.7}, {1, .7},   {0, -1},
                                                {0, 1}, {-1, 0},  {-1, -.7}, {-1, .7}};
          const double* to = kDirections[turn];
          const double x = at.x + to[0] * distance, y = at.y + to[1] * (distance + 4);
          const double left = to[0] > 0 ? x : to[0] < 0 ? x - width : x - width / 2;
          const Box box = {left, y - 7, left + width, y + 7};
          const double cost = cost_of(box) + distance * 0.8 + turn * 0.3;
          if (cost < least) {
            least = cost;
            best = box;
          }
        }
      }
      draw_name(name, at, best);
      taken_.push_back(best);
    }
  }

  void draw_name(const std::string& name, const Place& at, const Box& box) {
    const Place nearest = {std::clamp(at.x, box.left, box.right),
                           std::clamp(at.y, box.top + 3, box.bottom - 3)};
    if (std::hypot(nearest.x - at.x, nearest.y - at.y) > 12) canvas_.line(at, nearest, "q");
    canvas_.text({box.left, box.top + 11}, name, Anchor::kStart, "o");
  }

  const Scatter& scatter_;
  const Detail& detail_;
  Canvas canvas_;
  Frame frame_;
  std::vector<Box> taken_;
  size_t lines_ = 0;  // of taken_, parts of the front
};

}  // namespace

std::vector<size_t> pareto_front(const std::vector<Scatter::Point>& points, Scatter::Front front) {
  std::vector<size_t> order, out;
  if (front == Scatter::Front::kNone) return out;
  const double sign = front == Scatter::Front::kLowXHighY ? 1 : -1;
  for (size_t i = 0; i < points.size(); ++i) {
    if (std::isfinite(points[i].x) && std::isfinite(points[i].y)) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (points[a].x != points[b].x) return points[a].x < points[b].x;
    return sign * points[a].y > sign * points[b].y;
  });
  for (const size_t i : order) {
    const bool equal =
        !out.empty() && points[i].x == points[out.back()].x && points[i].y == points[out.back()].y;
    if (out.empty() || equal || sign * points[i].y > sign * points[out.back()].y) out.push_back(i);
  }
  return out;
}

Drawing draw(const Scatter& scatter, const std::string& id, const Detail& detail) {
  return ScatterDrawing(scatter, id, detail).draw();
}

}  // namespace msplora::report
