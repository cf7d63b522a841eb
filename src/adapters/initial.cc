#include "adapters/initial.h"

#include <ATen/ops/empty.h>
#include <string>
#include <vector>

#include "msplora/core/random.h"

namespace msplora::detail {

at::TensorOptions factor_options(const Site& site) {
  if (site.linear == nullptr) return at::TensorOptions().dtype(at::kFloat);
  const Weight& weight = *site.linear->weight;
  return at::TensorOptions()
      .device(weight.device())
      .dtype(weight.dtype() == at::kDouble ? at::kDouble : at::kFloat);
}

at::Tensor wide(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? tensor : tensor.to(at::kFloat);
}

at::Tensor draw_uniform(const std::vector<int64_t>& shape, double bound, uint64_t seed,
                        const std::string& name) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  float* values = tensor.data_ptr<float>();
  RandomStream stream(seed, name);
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    values[i] = static_cast<float>((2.0 * stream.uniform() - 1.0) * bound);
  }
  return tensor;
}

}  // namespace msplora::detail
