#include "kernels/ref/reference.h"

#include <cmath>
#include <vector>

namespace msplora::kernels::ref {
namespace {

struct Moments {
  double mean, rstd;
};

Moments moments(const double* row, int64_t width, double eps) {
  double mean = 0, variance = 0;
  for (int64_t i = 0; i < width; ++i) mean += row[i];
  mean /= static_cast<double>(width);
  for (int64_t i = 0; i < width; ++i) variance += (row[i] - mean) * (row[i] - mean);
  return {mean, 1.0 / std::sqrt(variance / static_cast<double>(width) + eps)};
}

}  // namespace

void residual_layer_norm(const ResidualLayerNorm<double>& op) {
  std::vector<double> s(static_cast<size_t>(op.width));
  for (int64_t row = 0; row < op.rows; ++row) {
    const int64_t offset = row * op.width;
    for (int64_t i = 0; i < op.width; ++i) {
      const double factor = mask_factor(op.mask, offset + i);
      s[i] = op.x[offset + i] * factor + (op.residual ? op.residual[offset + i] : 0.0);
      if (op.s) op.s[offset + i] = s[i];
    }
    const Moments m = moments(s.data(), op.width, op.eps);
    op.mean[row] = static_cast<float>(m.mean);
    op.rstd[row] = static_cast<float>(m.rstd);
    for (int64_t i = 0; i < op.width; ++i)
      op.y[offset + i] = (s[i] - m.mean) * m.rstd * op.gamma[i] + op.beta[i];
  }
}

// rstd was rounded to float; the variance it stands for is taken from s again, and eps is what remains of it.
void residual_layer_norm_backward(const ResidualLayerNormBackward<double>& op) {
  std::vector<double> d_gamma(static_cast<size_t>(op.width)), d_beta(static_cast<size_t>(op.width));
  for (int64_t row = 0; row < op.rows; ++row) {
    const int64_t offset = row * op.width;
    const double* s = op.s + offset;
    const double eps = op.eps;
    const Moments m = moments(s, op.width, eps);
    double mean_g = 0, mean_gn = 0;
    for (int64_t i = 0; i < op.width; ++i) {
      const double n = (s[i] - m.mean) * m.rstd, g = op.dy[offset + i] * op.gamma[i];
      mean_g += g;
      mean_gn += g * n;
      d_gamma[i] += op.dy[offset + i] * n;
      d_beta[i] += op.dy[offset + i];
    }
    mean_g /= static_cast<double>(op.width);
    mean_gn /= static_cast<double>(op.width);
    for (int64_t i = 0; i < op.width; ++i) {
      const double n = (s[i] - m.mean) * m.rstd, g = op.dy[offset + i] * op.gamma[i];
      const double ds = (g - mean_g - n * mean_gn) * m.rstd;
      const double factor = mask_factor(op.mask, offset + i);
      if (op.d_residual) op.d_residual[offset + i] = ds;
      if (op.d_x && (op.mask.active() || op.d_x != op.d_residual)) op.d_x[offset + i] = ds * factor;
    }
  }
  for (int64_t i = 0; i < op.width; ++i) {
    if (op.d_gamma) op.d_gamma[i] = d_gamma[i];
    if (op.d_beta) op.d_beta[i] = d_beta[i];
  }
}

}  // namespace msplora::kernels::ref
