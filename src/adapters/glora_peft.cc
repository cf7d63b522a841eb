#include "adapters/glora_peft.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <utility>

namespace msplora::detail {
namespace {

/// What the support is as one column, [rows, 1].
at::Tensor column_of(const PeftSupport& support) {
  if (support.form == Support::kNone) return at::zeros({support.rows, 1}, support.options);
  if (support.form == Support::kConstant) return first_number(support.down).expand({support.rows, 1});
  return first_column(support.down.reshape({support.rows, -1}));
}

}  // namespace

at::Tensor first_column(const at::Tensor& down) {
  return down.narrow(1, 0, 1);
}
at::Tensor first_number(const at::Tensor& down) {
  return down.reshape({-1}).narrow(0, 0, 1);
}

void append_peft_support(const PeftSupport& support, Support form, int64_t rank,
                         std::vector<NamedTensor>& tensors) {
  const auto [rows, columns] = std::pair(support.rows, support.columns);
  switch (form) {
    case Support::kNone:
      tensors.push_back({support.name + "zeros", support.is_flat
                                                     ? at::zeros({rows}, support.options)
                                                     : at::zeros({rows, columns}, support.options)});
      return;
    case Support::kConstant:
      tensors.push_back({support.name + "X", first_number(support.down)});
      return;
    case Support::kVector:
      tensors.push_back(
          {support.name + "X", support.is_flat ? column_of(support).reshape({rows}) : column_of(support)});
      return;
    case Support::kLowRank:
      break;
  }
  at::Tensor down = support.down, up = support.up;
  if (support.form != Support::kLowRank) {  // the column times a row of ones
    down = at::zeros({rows, rank}, support.options);
    up = at::zeros({rank, columns}, support.options);
    down.select(1, 0).copy_(column_of(support).select(1, 0));
    up.select(0, 0).fill_(1.0);
  }
  tensors.push_back({support.name + "Xd", down});
  tensors.push_back({support.name + "Xu", up});
}

}  // namespace msplora::detail
