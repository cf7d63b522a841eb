#include "msplora/nn/recompute.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <memory>
#include <unordered_set>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/profile.h"

namespace msplora {
namespace {

using torch::autograd::AccumulateGrad;
using torch::autograd::Node;
using torch::autograd::Variable;
using torch::autograd::variable_list;

thread_local bool checkpointing = false;
thread_local bool recomputing = false;

/// x as a leaf of a graph of its own.
at::Tensor as_leaf(const at::Tensor& x, bool requires_grad) {
  return x.detach().requires_grad_(requires_grad);
}

/// The leaves that y was computed from, without `input`, in the order in which they are found.
std::vector<at::Tensor> leaves_of(const at::Tensor& y, const at::Tensor& input) {
  std::vector<at::Tensor> leaves;
  std::unordered_set<const Node*> seen;
  std::vector<Node*> open = {y.grad_fn().get()};
  while (!open.empty()) {
    Node* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    if (const auto* leaf = dynamic_cast<const AccumulateGrad*>(node)) {
      if (!leaf->variable.is_same(input)) leaves.push_back(leaf->variable);
      continue;
    }
    for (const torch::autograd::Edge& edge : node->next_edges()) open.push_back(edge.function.get());
  }
  return leaves;
}

struct Recomputing {
  bool before = recomputing;
  Recomputing() { recomputing = true; }
  ~Recomputing() { recomputing = before; }
};

/// The graph node of a part: its inputs are x and the leaves, so that the engine adds up gradients of shared
/// leaves as it does for ordinary nodes.
struct RecomputeNode : public Node {
  at::Tensor x;
  bool needs_x = false;
  std::vector<at::Tensor> leaves;
  RecomputedPart part;

  variable_list apply(variable_list&& grads) override {
    if (c10::GradMode::is_enabled()) {
      throw Error(ErrorCode::kUsage, "recompute_in_backward", "gradients of gradients are not supported");
    }
    if (!part) {
      throw Error(ErrorCode::kUsage, "recompute_in_backward",
                  "a second backward pass through a graph that was freed", "use retain_graph");
    }
    variable_list result(1 + leaves.size());
    if (!grads[0].defined()) return result;
    variable_list inputs;
    at::Tensor y;
    const at::Tensor input = as_leaf(x, needs_x);
    {
      const ProfileScope scope("recomputation, rest");
      const c10::AutoGradMode with_grad(true);
      const Recomputing again;
      y = part(input);
    }
    if (needs_x) inputs.push_back(input);
    inputs.insert(inputs.end(), leaves.begin(), leaves.end());
    variable_list gradients = torch::autograd::grad({y}, inputs, {grads[0]}, /*retain_graph=*/false,
                                                    /*create_graph=*/false, /*allow_unused=*/true);
    std::move(gradients.begin(), gradients.end(), result.begin() + (needs_x ? 0 : 1));
    return result;
  }

  void release_variables() override {
    x.reset();
    part = nullptr;
  }
};

}  // namespace

CheckpointActivations::CheckpointActivations(bool on) : before_(checkpointing) {
  checkpointing = on;
}
CheckpointActivations::~CheckpointActivations() {
  checkpointing = before_;
}
bool CheckpointActivations::is_on() {
  return checkpointing;
}

bool is_recomputing() {
  return recomputing;
}

at::Tensor recompute_in_backward(const at::Tensor& x, RecomputedPart part) {
  if (!c10::GradMode::is_enabled()) return part(x);
  const at::Tensor input = as_leaf(x, x.requires_grad());
  std::vector<at::Tensor> leaves;
  at::Tensor y;
  {
    // The graph of this pass tells which leaves there are, and is gone at the end of the block.
    const at::Tensor with_graph = part(input);
    if (!with_graph.requires_grad()) return with_graph;
    leaves = leaves_of(with_graph, input);
    y = with_graph.variable_data();
  }
  const std::shared_ptr<RecomputeNode> node(new RecomputeNode, torch::autograd::deleteNode);
  node->set_next_edges(torch::autograd::collect_next_edges(x, leaves));
  node->x = x.detach();
  node->needs_x = x.requires_grad();
  node->leaves = std::move(leaves);
  node->part = std::move(part);
  torch::autograd::set_history(y, node);
  return y;
}

}  // namespace msplora
