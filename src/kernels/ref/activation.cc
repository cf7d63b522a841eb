#include "kernels/ref/reference.h"

#include <cmath>

namespace msplora::kernels::ref {

double activation(Activation kind, double x) {
  switch (kind) {
    case Activation::kGelu:
      return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu:
      return x < 0 ? 0 : x;
    case Activation::kSilu:
      return x / (1.0 + std::exp(-x));
    case Activation::kTanh:
      return std::tanh(x);
  }
  return x;
}

double activation_derivative(Activation kind, double x) {
  switch (kind) {
    case Activation::kGelu:
      return 0.5 * (1.0 + std::erf(x / std::sqrt(2.0))) + x * std::exp(-0.5 * x * x) / std::sqrt(2.0 * M_PI);
    case Activation::kGeluTanh: {
      const double c = std::sqrt(2.0 / M_PI), t = std::tanh(c * (x + 0.044715 * x * x * x));
      return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * 0.044715 * x * x);
    }
    case Activation::kRelu:
      return x > 0 ? 1 : 0;
    case Activation::kSilu: {
      const double s = 1.0 / (1.0 + std::exp(-x));
      return s * (1.0 + x * (1.0 - s));
    }
    case Activation::kTanh: {
      const double t = std::tanh(x);
      return 1.0 - t * t;
    }
  }
  return 1;
}

void activate(const Activate<double>& op) {
  for (int64_t i = 0; i < op.n; ++i) {
    const double x = op.x[i];
    op.y[i] = activation(op.kind, x);
    if (op.derivative) op.derivative[i] = activation_derivative(op.kind, x);
  }
}

void multiply(const Multiply<double>& op) {
  for (int64_t i = 0; i < op.n; ++i) op.y[i] = op.a[i] * op.b[i];
}

}  // namespace msplora::kernels::ref
