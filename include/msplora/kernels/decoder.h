#pragma once

#include <cstdint>

#include "msplora/kernels/kernels.h"

/// The kernels of decoders (Llama and relatives), under the same rules as those in kernels.h.
namespace msplora::kernels {

/// s = x + residual; y = s / sqrt(mean(s²) + eps) * gamma, over the last dimension (Zhang & Sennrich, 2019).
/// x, residual (may be null), s (may be null; then x is what backward needs when there is no residual),
/// y: [rows, width]; gamma: [width]; inverse: float [rows], 1 / sqrt(mean(s²) + eps), saved for
/// backward.
template <typename T>
struct ResidualRmsNorm {
  int64_t rows = 0, width = 0;
  double eps = 1e-6;
  const T* x = nullptr;
  const T* residual = nullptr;
  const Exact<T>* gamma = nullptr;
  T* s = nullptr;
  T* y = nullptr;
  float* inverse = nullptr;
};
template <typename T>
void residual_rms_norm(const ResidualRmsNorm<T>& op);

/// Backward. d_s (may be null) is the gradient that reaches s past the norm, through the residual stream.
/// d_x is the gradient of s, and so of x and of residual. d_x may be the array d_s. d_gamma ([width]) is
///  overwritten when not null.
template <typename T>
struct ResidualRmsNormBackward {
  int64_t rows = 0, width = 0;
  double eps = 1e-6;  // as in forward
  const T* dy = nullptr;
  const T* d_s = nullptr;
  const T* s = nullptr;
  const float* inverse = nullptr;
  const Exact<T>* gamma = nullptr;
  T* d_x = nullptr;
  Exact<T>* d_gamma = nullptr;
};
template <typename T>
void residual_rms_norm_backward(const ResidualRmsNormBackward<T>& op);

/// Which elements of a head are turned together.
enum class RotaryPairs {
  kHalves,       // i and i + rotary_dim / 2 (Hugging Face's Llama, Mistral, Qwen)
  kInterleaved,  // 2 i and 2 i + 1 (the paper, GPT-J)
};

/// Rotary position embedding (Su et al., 2021, equation 34): the pair i of each head is turned by the angle
/// of (position, i). x, y: [tokens, heads, head_dim] with x_stride, y_stride elements between tokens;
/// elements of a head from rotary_dim (even) on are copied. cos, sin: [positions, rotary_dim / 2].
/// `inverse` turns back, which is the backward pass. y may be x.
template <typename T>
struct Rotary {
  int64_t tokens = 0, heads = 0, head_dim = 0, rotary_dim = 0;
  int64_t x_stride = 0, y_stride = 0;
  RotaryPairs pairs = RotaryPairs::kHalves;
  bool inverse = false;
  const int32_t* positions = nullptr;  // [tokens], rows of cos and sin
  const Exact<T>* cos = nullptr;
  const Exact<T>* sin = nullptr;
  const T* x = nullptr;
  T* y = nullptr;
};
template <typename T>
void rotary(const Rotary<T>& op);

/// y = silu(gate) * up (Shazeer, 2020). All [rows, width], with a distance between rows each, so that gate
/// and up may be halves of one array.
template <typename T>
struct SwiGlu {
  int64_t rows = 0, width = 0;
  int64_t gate_stride = 0, up_stride = 0, y_stride = 0;
  const T* gate = nullptr;
  const T* up = nullptr;
  T* y = nullptr;  // unused in backward
};
template <typename T>
void swiglu(const SwiGlu<T>& op);

/// Backward. dy has y_stride; d_gate and d_up have the strides of gate and up and may be the same arrays.
template <typename T>
struct SwiGluBackward {
  SwiGlu<T> forward;
  const T* dy = nullptr;
  T* d_gate = nullptr;
  T* d_up = nullptr;
};
template <typename T>
void swiglu_backward(const SwiGluBackward<T>& op);

/// losses[row] = log Σ_j exp(logits[row, j]) - logits[row, labels[row]], and with `with_gradient` the row is
/// overwritten with the gradient softmax(logits) - onehot(label). logits: [rows, classes]; labels in
/// [0, classes). A row with a NaN has a loss of NaN.
template <typename T>
struct CrossEntropyRows {
  int64_t rows = 0, classes = 0;
  const int64_t* labels = nullptr;
  bool with_gradient = false;
  T* logits = nullptr;
  double* losses = nullptr;
};
template <typename T>
void cross_entropy_rows(const CrossEntropyRows<T>& op);

}  // namespace msplora::kernels
