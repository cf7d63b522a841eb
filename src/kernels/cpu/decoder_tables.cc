#include "kernels/cpu/decoder_kernels.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

template <typename T>
constexpr DecoderKernels<T> make_table() {
  return {&residual_rms_norm<T>, &residual_rms_norm_backward<T>, &rotary<T>, &swiglu<T>,
          &swiglu_backward<T>,   &cross_entropy_rows<T>};
}

}  // namespace

extern const DecoderKernels<float> kFloatDecoderKernels = make_table<float>();
extern const DecoderKernels<Bfloat16> kBf16DecoderKernels = make_table<Bfloat16>();

}  // namespace msplora::kernels::MSPLORA_ISA
