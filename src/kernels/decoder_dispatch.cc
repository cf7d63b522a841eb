#include "kernels/decoder_table.h"

namespace msplora::kernels {
namespace {

template <typename T>
const DecoderKernels<T>& chosen();

template <>
const DecoderKernels<float>& chosen<float>() {
#ifdef MSPLORA_KERNELS_X86
  if (active_isa() == Isa::kAvx512Bf16) return avx512bf16::kFloatDecoderKernels;
  if (active_isa() == Isa::kAvx512) return avx512::kFloatDecoderKernels;
  if (active_isa() == Isa::kAvx2) return avx2::kFloatDecoderKernels;
#endif
  return portable::kFloatDecoderKernels;
}
template <>
const DecoderKernels<Bfloat16>& chosen<Bfloat16>() {
#ifdef MSPLORA_KERNELS_X86
  if (active_isa() == Isa::kAvx512Bf16) return avx512bf16::kBf16DecoderKernels;
  if (active_isa() == Isa::kAvx512) return avx512::kBf16DecoderKernels;
  if (active_isa() == Isa::kAvx2) return avx2::kBf16DecoderKernels;
#endif
  return portable::kBf16DecoderKernels;
}
template <>
const DecoderKernels<double>& chosen<double>() {
  static const DecoderKernels<double> plain = ref::decoder_kernels<double>();
  return plain;
}

}  // namespace

template <typename T>
void residual_rms_norm(const ResidualRmsNorm<T>& op) {
  chosen<T>().residual_rms_norm(op);
}
template <typename T>
void residual_rms_norm_backward(const ResidualRmsNormBackward<T>& op) {
  chosen<T>().residual_rms_norm_backward(op);
}
template <typename T>
void rotary(const Rotary<T>& op) {
  chosen<T>().rotary(op);
}
template <typename T>
void swiglu(const SwiGlu<T>& op) {
  chosen<T>().swiglu(op);
}
template <typename T>
void swiglu_backward(const SwiGluBackward<T>& op) {
  chosen<T>().swiglu_backward(op);
}
template <typename T>
void cross_entropy_rows(const CrossEntropyRows<T>& op) {
  chosen<T>().cross_entropy_rows(op);
}

#define MSPLORA_INSTANTIATE(T)                                                 \
  template void residual_rms_norm(const ResidualRmsNorm<T>&);                  \
  template void residual_rms_norm_backward(const ResidualRmsNormBackward<T>&); \
  template void rotary(const Rotary<T>&);                                      \
  template void swiglu(const SwiGlu<T>&);                                      \
  template void swiglu_backward(const SwiGluBackward<T>&);                     \
  template void cross_entropy_rows(const CrossEntropyRows<T>&);
MSPLORA_INSTANTIATE(float)
MSPLORA_INSTANTIATE(Bfloat16)
MSPLORA_INSTANTIATE(double)
#undef MSPLORA_INSTANTIATE

}  // namespace msplora::kernels
