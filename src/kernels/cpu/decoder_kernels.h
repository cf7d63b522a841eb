#pragma once

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/decoder_table.h"

namespace msplora::kernels::MSPLORA_ISA {

template <typename T>
void residual_rms_norm(const ResidualRmsNorm<T>& op);
template <typename T>
void residual_rms_norm_backward(const ResidualRmsNormBackward<T>& op);
template <typename T>
void rotary(const Rotary<T>& op);
template <typename T>
void swiglu(const SwiGlu<T>& op);
template <typename T>
void swiglu_backward(const SwiGluBackward<T>& op);
template <typename T>
void cross_entropy_rows(const CrossEntropyRows<T>& op);

}  // namespace msplora::kernels::MSPLORA_ISA
