#include "kernels/cpu/cpu_kernels.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

template <typename T>
constexpr KernelTable<T> make_table() {
  return {&dropout<T>,
          &embedding_sum<T>,
          &add_row_noise<T>,
          &residual_layer_norm<T>,
          &residual_layer_norm_backward<T>,
          &activation<T>,
          &multiply<T>,
          &low_rank<T>,
          &low_rank_backward<T>,
          &segment_attention<T>,
          &segment_attention_backward<T>};
}

}  // namespace

extern const KernelTable<float> kFloatTable = make_table<float>();
extern const KernelTable<Bfloat16> kBf16Table = make_table<Bfloat16>();

}  // namespace msplora::kernels::MSPLORA_ISA
