#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "msplora/report/svg.h"
#include "report/colours.h"
#include "report/text.h"

namespace msplora::report {

struct Place {
  double x = 0.0, y = 0.0;
};

struct Box {
  double left = 0.0, top = 0.0, right = 0.0, bottom = 0.0;
  double width() const { return right - left; }
  double height() const { return bottom - top; }
  bool meets(const Box& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
};

enum class Anchor { kStart, kMiddle, kEnd };

/// "12.5": at most two decimals.
std::string coordinate(double value);

/// The body of an SVG as it grows. Colours come from the classes of the style sheet (style.h).
class Canvas {
 public:
  /// `id` is put before every id inside.
  explicit Canvas(std::string id) : id_(std::move(id)) {}

  /// `y` is the base line. `classes` is "m" for muted text, "h" for a heading, or "".
  void text(const Place& at, std::string_view text, Anchor anchor = Anchor::kStart,
            std::string_view classes = {}, std::string_view attributes = {});
  void line(const Place& from, const Place& to, std::string_view classes);
  void rectangle(const Box& box, std::string_view attributes, std::string_view title = {});
  /// Straight from place to place.
  void polyline(const std::vector<Place>& places, std::string_view classes, bool closed = false);
  /// The sign of a style: filled circle, square, triangle and so on, about 7 units wide.
  void marker(const Place& at, int style, std::string_view title = {}, double size = 3.4);
  /// As it is.
  void raw(std::string_view element) { body_ += element; }
  /// A group whose name is shown when the mouse rests on it; closed by end_group().
  void begin_group(std::string_view attributes, std::string_view title = {});
  void end_group() { body_ += "</g>"; }

  const std::string& id() const { return id_; }
  const std::string& body() const { return body_; }

 private:
  std::string id_;
  std::string body_;
};

/// Styles repeat after kStyles.
int style_index(int style);
/// "l c1 d1": a line in the colour and dashes of a style; `dashed` overrides the dashes.
std::string line_classes(int style, bool dashed);

/// What the functions that draw plots give: the inner part and its size.
struct Drawing {
  std::string body;
  double width = 0.0, height = 0.0;
};

Drawing draw(const LineChart& chart, const std::string& id, const Detail& detail);
Drawing draw(const HeatMap& map, const std::string& id, const Detail& detail);
Drawing draw(const StackedBars& bars, const std::string& id, const Detail& detail);
Drawing draw(const Scatter& scatter, const std::string& id, const Detail& detail);
Drawing draw(const Bars& bars, const std::string& id, const Detail& detail);

/// The title in up to two lines at the top; gives the y below it.
double draw_title(Canvas& canvas, const std::string& title, double width);
/// In the middle of a plot that has nothing to show.
void draw_no_data(Canvas& canvas, const Box& area);

}  // namespace msplora::report
