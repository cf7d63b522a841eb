#include "kernels/ref/reference.h"

#include <algorithm>
#include <cmath>

namespace msplora::kernels::ref {

void cross_entropy_rows(const CrossEntropyRows<double>& op) {
  for (int64_t row = 0; row < op.rows; ++row) {
    double* logits = op.logits + row * op.classes;
    const int64_t label = op.labels[row];
    for (int64_t i = 0; op.soft_cap > 0 && i < op.classes; ++i)
      logits[i] = op.soft_cap * std::tanh(logits[i] / op.soft_cap);
    const double top = *std::max_element(logits, logits + op.classes);
    double sum = 0;
    for (int64_t i = 0; i < op.classes; ++i) sum += std::exp(logits[i] - top);
    op.losses[row] = top - logits[label] + std::log(sum);
    for (int64_t i = 0; op.with_gradient && i < op.classes; ++i) {
      const double t = op.soft_cap > 0 ? logits[i] / op.soft_cap : 0.0;
      logits[i] = (std::exp(logits[i] - top) / sum - (i == label ? 1.0 : 0.0)) * (1.0 - t * t);
    }
  }
}

}  // namespace msplora::kernels::ref
