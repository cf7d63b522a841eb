#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "msplora/report/plots.h"

namespace msplora::report {

struct Colour {
  uint8_t red = 0, green = 0, blue = 0;
  bool operator==(const Colour&) const = default;
};

/// From "0072B2".
Colour colour(std::string_view hex);
/// "#0072b2".
std::string hex(const Colour& colour);

/// (L1 + 0.05) / (L2 + 0.05) of the relative luminances (WCAG 2).
double contrast(const Colour& a, const Colour& b);

/// The colours of one scheme: names of custom properties and values. Series are Okabe and Ito's colours,
/// those that do not reach a contrast of 3 made darker or lighter; no yellow.
inline constexpr int kStyles = 8;
using Scheme = std::array<std::pair<std::string_view, std::string_view>, 16>;
const Scheme& light_scheme();
const Scheme& dark_scheme();
/// The value of "--fg" and so on. The name must exist.
Colour scheme_colour(const Scheme& scheme, std::string_view name);

/// Where a value of [0, 1] lies on a scale of colours; below and above as the ends.
Colour scale_colour(Colours colours, double place);
/// Black or white, whichever can be read on it: one of them has a contrast above 4.5 with any colour.
Colour ink_on(const Colour& ground);

}  // namespace msplora::report
