#include "report/canvas.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "report/colours.h"

namespace msplora::report {
namespace {

/// Class and other attributes, each with a space before it.
std::string attribute(std::string_view name, std::string_view value) {
  return value.empty() ? std::string() : fmt::format(" {}=\"{}\"", name, value);
}

std::string with_space(std::string_view attributes) {
  return attributes.empty() ? std::string() : " " + std::string(attributes);
}

/// An element that is empty, or holds its title.
std::string element(std::string_view name, std::string_view attributes, std::string_view title) {
  if (title.empty()) return fmt::format("<{} {}/>", name, attributes);
  return fmt::format("<{} {}><title>{}</title></{}>", name, attributes, escaped(title), name);
}

std::string points_of(const std::vector<Place>& places) {
  std::string out;
  for (const Place& place : places) {
    if (!out.empty()) out += ' ';
    out += coordinate(place.x) + "," + coordinate(place.y);
  }
  return out;
}

}  // namespace

std::string coordinate(double value) {
  std::string text = fmt::format("{:.2f}", value);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

void Canvas::text(const Place& at, std::string_view text, Anchor anchor, std::string_view classes,
                  std::string_view attributes) {
  if (text.empty()) return;
  const char* where = anchor == Anchor::kMiddle ? "middle" : anchor == Anchor::kEnd ? "end" : "";
  body_ += fmt::format("<text x=\"{}\" y=\"{}\"{}{}{}>{}</text>", coordinate(at.x), coordinate(at.y),
                       attribute("class", classes), attribute("text-anchor", where), with_space(attributes),
                       escaped(text));
}

void Canvas::line(const Place& from, const Place& to, std::string_view classes) {
  body_ += fmt::format("<path class=\"{}\" d=\"M{} {}L{} {}\"/>", classes, coordinate(from.x),
                       coordinate(from.y), coordinate(to.x), coordinate(to.y));
}

void Canvas::rectangle(const Box& box, std::string_view attributes, std::string_view title) {
  body_ += element(
      "rect",
      fmt::format("x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"{}", coordinate(box.left), coordinate(box.top),
                  coordinate(box.width()), coordinate(box.height()), with_space(attributes)),
      title);
}

void Canvas::polyline(const std::vector<Place>& places, std::string_view classes, bool closed) {
  if (places.size() < 2) return;
  body_ += fmt::format("<{} class=\"{}\" points=\"{}\"/>", closed ? "polygon" : "polyline", classes,
                       points_of(places));
}

void Canvas::marker(const Place& at, int style, std::string_view title, double size) {
  const int index = style_index(style);
  const std::string classes = fmt::format("class=\"k f{}\"", index);
  const auto polygon = [&](const std::vector<Place>& corners) {
    std::vector<Place> places;
    for (const Place& corner : corners) places.push_back({at.x + size * corner.x, at.y + size * corner.y});
    body_ += element("polygon", fmt::format("{} points=\"{}\"", classes, points_of(places)), title);
  };
  switch (index) {
    case 1:
      return polygon({{-0.95, -0.95}, {0.95, -0.95}, {0.95, 0.95}, {-0.95, 0.95}});
    case 2:
      return polygon({{0, -1.25}, {1.2, 0.9}, {-1.2, 0.9}});
    case 3:
      return polygon({{0, -1.4}, {1.4, 0}, {0, 1.4}, {-1.4, 0}});
    case 4:
      return polygon({{0, 1.25}, {1.2, -0.9}, {-1.2, -0.9}});
    case 5:
      return polygon({{-0.4, -1.3},
                      {0.4, -1.3},
                      {0.4, -0.4},
                      {1.3, -0.4},
                      {1.3, 0.4},
                      {0.4, 0.4},
                      {0.4, 1.3},
                      {-0.4, 1.3},
                      {-0.4, 0.4},
                      {-1.3, 0.4},
                      {-1.3, -0.4},
                      {-0.4, -0.4}});
    case 6:
      return polygon({{-1.3, -0.7}, {1.3, -0.7}, {1.3, 0.7}, {-1.3, 0.7}});
    case 7:
      return polygon({{-0.7, -1.3}, {0.7, -1.3}, {0.7, 1.3}, {-0.7, 1.3}});
    default:
      break;
  }
  body_ += element("circle",
                   fmt::format("{} cx=\"{}\" cy=\"{}\" r=\"{}\"", classes, coordinate(at.x), coordinate(at.y),
                               coordinate(size)),
                   title);
}

void Canvas::begin_group(std::string_view attributes, std::string_view title) {
  body_ += fmt::format("<g{}>", with_space(attributes));
  if (!title.empty()) body_ += fmt::format("<title>{}</title>", escaped(title));
}

int style_index(int style) {
  return ((style % kStyles) + kStyles) % kStyles;
}

std::string line_classes(int style, bool dashed) {
  const int index = style_index(style);
  return fmt::format("l c{} d{}", index, dashed ? std::string("x") : std::to_string(index));
}

double draw_title(Canvas& canvas, const std::string& title, double width) {
  double y = 2;
  // Letters of headings are bold, and so wider.
  for (const std::string& line : wrapped(title, width, 2, kTitleSize * 1.1)) {
    canvas.text({0, y + kTitleSize - 2}, line, Anchor::kStart, "h");
    y += kTitleSize + 3;
  }
  return y;
}

void draw_no_data(Canvas& canvas, const Box& area) {
  canvas.text({(area.left + area.right) / 2, (area.top + area.bottom) / 2 + 4}, "nothing to show",
              Anchor::kMiddle, "m");
}

}  // namespace msplora::report
