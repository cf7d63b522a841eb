#include "msplora/report/svg.h"

#include <fmt/format.h>

#include <algorithm>

#include "report/canvas.h"
#include "report/frame.h"
#include "report/legend.h"
#include "report/style.h"

namespace msplora::report {
namespace {

constexpr double kMargin = 14;

std::string named(const std::string& title, const std::string& description, const std::string& id) {
  const std::string name = title.empty() ? "Plot" : title;
  return fmt::format("<title id=\"{0}-t\">{1}</title><desc id=\"{0}-d\">{2}</desc>", id, escaped(name),
                     escaped(description.empty() ? name : description));
}

std::string opening(const std::string& id, double width, double height, bool file) {
  return fmt::format(
      "<svg{} class=\"plot\" role=\"img\" aria-labelledby=\"{}-t {}-d\" viewBox=\"0 0 {} {}\"{}>",
      file ? " xmlns=\"http://www.w3.org/2000/svg\"" : "", id, id, coordinate(width), coordinate(height),
      file ? fmt::format(" width=\"{}\" height=\"{}\"", coordinate(width), coordinate(height)) : "");
}

Drawing drawn(const Plot& plot, const std::string& id, const Detail& detail) {
  return std::visit([&](const auto& data) { return draw(data, id, detail); }, plot);
}

std::string file_of(const std::string& title, const std::string& description, double width, double height,
                    const std::string& body) {
  return "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" + opening("plot", width, height, true) +
         named(title, description, "plot") + "<style>" + file_style() + "</style>" + pattern_definitions() +
         fmt::format("<rect class=\"ground\" x=\".5\" y=\".5\" width=\"{}\" height=\"{}\" rx=\"6\"/>",
                     coordinate(width - 1), coordinate(height - 1)) +
         body + "</svg>\n";
}

}  // namespace

std::string inline_svg(const Plot& plot, const std::string& id, const Detail& detail) {
  const Drawing drawing = drawn(plot, id, detail);
  const auto& [title, description] =
      std::visit([](const auto& data) { return std::pair(data.title, data.description); }, plot);
  return opening(id, drawing.width, drawing.height, false) + named(title, description, id) + drawing.body +
         "</svg>";
}

std::string svg_file(const Plot& plot) {
  const Drawing drawing = drawn(plot, "plot", {});
  const auto& [title, description] =
      std::visit([](const auto& data) { return std::pair(data.title, data.description); }, plot);
  return file_of(
      title, description, drawing.width + 2 * kMargin, drawing.height + 2 * kMargin,
      fmt::format("<g transform=\"translate({0} {0})\">{1}</g>", coordinate(kMargin), drawing.body));
}

std::string svg_file(const std::vector<Plot>& plots, size_t columns, const std::string& title) {
  columns = std::clamp<size_t>(columns, 1, std::max<size_t>(1, plots.size()));
  std::vector<Drawing> drawings;
  double cell = 0;
  for (size_t i = 0; i < plots.size(); ++i) {
    drawings.push_back(drawn(plots[i], fmt::format("plot-{}", i), {}));
    cell = std::max(cell, drawings.back().width);
  }
  const double width = static_cast<double>(columns) * (cell + kMargin) + kMargin;
  Canvas head("plot");
  double top = draw_title(head, title, width - 2 * kMargin) + 4;
  const std::vector<LegendEntry> entries = shared_legend(plots);
  draw_legend(head, entries, top, width - 2 * kMargin);
  top += legend_height(entries, width - 2 * kMargin) + (entries.empty() ? 0 : 8) + kMargin;
  std::string body =
      fmt::format("<g transform=\"translate({0} {0})\">{1}</g>", coordinate(kMargin), head.body());
  for (size_t row = 0; row < drawings.size(); row += columns) {
    double height = 0;
    for (size_t i = row; i < std::min(row + columns, drawings.size()); ++i) {
      const double left = kMargin + static_cast<double>(i - row) * (cell + kMargin);
      body += fmt::format("<g transform=\"translate({} {})\">{}</g>", coordinate(left), coordinate(top),
                          drawings[i].body);
      height = std::max(height, drawings[i].height);
    }
    top += height + kMargin;
  }
  return file_of(title, "", width, top, body);
}

size_t count_elements(const std::string& svg) {
  size_t count = 0;
  for (size_t at = svg.find('<'); at != std::string::npos; at = svg.find('<', at + 1)) {
    if (at + 1 < svg.size() && svg[at + 1] != '/' && svg[at + 1] != '?' && svg[at + 1] != '!') ++count;
  }
  return count;
}

}  // namespace msplora::report
