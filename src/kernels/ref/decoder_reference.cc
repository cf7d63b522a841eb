#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/decoder_table.h"

namespace msplora::kernels::ref {
namespace {

template <typename T>
double inverse_root_mean_square(const T* row, int64_t width, double eps) {
  double squares = 0;
  for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(row[i]) * row[i];
  return 1.0 / std::sqrt(squares / static_cast<double>(width) + eps);
}

template <typename T>
void residual_rms_norm(const ResidualRmsNorm<T>& op) {
  std::vector<T> s(static_cast<size_t>(op.width));
  for (int64_t row = 0; row < op.rows; ++row) {
    const int64_t offset = row * op.width;
    for (int64_t i = 0; i < op.width; ++i) {
      s[i] = op.x[offset + i] + (op.residual ? op.residual[offset + i] : T{0});
      if (op.s) op.s[offset + i] = s[i];
    }
    const double inverse = inverse_root_mean_square(s.data(), op.width, op.eps);
    op.inverse[row] = static_cast<float>(inverse);
    for (int64_t i = 0; i < op.width; ++i) op.y[offset + i] = static_cast<T>(s[i] * inverse * op.gamma[i]);
  }
}

// `inverse` was rounded to float, so it is taken from s again.
template <typename T>
void residual_rms_norm_backward(const ResidualRmsNormBackward<T>& op) {
  std::vector<double> d_gamma(static_cast<size_t>(op.width));
  for (int64_t row = 0; row < op.rows; ++row) {
    const int64_t offset = row * op.width;
    const T* s = op.s + offset;
    const T* dy = op.dy + offset;
    const double inverse = inverse_root_mean_square(s, op.width, op.eps);
    double mean = 0;
    for (int64_t i = 0; i < op.width; ++i) {
      mean += static_cast<double>(dy[i]) * op.gamma[i] * s[i] * inverse;
      d_gamma[i] += static_cast<double>(dy[i]) * s[i] * inverse;
    }
    mean /= static_cast<double>(op.width);
    for (int64_t i = 0; i < op.width; ++i) {
      const double g = static_cast<double>(dy[i]) * op.gamma[i];
      const double around = op.d_s ? static_cast<double>(op.d_s[offset + i]) : 0.0;
      op.d_x[offset + i] = static_cast<T>(inverse * (g - s[i] * inverse * mean) + around);
    }
  }
  for (int64_t i = 0; op.d_gamma && i < op.width; ++i) op.d_gamma[i] = static_cast<Exact<T>>(d_gamma[i]);
}

template <typename T>
void rotary(const Rotary<T>& op) {
  const int64_t half = op.rotary_dim / 2;
  const bool halves = op.pairs == RotaryPairs::kHalves;
  for (int64_t token = 0; token < op.tokens; ++token) {
    for (int64_t head = 0; head < op.heads; ++head) {
      const T* x = op.x + token * op.x_stride + head * op.head_dim;
      T* y = op.y + token * op.y_stride + head * op.head_dim;
      for (int64_t i = 0; i < half; ++i) {
        const int64_t first = halves ? i : 2 * i, second = halves ? i + half : 2 * i + 1;
        const double c = op.cos[op.positions[token] * half + i];
        const double s = (op.inverse ? -1.0 : 1.0) * op.sin[op.positions[token] * half + i];
        const double a = x[first], b = x[second];
        y[first] = static_cast<T>(a * c - b * s);
        y[second] = static_cast<T>(b * c + a * s);
      }
      for (int64_t i = op.rotary_dim; i < op.head_dim; ++i) y[i] = x[i];
    }
  }
}

double logistic(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

template <typename T>
void swiglu(const SwiGlu<T>& op) {
  for (int64_t row = 0; row < op.rows; ++row) {
    for (int64_t i = 0; i < op.width; ++i) {
      const double gate = op.gate[row * op.gate_stride + i], up = op.up[row * op.up_stride + i];
      op.y[row * op.y_stride + i] = static_cast<T>(gate * logistic(gate) * up);
    }
  }
}

template <typename T>
void swiglu_backward(const SwiGluBackward<T>& op) {
  const SwiGlu<T>& f = op.forward;
  for (int64_t row = 0; row < f.rows; ++row) {
    for (int64_t i = 0; i < f.width; ++i) {
      const double gate = f.gate[row * f.gate_stride + i], up = f.up[row * f.up_stride + i];
      const double dy = op.dy[row * f.y_stride + i], s = logistic(gate);
      op.d_gate[row * f.gate_stride + i] = static_cast<T>(dy * up * s * (1.0 + gate * (1.0 - s)));
      op.d_up[row * f.up_stride + i] = static_cast<T>(dy * gate * s);
    }
  }
}

template <typename T>
void cross_entropy_rows(const CrossEntropyRows<T>& op) {
  for (int64_t row = 0; row < op.rows; ++row) {
    T* logits = op.logits + row * op.classes;
    const int64_t label = op.labels[row];
    const double top = *std::max_element(logits, logits + op.classes);
    double sum = 0;
    for (int64_t i = 0; i < op.classes; ++i) sum += std::exp(logits[i] - top);
    op.losses[row] = top - logits[label] + std::log(sum);
    for (int64_t i = 0; op.with_gradient && i < op.classes; ++i)
      logits[i] = static_cast<T>(std::exp(logits[i] - top) / sum - (i == label ? 1.0 : 0.0));
  }
}

}  // namespace

template <typename T>
DecoderKernels<T> decoder_kernels() {
  return {&residual_rms_norm<T>, &residual_rms_norm_backward<T>, &rotary<T>, &swiglu<T>,
          &swiglu_backward<T>,   &cross_entropy_rows<T>};
}
template DecoderKernels<float> decoder_kernels<float>();
template DecoderKernels<double> decoder_kernels<double>();

}  // namespace msplora::kernels::ref
