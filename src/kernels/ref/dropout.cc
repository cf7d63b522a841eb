#include "kernels/ref/reference.h"

namespace msplora::kernels::ref {

void dropout(const Dropout<double>& op) {
  for (int64_t i = 0; i < op.n; ++i) op.y[i] = op.x[i] * mask_factor(op.mask, i);
}

}  // namespace msplora::kernels::ref
