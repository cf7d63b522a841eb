#pragma once

#include <string>
#include <vector>

#include "report/canvas.h"
#include "report/ticks.h"

namespace msplora::report {

/// The area of a plot with its two axes.
struct Frame {
  Box area;
  Ticks x, y;

  double x_of(double value) const;  // kept in the area
  double y_of(double value) const;
  bool can_show(double at, double value) const { return x.can_show(at) && y.can_show(value); }
};

struct FrameRequest {
  double top = 0.0;                  // below the title
  double width = 0.0, height = 0.0;  // of the whole plot
  double right = 8.0;                // kept free for names at the ends of lines
  double bottom = 0.0;               // kept free below, for a legend
  Extent x, y;
  bool x_to_ticks = false;
  bool inset = true;  // points of x do not lie on the edge
};

/// Chooses ticks and margins, and draws grid, numbers and labels.
Frame draw_frame(Canvas& canvas, const Axis& x, const Axis& y, const FrameRequest& request);

/// The height that numbers and label of a horizontal axis take.
double horizontal_axis_height(const Axis& axis);

/// Numbers and label of the horizontal axis below the area of a plot `width` wide; numbers that would meet
/// are left out.
void draw_horizontal_axis(Canvas& canvas, const Box& area, const Ticks& ticks, const std::string& label,
                          double width);

/// One entry of a legend.
struct LegendEntry {
  enum class Kind { kLine, kBox, kNarrowBox, kDots };
  std::string name;
  int style = 0;
  Kind kind = Kind::kLine;
  bool dashed = false;
};

/// What tells the parts of stacked bars apart.
std::vector<LegendEntry> legend_entries(const StackedBars& bars);

/// The sign of an entry, 24 wide, from x on.
void draw_swatch(Canvas& canvas, const LegendEntry& entry, double x, double middle);

/// The height of the entries in rows of `width`.
double legend_height(const std::vector<LegendEntry>& entries, double width);
/// Draws them from `top` on.
void draw_legend(Canvas& canvas, const std::vector<LegendEntry>& entries, double top, double width);

/// Where names stand beside the places that they belong to: as near as they can without meeting, within [top,
/// bottom].
std::vector<double> spread(const std::vector<double>& wanted, double distance, double top, double bottom);

}  // namespace msplora::report
