#include "kernels/ref/reference.h"

#include <array>
#include <cmath>
#include "msplora/core/random.h"

namespace msplora::kernels::ref {

double normal(uint64_t key, int64_t row, int64_t column) {
  const auto counter = static_cast<uint64_t>(column / 64 * 16 + column % 16);
  const std::array<uint32_t, 4> words = philox4x32(key, counter, static_cast<uint64_t>(row), kNoiseRounds);
  const int64_t number = column % 64 / 16;
  const size_t pair = number < 2 ? 0 : 2;
  const double radius = std::sqrt(-2.0 * std::log(((words[pair] >> 8) + 1) * 0x1.0p-24));
  const double angle = 2.0 * M_PI * (words[pair + 1] >> 8) * 0x1.0p-24;
  return radius * (number % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

void add_row_noise(const RowNoise<double>& op) {
  for (int64_t row = 0; row < op.rows; ++row) {
    for (int64_t i = 0; i < op.width; ++i) {
      const int64_t at = row * op.width + i;
      op.y[at] = op.w[at] + op.deviations[row] * normal(op.key, row, i);
    }
  }
}

}  // namespace msplora::kernels::ref
