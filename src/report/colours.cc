#include "report/colours.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>

namespace msplora::report {
namespace {

double luminance(const Colour& colour) {
  const auto linear = [](uint8_t value) {
    const double share = value / 255.0;
    return share <= 0.04045 ? share / 12.92 : std::pow((share + 0.055) / 1.055, 2.4);
  };
  return 0.2126 * linear(colour.red) + 0.7152 * linear(colour.green) + 0.0722 * linear(colour.blue);
}

template <size_t N>
Colour between(const std::array<std::string_view, N>& stops, double place) {
  const double at = std::clamp(place, 0.0, 1.0) * (N - 1);
  const size_t left = std::min(static_cast<size_t>(at), N - 2);
  const Colour a = colour(stops[left]), b = colour(stops[left + 1]);
  const double share = at - static_cast<double>(left);
  const auto mix = [&](uint8_t x, uint8_t y) {
    return static_cast<uint8_t>(std::lround(x + share * (y - x)));
  };
  return {mix(a.red, b.red), mix(a.green, b.green), mix(a.blue, b.blue)};
}

}  // namespace

Colour colour(std::string_view hex) {
  const auto part = [&](size_t at) {
    return static_cast<uint8_t>(std::stoi(std::string(hex.substr(at, 2)), nullptr, 16));
  };
  return {part(0), part(2), part(4)};
}

std::string hex(const Colour& colour) {
  return fmt::format("#{:02x}{:02x}{:02x}", colour.red, colour.green, colour.blue);
}

double contrast(const Colour& a, const Colour& b) {
  const double first = luminance(a), second = luminance(b);
  return (std::max(first, second) + 0.05) / (std::min(first, second) + 0.05);
}

const Scheme& light_scheme() {
  static constexpr Scheme kLight = {{{"--fg", "1B1E23"},
                                     {"--muted", "5C636B"},
                                     {"--bg", "FFFFFF"},
                                     {"--card", "F6F7F9"},
                                     {"--line", "D9DDE2"},
                                     {"--grid", "E8EAED"},
                                     {"--axis", "7C838B"},
                                     {"--accent", "0B63A5"},
                                     {"--s0", "1B1E23"},
                                     {"--s1", "0072B2"},
                                     {"--s2", "D55E00"},
                                     {"--s3", "009E73"},
                                     {"--s4", "C0649A"},
                                     {"--s5", "B07A00"},
                                     {"--s6", "3592C8"},
                                     {"--s7", "6A727B"}}};
  return kLight;
}

const Scheme& dark_scheme() {
  static constexpr Scheme kDark = {{{"--fg", "E8EAED"},
                                    {"--muted", "A3ABB4"},
                                    {"--bg", "14161A"},
                                    {"--card", "1D2025"},
                                    {"--line", "363B42"},
                                    {"--grid", "2A2E34"},
                                    {"--axis", "7F8790"},
                                    {"--accent", "7CBBEE"},
                                    {"--s0", "E8EAED"},
                                    {"--s1", "2E8BD0"},
                                    {"--s2", "E8701A"},
                                    {"--s3", "12AE83"},
                                    {"--s4", "CC79A7"},
                                    {"--s5", "E69F00"},
                                    {"--s6", "7CC8F2"},
                                    {"--s7", "9AA3AD"}}};
  return kDark;
}

Colour scheme_colour(const Scheme& scheme, std::string_view name) {
  const auto* entry =
      std::find_if(scheme.begin(), scheme.end(), [&](const auto& pair) { return pair.first == name; });
  return colour(entry->second);
}

Colour scale_colour(Colours colours, double place) {
  // Cividis (Nunez, Anderton, Renslow 2018), every ninth part.
  static constexpr std::array<std::string_view, 10> kCividis = {
      "00204D", "00336F", "39486B", "575C6D", "707173", "8A8779", "A69D75", "C4B56C", "E4CF5B", "FFEA46"};
  static constexpr std::array<std::string_view, 5> kDiverging = {"0072B2", "7DB1D4", "F3F3F1", "EAA77C",
                                                                 "D55E00"};
  return colours == Colours::kSequential ? between(kCividis, place) : between(kDiverging, place);
}

Colour ink_on(const Colour& ground) {
  const Colour black, white = {255, 255, 255};
  return contrast(black, ground) >= contrast(white, ground) ? black : white;
}

}  // namespace msplora::report
