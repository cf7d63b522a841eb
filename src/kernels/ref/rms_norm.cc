#include "kernels/ref/reference.h"

#include <cmath>
#include <vector>

namespace msplora::kernels::ref {
namespace {

double inverse_root_mean_square(const double* row, int64_t width, double eps) {
  double squares = 0;
  for (int64_t i = 0; i < width; ++i) squares += row[i] * row[i];
  return 1.0 / std::sqrt(squares / static_cast<double>(width) + eps);
}

}  // namespace

void residual_rms_norm(const ResidualRmsNorm<double>& op) {
  std::vector<double> s(static_cast<size_t>(op.width));
  for (int64_t row = 0; row < op.rows; ++row) {
    const int64_t offset = row * op.width;
    for (int64_t i = 0; i < op.width; ++i) {
      s[i] = op.x[offset + i] + (op.residual ? op.residual[offset + i] : 0.0);
      if (op.s) op.s[offset + i] = s[i];
    }
    const double inverse = inverse_root_mean_square(s.data(), op.width, op.eps);
    op.inverse[row] = static_cast<float>(inverse);
    for (int64_t i = 0; i < op.width; ++i) op.y[offset + i] = s[i] * inverse * op.gamma[i];
  }
}

// `inverse` was rounded to float, so it is taken from s again.
void residual_rms_norm_backward(const ResidualRmsNormBackward<double>& op) {
  std::vector<double> d_gamma(static_cast<size_t>(op.width));
  for (int64_t row = 0; row < op.rows; ++row) {
    const int64_t offset = row * op.width;
    const double* s = op.s + offset;
    const double* dy = op.dy + offset;
    const double inverse = inverse_root_mean_square(s, op.width, op.eps);
    double mean = 0;
    for (int64_t i = 0; i < op.width; ++i) {
      mean += dy[i] * op.gamma[i] * s[i] * inverse;
      d_gamma[i] += dy[i] * s[i] * inverse;
    }
    mean /= static_cast<double>(op.width);
    for (int64_t i = 0; i < op.width; ++i) {
      const double g = dy[i] * op.gamma[i];
      const double around = op.d_s ? op.d_s[offset + i] : 0.0;
      op.d_x[offset + i] = inverse * (g - s[i] * inverse * mean) + around;
    }
  }
  for (int64_t i = 0; op.d_gamma && i < op.width; ++i) op.d_gamma[i] = d_gamma[i];
}

}  // namespace msplora::kernels::ref
