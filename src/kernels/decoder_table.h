#pragma once

#include "msplora/kernels/decoder.h"

// The kernels of decoders per instruction set, under the same rules as table.h.
namespace msplora::kernels {

template <typename T>
struct DecoderKernels {
  void (*residual_rms_norm)(const ResidualRmsNorm<T>&);
  void (*residual_rms_norm_backward)(const ResidualRmsNormBackward<T>&);
  void (*rotary)(const Rotary<T>&);
  void (*swiglu)(const SwiGlu<T>&);
  void (*swiglu_backward)(const SwiGluBackward<T>&);
  void (*cross_entropy_rows)(const CrossEntropyRows<T>&);
};

#define MSPLORA_DECLARE_DECODER_KERNELS(isa)                 \
  namespace isa {                                            \
  extern const DecoderKernels<float> kFloatDecoderKernels;   \
  extern const DecoderKernels<Bfloat16> kBf16DecoderKernels; \
  }
MSPLORA_DECLARE_DECODER_KERNELS(portable)
MSPLORA_DECLARE_DECODER_KERNELS(avx2)
MSPLORA_DECLARE_DECODER_KERNELS(avx512)
MSPLORA_DECLARE_DECODER_KERNELS(avx512bf16)
#undef MSPLORA_DECLARE_DECODER_KERNELS

namespace ref {
/// The plain loops, for float and double (decoder_reference.cc).
template <typename T>
DecoderKernels<T> decoder_kernels();
}  // namespace ref

}  // namespace msplora::kernels
