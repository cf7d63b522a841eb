#include "nn/graph_leaves.h"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>

#include <algorithm>
#include <unordered_set>
#include <vector>

namespace msplora::detail {

using torch::autograd::AccumulateGrad;
using torch::autograd::Node;

std::vector<at::Tensor> leaves_of(const std::vector<at::Tensor>& outputs,
                                  const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> leaves;
  std::unordered_set<const Node*> seen;
  std::vector<Node*> open;
  for (const at::Tensor& output : outputs) open.push_back(output.grad_fn().get());
  while (!open.empty()) {
    Node* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    if (const auto* leaf = dynamic_cast<const AccumulateGrad*>(node)) {
      const bool is_input = std::any_of(inputs.begin(), inputs.end(), [&](const at::Tensor& input) {
        return leaf->variable.is_same(input);
      });
      if (!is_input) leaves.push_back(leaf->variable);
      continue;
    }
    for (const torch::autograd::Edge& edge : node->next_edges()) open.push_back(edge.function.get());
  }
  return leaves;
}

}  // namespace msplora::detail
