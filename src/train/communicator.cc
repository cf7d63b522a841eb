#include "msplora/train/communicator.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <map>
#include <utility>

namespace msplora {

std::vector<double> sum_over_ranks(Communicator& ranks, std::vector<double> numbers) {
  if (ranks.size() == 1) return numbers;
  at::Tensor view = at::from_blob(numbers.data(), {static_cast<int64_t>(numbers.size())}, at::kDouble);
  ranks.sum(view);
  return numbers;
}

void sum_gradients(Communicator& ranks, const std::vector<at::Tensor>& trained) {
  if (ranks.size() == 1) return;
  const c10::NoGradGuard no_grad;
  std::map<at::ScalarType, std::vector<at::Tensor>> by_type;
  for (const at::Tensor& tensor : trained) {
    if (!tensor.grad().defined()) tensor.mutable_grad() = at::zeros_like(tensor);
    by_type[tensor.scalar_type()].push_back(tensor.grad());
  }
  for (const auto& [type, gradients] : by_type) {
    std::vector<at::Tensor> parts;
    for (const at::Tensor& gradient : gradients) parts.push_back(gradient.reshape({-1}));
    at::Tensor flat = at::cat(parts);
    ranks.sum(flat);
    int64_t begin = 0;
    for (at::Tensor gradient : gradients) {
      gradient.copy_(flat.narrow(0, begin, gradient.numel()).view(gradient.sizes()));
      begin += gradient.numel();
    }
  }
}

void join_slots(Communicator& ranks, const std::vector<at::Tensor*>& slots) {
  if (ranks.size() == 1) return;
  const c10::NoGradGuard no_grad;
  for (at::Tensor* own : slots) {
    std::vector<int64_t> shape = own->sizes().vec();
    const int64_t count = shape[0];
    shape[0] *= ranks.size();
    at::Tensor all = at::zeros(shape, own->options());
    all.narrow(0, ranks.rank() * count, count).copy_(*own);
    ranks.sum(all);
    *own = std::move(all);
  }
}

}  // namespace msplora
