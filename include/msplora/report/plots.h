#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace msplora::report {

/// Plots as data. A plot says what it shows; how it looks (ticks, margins, colours, where labels stand)
/// follows from it.
///
/// All texts are plain: they are escaped where they are written. A value that is not finite is missing: lines
/// break there, cells stay empty, bars are left out. Lengths are in units of a plot's own system, in which
/// text is 12 units high; a plot is shown at about one pixel a unit.

/// What fits a column of a phone; several of kSmall stand in one row there.
inline constexpr double kUsualWidth = 340, kUsualHeight = 232;
inline constexpr double kSmallWidth = 168, kSmallHeight = 132;

enum class Scale { kLinear, kLog };

/// One axis with numbers. On a logarithmic one values that are not positive are missing.
struct Axis {
  std::string label;
  Scale scale = Scale::kLinear;
  std::optional<double> min, max;       // of what is shown; unset: as the values need
  bool integer = false;                 // ticks at whole numbers alone
  std::vector<std::string> categories;  // names of 0, 1, ...: ticks show these instead of numbers
};

/// A value to compare with: a dotted line with a label.
struct Reference {
  double value = 0.0;
  std::string label;
};

/// One line. `low` and `high` are empty or as long as `y`.
struct Series {
  std::string name;
  std::vector<double> x, y;  // x ascends
  std::vector<double> low{}, high{};
  bool bars = false;           // low to high as error bars, not as a band
  bool dashed = false;         // what is compared with
  std::optional<int> style{};  // colour, marker and dashes; unset: its place in the list. 0 is that of totals
};

/// y over x. Names stand at the ends of the lines where they fit, else in a legend.
struct LineChart {
  std::string title;
  std::string description;  // for readers who do not see it
  Axis x, y;
  std::vector<Series> series;
  std::vector<Reference> references;  // of y
  double width = kUsualWidth, height = kUsualHeight;
  bool legend = true;  // false: names stand outside, for several plots at once
};

/// What values of a heat map the colours stand for.
enum class Colours {
  kSequential,  // cividis: small is dark
  kDiverging,   // blue below 0, orange above; the range is made symmetric
};

/// values[r * columns.size() + c]. Numbers stand in the cells where they fit.
struct HeatMap {
  std::string title;
  std::string description;
  std::string row_label, column_label;
  std::vector<std::string> rows, columns;
  std::vector<double> values;
  Colours colours = Colours::kSequential;
  double min = 0.0, max = 1.0;
  std::string unit;                   // what the values are, at the scale of colours
  std::vector<Reference> references;  // marks on the scale of colours
  double width = kUsualWidth;
};

/// For each category a stack of values; negative ones hang below 0. `marks`, where there are any, are drawn
/// as a narrow stack beside it: another division of the same whole.
struct StackedBars {
  struct Part {
    std::string name;
    std::vector<double> values;   // one a category
    std::vector<double> marks{};  // the same, or none
    std::optional<int> style{};
  };
  std::string title;
  std::string description;
  std::string category_label;
  Axis value;
  std::vector<std::string> categories;
  std::vector<Part> parts;
  std::string values_name, marks_name;  // what the wide and the narrow stacks are, for the legend
  double width = kUsualWidth, height = kUsualHeight;
  bool legend = true;
};

/// Named points; with `front`, those that no other beats in both directions are joined by a line.
struct Scatter {
  struct Point {
    std::string name;
    double x = 0.0, y = 0.0;
    std::optional<double> low{}, high{};  // of y
    std::optional<int> style{};
  };
  enum class Front { kNone, kLowXHighY, kLowXLowY };
  std::string title;
  std::string description;
  Axis x, y;
  std::vector<Point> points;
  std::vector<Reference> references;  // of y
  Front front = Front::kNone;
  double width = 520, height = 340;
};

/// Horizontal bars from 0 or, with low and high, points with error bars, each with its name and number.
struct Bars {
  struct Bar {
    std::string name;
    double value = 0.0;
    std::optional<double> low{}, high{};
  };
  std::string title;
  std::string description;
  Axis value;
  std::vector<Bar> bars;
  std::vector<Reference> references;
  double width = kUsualWidth;
};

using Plot = std::variant<LineChart, HeatMap, StackedBars, Scatter, Bars>;

/// The indices of the points that no other beats: smaller x and better y, or one of both equal. Ascending in
/// x. What is not finite takes no part.
std::vector<size_t> pareto_front(const std::vector<Scatter::Point>& points, Scatter::Front front);

}  // namespace msplora::report
