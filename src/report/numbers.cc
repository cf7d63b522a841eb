#include "msplora/report/numbers.h"

#include <fmt/format.h>

#include <cmath>
#include <cstddef>

#include "report/text.h"
#include "report/ticks.h"

namespace msplora::report {
std::string number_text(double value, int digits) {
  if (std::isnan(value)) return "–";
  const std::string sign = value < 0 ? "−" : "";
  const double size = std::abs(value);
  if (std::isinf(size)) return sign + "∞";
  if (size == 0.0) return "0";
  if (size < 1e-4 || size >= 1e15) {
    auto exponent = static_cast<int>(std::floor(std::log10(size)));
    std::string text = fmt::format("{:.{}e}", size, digits - 1);
    const size_t mark = text.find('e');
    exponent = std::stoi(text.substr(mark + 1));  // after rounding
    std::string mantissa = text.substr(0, mark);
    if (mantissa.find('.') != std::string::npos) {
      while (mantissa.back() == '0') mantissa.pop_back();
      if (mantissa.back() == '.') mantissa.pop_back();
    }
    return sign + (mantissa == "1" ? "" : mantissa + "×") + power_of_ten(exponent);
  }
  if (size == std::floor(size)) return sign + with_commas(fmt::format("{:.0f}", size));
  const int whole = static_cast<int>(std::floor(std::log10(size))) + 1;
  const int decimals = whole >= digits ? 0 : digits - whole;
  const std::string text = fmt::format("{:.{}f}", size, decimals);
  return sign + (decimals == 0 ? with_commas(text) : text);
}

std::string percent_text(double share, int decimals) {
  if (!std::isfinite(share)) return "–";
  const std::string text = fmt::format("{:.{}f}", std::abs(100.0 * share), decimals);
  const bool zero = text.find_first_not_of("0.") == std::string::npos;
  return (share < 0 && !zero ? "−" : "") + text + " %";
}

}  // namespace msplora::report
