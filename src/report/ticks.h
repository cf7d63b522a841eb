#pragma once

#include <string>
#include <vector>

#include "msplora/report/plots.h"

namespace msplora::report {

/// The part of an axis that is shown and where numbers stand on it.
struct Ticks {
  double min = 0.0, max = 1.0;  // min < max; on a logarithmic axis both above 0
  Scale scale = Scale::kLinear;
  std::vector<double> at;           // ascending, within [min, max]
  std::vector<std::string> labels;  // one each
  std::vector<double> minor;        // lines without a number, on logarithmic axes

  /// Where a value lies, 0 at min and 1 at max; not cut off.
  double place(double value) const;
  bool can_show(double value) const;
};

/// What a plot needs of an axis. `to_ticks` widens the range to the next ticks, which suits values; places of
/// points keep theirs.
struct TickRequest {
  double low = 0.0, high = 0.0;  // of the values; high < low: there are none
  int about = 5;                 // ticks
  bool to_ticks = true;
};

/// Numbers that people like: 1, 2 or 5 times a power of ten apart; powers of ten on logarithmic axes, with 2
/// and 5 where the range is short. Any finite range gives an axis, an empty one too.
Ticks choose_ticks(const Axis& axis, const TickRequest& request);

/// The smallest and largest of many values that an axis can show.
class Extent {
 public:
  explicit Extent(Scale scale = Scale::kLinear) : scale_(scale) {}
  void add(double value);
  bool empty() const { return high_ < low_; }
  double low() const { return low_; }
  double high() const { return high_; }

 private:
  Scale scale_;
  double low_ = 1.0, high_ = 0.0;
};

/// "10⁻³" for -3.
std::string power_of_ten(int exponent);

}  // namespace msplora::report
