#pragma once

#include <string>

namespace msplora::report {

/// A number for people: `digits` digits that count, whole numbers complete with commas, powers of ten below
/// 1e-4 and from 1e15 on ("1.23×10⁻⁵"), a real minus sign, "–" for what is not a number.
std::string number_text(double value, int digits = 4);

/// 0.1234 as "12.3 %".
std::string percent_text(double share, int decimals = 1);

}  // namespace msplora::report
