#include "report/ticks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "msplora/report/numbers.h"
#include "report/text.h"

namespace msplora::report {
namespace {

/// Values beyond are drawn at the edge: differences of doubles must stay finite.
constexpr double kLargest = 1e300, kSmallest = 1e-300;
constexpr double kLargestPower = 1e250, kSmallestPower = 1e-250;  // of logarithmic axes

std::string with_minus(const std::string& text) {
  return text.rfind('-', 0) == 0 ? fmt::format("−{}", std::string_view(text).substr(1)) : text;
}

/// 1, 2 or 5 times a power of ten, at least `step`.
double nice_step(double step) {
  const double power = std::pow(10.0, std::floor(std::log10(step)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= step * (1 - 1e-9)) return factor * power;
  }
  return 10.0 * power;
}

int decimals_of(double step) {
  const double exact = -std::log10(step);
  return std::max(0, static_cast<int>(std::ceil(exact - 1e-9)));
}

/// One form for all numbers of an axis, from the distance between them.
std::vector<std::string> linear_labels(const std::vector<double>& at, double step) {
  double largest = 0.0;
  for (const double value : at) largest = std::max(largest, std::abs(value));
  std::vector<std::string> labels;
  const double scale = largest >= 1e9 ? 1e9 : largest >= 1e6 ? 1e6 : largest >= 1e4 ? 1e3 : 1.0;
  const bool scaled = scale > 1.0 && largest < 1e13 && decimals_of(step / scale) <= 2;
  for (const double value : at) {
    if (value == 0.0) {
      labels.emplace_back("0");
    } else if (scaled) {
      const char* suffix = scale == 1e9 ? "G" : scale == 1e6 ? "M" : "k";
      labels.push_back(
          with_minus(fmt::format("{:.{}f}{}", value / scale, decimals_of(step / scale), suffix)));
    } else if (largest >= 1e13 || step < 1e-6) {
      labels.push_back(number_text(value, 6));
    } else {
      labels.push_back(with_minus(with_commas(fmt::format("{:.{}f}", value, decimals_of(step)))));
    }
  }
  return labels;
}

Ticks linear_ticks(const Axis& axis, const TickRequest& request, double low, double high) {
  Ticks ticks;
  if (!(low < high)) {  // one value
    const double around = low == 0.0 ? 1.0 : std::max(std::abs(low) * 0.1, kSmallest);
    low -= around;
    high += around;
  }
  double step = nice_step(std::max(high / request.about - low / request.about, kSmallest));
  if (axis.integer) step = std::max(1.0, step);
  ticks.min = axis.min.value_or(request.to_ticks ? std::floor(low / step + 1e-9) * step : low);
  ticks.max = axis.max.value_or(request.to_ticks ? std::ceil(high / step - 1e-9) * step : high);
  if (!(ticks.min < ticks.max)) ticks.max = ticks.min + step;
  if (!(ticks.min < ticks.max))
    ticks.max = std::nextafter(ticks.min, kLargest * 2);  // a step below its rounding
  const double first = std::ceil(ticks.min / step - 1e-9);
  for (int i = 0; i < 64; ++i) {
    const double value = (first + i) * step;
    if (value > ticks.max + step * 1e-9 || (i > 0 && value <= ticks.at.back())) break;
    ticks.at.push_back(std::clamp(value == 0.0 ? 0.0 : value, ticks.min, ticks.max));
  }
  if (ticks.at.empty()) ticks.at = {ticks.min, ticks.max};
  ticks.labels = linear_labels(ticks.at, step);
  return ticks;
}

/// A digit times a power of ten, as a plain number or not.
std::string log_label(int digit, int exponent, bool plain) {
  if (plain && exponent >= 0) return number_text(digit * std::pow(10.0, exponent));
  if (plain) return fmt::format("{:.{}f}", digit * std::pow(10.0, exponent), -exponent);
  if (exponent == 0) return std::to_string(digit);
  return digit == 1 ? power_of_ten(exponent) : fmt::format("{}×{}", digit, power_of_ten(exponent));
}

Ticks log_ticks(const Axis& axis, const TickRequest& request, double low, double high) {
  Ticks ticks;
  ticks.scale = Scale::kLog;
  low = std::clamp(axis.min.value_or(low), kSmallestPower, kLargestPower);
  high = std::clamp(axis.max.value_or(high), low, kLargestPower);
  if (std::log(high) - std::log(low) < 0.2) {
    low /= 1.5;
    high *= 1.5;
  }
  const int first = static_cast<int>(std::floor(std::log10(low) + 1e-9));
  const int last = static_cast<int>(std::ceil(std::log10(high) - 1e-9));
  const int decades = last - first;
  // Several numbers in a decade where there are few decades, else every so many decades one.
  const bool fine = std::log10(high) - std::log10(low) < 2.2;
  const int stride = fine ? 1 : std::max(1, (decades + request.about - 1) / request.about);
  const bool plain = first >= -3 && last <= 4;
  ticks.min = low;
  ticks.max = high;
  if (request.to_ticks && !axis.min) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double tick = factor * std::pow(10.0, first);
      if (tick <= low * (1 + 1e-9)) ticks.min = tick;
    }
  }
  if (request.to_ticks && !axis.max) {
    for (const double factor : {1.0, 0.5, 0.2}) {
      const double tick = factor * std::pow(10.0, last);
      if (tick >= high * (1 - 1e-9)) ticks.max = tick;
    }
  }
  const auto place =
      [&](bool all) {  // all: numbers at every digit, where a range holds hardly one of 1, 2 and 5
        ticks.at.clear();
        ticks.labels.clear();
        ticks.minor.clear();
        for (int decade = first; decade <= last; ++decade) {
          for (int digit = 1; digit <= 9; ++digit) {
            const double value = digit * std::pow(10.0, decade);
            if (value < ticks.min * (1 - 1e-9) || value > ticks.max * (1 + 1e-9)) continue;
            const bool usual =
                digit == 1 ? (decade - first) % stride == 0 : fine && (digit == 2 || digit == 5);
            if (usual || all) {
              ticks.at.push_back(value);
              ticks.labels.push_back(log_label(digit, decade, plain));
            } else if (digit == 1 || (fine && decades <= 2)) {
              ticks.minor.push_back(value);
            }
          }
        }
      };
  place(false);
  if (ticks.at.size() < 2 && fine) place(true);
  if (ticks.at.empty()) {
    ticks.at = {ticks.min, ticks.max};
    for (const double value : ticks.at) ticks.labels.push_back(number_text(value, 3));
  }
  return ticks;
}

