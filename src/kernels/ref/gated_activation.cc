#include "kernels/ref/reference.h"

namespace msplora::kernels::ref {

void gated_activation(const GatedActivation<double>& op) {
  for (int64_t row = 0; row < op.rows; ++row) {
    for (int64_t i = 0; i < op.width; ++i) {
      const int64_t at = row * op.stride + i;
      const double gate = op.gate[at], up = op.up[at], value = activation(op.activation, gate);
      op.y[row * op.width + i] = value * up;
      if (op.by_gate == nullptr) continue;
      op.by_gate[at] = up * activation_derivative(op.activation, gate);
      op.by_up[at] = value;
    }
  }
}

void gated_activation_backward(const GatedActivationBackward<double>& op) {
  for (int64_t row = 0; row < op.rows; ++row) {
    for (int64_t i = 0; i < op.width; ++i) {
      const int64_t at = row * op.stride + i;
      const double dy = op.dy[row * op.width + i];
      op.d_gate[at] = dy * op.by_gate[at];
      op.d_up[at] = dy * op.by_up[at];
    }
  }
}

}  // namespace msplora::kernels::ref
