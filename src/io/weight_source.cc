#include "msplora/io/weight_source.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>

namespace msplora {

bool is_finite(const at::Tensor& tensor) {
  constexpr int64_t kPart = 1 << 20;  // so that no second copy of a large table is formed
  const at::Tensor flat = tensor.reshape({-1});
  for (int64_t begin = 0; begin < flat.numel(); begin += kPart) {
    // max |x| carries NaN along, so one reduction answers.
    if (!at::isfinite(flat.slice(0, begin, begin + kPart).abs().max()).item<bool>()) return false;
  }
  return true;
}

}  // namespace msplora