Ticks category_ticks(const Axis& axis) {
  Ticks ticks;
  ticks.min = -0.5;
  ticks.max = static_cast<double>(axis.categories.size()) - 0.5;
  for (size_t i = 0; i < axis.categories.size(); ++i) {
    ticks.at.push_back(static_cast<double>(i));
    ticks.labels.push_back(axis.categories[i]);
  }
  return ticks;
}

}  // namespace

double Ticks::place(double value) const {
  if (scale == Scale::kLog) return (std::log(value) - std::log(min)) / (std::log(max) - std::log(min));
  return (value / 2 - min / 2) / (max / 2 - min / 2);
}

bool Ticks::can_show(double value) const {
  return std::isfinite(value) && (scale == Scale::kLinear || value > 0.0);
}

void Extent::add(double value) {
  if (!std::isfinite(value) || (scale_ == Scale::kLog && value <= 0.0)) return;
  value = std::clamp(value, -kLargest, kLargest);
  if (empty()) {
    low_ = high_ = value;
  } else {
    low_ = std::min(low_, value);
    high_ = std::max(high_, value);
  }
}

Ticks choose_ticks(const Axis& axis, const TickRequest& request) {
  if (!axis.categories.empty()) return category_ticks(axis);
  const bool none = request.high < request.low;
  if (axis.scale == Scale::kLog)
    return log_ticks(axis, request, none ? 0.1 : request.low, none ? 1.0 : request.high);
  double low = none ? 0.0 : request.low, high = none ? 1.0 : request.high;
  low = std::clamp(axis.min.value_or(low), -kLargest, kLargest);
  high = std::clamp(axis.max.value_or(high), -kLargest, kLargest);
  return linear_ticks(axis, request, low, std::max(low, high));
}

std::string power_of_ten(int exponent) {
  constexpr const char* kRaised[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string text = exponent < 0 ? "10⁻" : "10";
  for (const char digit : std::to_string(std::abs(exponent))) text += kRaised[digit - '0'];
  return text;
}

}  // namespace msplora::report
