#include "msplora/train/communicator.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <map>
#include <numeric>
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
  const auto size = static_cast<size_t>(ranks.size()), rank = static_cast<size_t>(ranks.rank());
  std::vector<double> counts(slots.size() * size, 0.0);  // [tensor, rank]
  for (size_t i = 0; i < slots.size(); ++i) counts[i * size + rank] = static_cast<double>(slots[i]->size(0));
  counts = sum_over_ranks(ranks, std::move(counts));
  for (size_t i = 0; i < slots.size(); ++i) {
    const auto of_tensor = counts.begin() + static_cast<std::ptrdiff_t>(i * size);
    const auto own = of_tensor + static_cast<std::ptrdiff_t>(rank);
    std::vector<int64_t> shape = slots[i]->sizes().vec();
    shape[0] = std::llround(std::accumulate(of_tensor, of_tensor + ranks.size(), 0.0));
    at::Tensor all = at::zeros(shape, slots[i]->options());
    all.narrow(0, std::llround(std::accumulate(of_tensor, own, 0.0)), slots[i]->size(0)).copy_(*slots[i]);
    ranks.sum(all);
    *slots[i] = std::move(all);
  }
}

}  // namespace msplora
