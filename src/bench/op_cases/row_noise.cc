#include <fmt/format.h>
#include "bench/op_case.h"

namespace msplora::bench {
namespace {

constexpr double kNormalOperations =
    60;  // a quarter of seven rounds of Philox, logarithm, root, sine and cosine

template <typename T>
void build_row_noise(OpFrame<T>& f, int64_t rows, int64_t width, bool is_in_place) {
  T* const w = f.constant("w", {rows, width});
  const float* const deviations = f.float_constant("deviations", {rows});
  const auto y = f.output("y", {rows, width});
  const int64_t n = rows * width;
  f.forward({kNormalOperations * static_cast<double>(n), 2.0 * static_cast<double>(n) * sizeof(T)},
            [=](const auto& k) {
              if (is_in_place) std::copy(w, w + n, y.value);
              const T* const from = is_in_place ? y.value : w;
              k.add_row_noise({rows, width, 0xFEDCBA9876543210ull, deviations, from, y.value});
            });
}

}  // namespace

// The composition draws other numbers.
OpCases add_row_noise_cases() {
  OpCases cases;
  for (const int64_t width : {1, 5, 16, 63, 64, 65, 200}) {
    for (const bool is_in_place : {false, true}) {
      cases.small.emplace_back(fmt::format("7 x {}{}", width, is_in_place ? ", in place" : ""),
                               [=](auto& f) { build_row_noise(f, 7, width, is_in_place); });
    }
  }
  cases.small.emplace_back("100 x 300", [](auto& f) { build_row_noise(f, 100, 300, false); });
  cases.of_model = [](const OpSizes& s) {
    return std::vector<OpCase>{
        {"row noise", [s](auto& f) { build_row_noise(f, s.width(), s.width(), false); }}};
  };
  cases.float_tolerance = 2e-6;
  cases.bfloat16_tolerance = 5e-3;
  return cases;
}

}  // namespace msplora::bench
