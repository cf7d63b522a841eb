#include "kernels/ref/reference.h"

namespace msplora::kernels::ref {

void rotary(const Rotary<double>& op) {
  const int64_t half = op.rotary_dim / 2;
  const bool halves = op.pairs == RotaryPairs::kHalves;
  for (int64_t token = 0; token < op.tokens; ++token) {
    for (int64_t head = 0; head < op.heads; ++head) {
      const double* x = op.x + token * op.x_stride + head * op.head_dim;
      double* y = op.y + token * op.y_stride + head * op.head_dim;
      for (int64_t i = 0; i < half; ++i) {
        const int64_t first = halves ? i : 2 * i, second = halves ? i + half : 2 * i + 1;
        const double c = op.cos[op.positions[token] * half + i];
        const double s = (op.inverse ? -1.0 : 1.0) * op.sin[op.positions[token] * half + i];
        const double a = x[first], b = x[second];
        y[first] = a * c - b * s;
        y[second] = b * c + a * s;
      }
      for (int64_t i = op.rotary_dim; i < op.head_dim; ++i) y[i] = x[i];
    }
  }
}

}  // namespace msplora::kernels::ref
