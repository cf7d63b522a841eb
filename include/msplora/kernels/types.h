#pragma once

#include <cstdint>

/// The types that the arguments of kernels are made of.
namespace msplora::kernels {

/// Storage of a bfloat16 value; bit-compatible with c10::BFloat16.
struct Bfloat16 {
  uint16_t bits;
};

/// Type of what stays exact beside activations of type T (adapter factors, parameters of norms, rotary
/// tables): float32, float64 beside float64.
template <typename T>
struct ExactType {
  using type = float;
};
template <>
struct ExactType<double> {
  using type = double;
};
template <typename T>
using Exact = typename ExactType<T>::type;

/// Rounds of the generators, the fewest that pass BigCrush (Salmon et al. 2011, table 2): of ARS for masks,
/// of Philox for noise.
inline constexpr int kMaskRounds = 5;
inline constexpr int kNoiseRounds = 7;

/// A dropout mask that is computed, never stored. Element e of the stream `key` is kept when its 16-bit
/// number is at least threshold = round(p * 65536); kept values are scaled by 1 / (1 - threshold / 65536).
/// The numbers are those of ARS (core/random.h): counter e / 8 gives eight 16-bit numbers, low bytes first,
/// of which e % 8 is taken.
struct DropoutMask {
  uint64_t key = 0;
  double p = 0.0;

  bool active() const { return p > 0.0; }
  uint32_t threshold() const { return static_cast<uint32_t>(p * 65536.0 + 0.5); }
  double scale() const { return 1.0 / (1.0 - threshold() / 65536.0); }
};

/// Hugging Face names: gelu (erf), gelu_new / gelu_pytorch_tanh (tanh), relu, silu, tanh.
enum class Activation { kGelu, kGeluTanh, kRelu, kSilu, kTanh };

}  // namespace msplora::kernels
