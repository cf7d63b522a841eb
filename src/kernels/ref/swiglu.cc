#include "kernels/ref/reference.h"

#include <cmath>

namespace msplora::kernels::ref {
namespace {

double logistic(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

}  // namespace

void swiglu(const SwiGlu<double>& op) {
  for (int64_t row = 0; row < op.rows; ++row) {
    for (int64_t i = 0; i < op.width; ++i) {
      const double gate = op.gate[row * op.gate_stride + i], up = op.up[row * op.up_stride + i];
      op.y[row * op.y_stride + i] = gate * logistic(gate) * up;
    }
  }
}

void swiglu_backward(const SwiGluBackward<double>& op) {
  const SwiGlu<double>& f = op.forward;
  for (int64_t row = 0; row < f.rows; ++row) {
    for (int64_t i = 0; i < f.width; ++i) {
      const double gate = f.gate[row * f.gate_stride + i], up = f.up[row * f.up_stride + i];
      const double dy = op.dy[row * f.y_stride + i], s = logistic(gate);
      op.d_gate[row * f.gate_stride + i] = dy * up * s * (1.0 + gate * (1.0 - s));
      op.d_up[row * f.up_stride + i] = dy * gate * s;
    }
  }
}

}  // namespace msplora::kernels::ref
