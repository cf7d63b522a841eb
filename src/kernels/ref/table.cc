#include "kernels/ref/reference.h"

namespace msplora::kernels::ref {

#define MSPLORA_KERNEL(name, Op) &name,
extern const Table<double> kTable = {MSPLORA_KERNELS};
#undef MSPLORA_KERNEL

}  // namespace msplora::kernels::ref
