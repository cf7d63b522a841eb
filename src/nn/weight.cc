#include "msplora/nn/weight.h"

#include <utility>

namespace msplora {

Weight::Weight(at::Tensor tensor) : tensor_(std::move(tensor)) {}
Weight::Weight(std::shared_ptr<const FrozenWeight> frozen) : frozen_(std::move(frozen)) {}

at::Tensor Weight::rows(int64_t begin, int64_t end) const {
  return frozen_ ? frozen_->rows(begin, end) : tensor_.detach().slice(0, begin, end);
}

void Weight::set(at::Tensor tensor) {
  tensor_ = std::move(tensor);
  frozen_.reset();
}

namespace {

// set_data changes the tensor behind every handle, which replacing this one would not.
void give_own_storage(const at::Tensor& tensor, at::ScalarType dtype) {
  tensor.set_data(tensor.detach().to(dtype, /*non_blocking=*/false, /*copy=*/true));
}

}  // namespace

const at::Tensor& Weight::own(at::ScalarType dtype) {
  if (frozen_) {
    set(frozen_->values().to(dtype, /*non_blocking=*/false, /*copy=*/true));
  } else {
    give_own_storage(tensor_, dtype);
  }
  return tensor_;
}

const at::Tensor& Parameter::own(at::ScalarType dtype) {
  if (weight) return weight->own(dtype);
  give_own_storage(vector, dtype);
  return vector;
}

std::vector<int64_t> Parameter::sizes() const {
  return weight ? std::vector<int64_t>{weight->out_features(), weight->in_features()} : vector.sizes().vec();
}

int64_t Parameter::numel() const {
  return weight ? weight->out_features() * weight->in_features() : vector.numel();
}

}  // namespace msplora
