#include "kernels/cpu/cpu_kernels.h"

namespace msplora::kernels::MSPLORA_ISA {

#define MSPLORA_KERNEL(name, Op) &name<float>,
extern const Table<float> kFloatTable = {MSPLORA_KERNELS};
#undef MSPLORA_KERNEL
#define MSPLORA_KERNEL(name, Op) &name<Bfloat16>,
extern const Table<Bfloat16> kBf16Table = {MSPLORA_KERNELS};
#undef MSPLORA_KERNEL

}  // namespace msplora::kernels::MSPLORA_ISA
