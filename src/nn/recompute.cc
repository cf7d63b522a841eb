#include "msplora/nn/recompute.h"

#include <c10/core/GradMode.h>
#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <algorithm>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/profile.h"
#include "nn/autograd.h"
#include "nn/graph_leaves.h"

namespace msplora {
namespace {

using torch::autograd::Node;
using torch::autograd::Variable;
using torch::autograd::variable_list;

thread_local bool checkpointing = false;
thread_local bool recomputing = false;

/// What libtorch holds graph nodes by: std::shared_ptr in 1.13 and most of 2.x, c10::intrusive_ptr later.
using NodePointer = decltype(torch::autograd::Edge::function);

template <typename T, typename Pointer = NodePointer>
auto make_node() {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<Node>>) {
    // libtorch's deleter takes a deep graph apart without recursion. It is found by its argument: later
    // libtorchs have none.
    return std::shared_ptr<T>(new T, [](auto* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<T>();
  }
}

/// x as a leaf of a graph of its own.
at::Tensor as_leaf(const at::Tensor& x, bool requires_grad) {
  return x.detach().requires_grad_(requires_grad);
}

struct Recomputing {
  bool before = recomputing;
  Recomputing() { recomputing = true; }
  ~Recomputing() { recomputing = before; }
};

/// The graph node of a part: its inputs are those of the part and the leaves, so that the engine adds up
/// gradients of shared leaves as it does for ordinary nodes.
struct RecomputeNode : public Node {
  variable_list inputs;
  std::vector<bool> needs_input;
  std::vector<at::Tensor> leaves;
  RecomputedPart part;

  variable_list apply(variable_list&& grads) override {
    detail::refuse_second_derivatives("recompute_in_backward");
    if (!part) {
      throw Error(ErrorCode::kUsage, "recompute_in_backward",
                  "a second backward pass through a graph that was freed", "use retain_graph");
    }
    variable_list wanted, all, reached, reached_grads;
    for (size_t i = 0; i < inputs.size(); ++i) {
      all.push_back(as_leaf(inputs[i], needs_input[i]));
      if (needs_input[i]) wanted.push_back(all.back());
    }
    wanted.insert(wanted.end(), leaves.begin(), leaves.end());
    const variable_list outputs = run_again(all);
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (!grads[i].defined() || !outputs[i].requires_grad()) continue;
      reached.push_back(outputs[i]);
      reached_grads.push_back(grads[i]);
    }
    variable_list result(inputs.size() + leaves.size());
    if (reached.empty()) return result;
    const variable_list gradients =
        torch::autograd::grad(reached, wanted, reached_grads, /*retain_graph=*/false,
                              /*create_graph=*/false, /*allow_unused=*/true);
    auto next = gradients.begin();
    for (size_t i = 0; i < result.size(); ++i) {
      if (i >= inputs.size() || needs_input[i]) result[i] = *next++;
    }
    return result;
  }

  variable_list run_again(const variable_list& leaves_in) const {
    const ProfileScope scope("recomputation, rest");
    const c10::AutoGradMode with_grad(true);
    const Recomputing again;
    return part(leaves_in);
  }

  void release_variables() override {
    inputs.clear();
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

std::vector<at::Tensor> recompute_in_backward(const std::vector<at::Tensor>& inputs, RecomputedPart part) {
  if (!c10::GradMode::is_enabled()) return part(inputs);
  const auto node = make_node<RecomputeNode>();
  variable_list own;
  for (const at::Tensor& input : inputs) {
    node->inputs.push_back(input.detach());
    node->needs_input.push_back(input.requires_grad());
    own.push_back(as_leaf(input, input.requires_grad()));
  }
  variable_list outputs;
  {
    // The graph of this pass tells which leaves there are, and is gone at the end of the block.
    const variable_list with_graph = part(own);
    const auto has_graph = [](const at::Tensor& output) { return output.requires_grad(); };
    if (std::none_of(with_graph.begin(), with_graph.end(), has_graph)) return with_graph;
    node->leaves = detail::leaves_of(with_graph, own);
    for (const at::Tensor& output : with_graph) outputs.push_back(output.variable_data());
  }
  node->set_next_edges(torch::autograd::collect_next_edges(inputs, node->leaves));
  node->part = std::move(part);
  for (at::Tensor& output : outputs) torch::autograd::set_history(output, node);
  return outputs;
}

at::Tensor recompute_in_backward(const at::Tensor& x, std::function<at::Tensor(const at::Tensor&)> part) {
  return recompute_in_backward(std::vector<at::Tensor>{x},
                               [part = std::move(part)](const std::vector<at::Tensor>& inputs) {
                                 return std::vector<at::Tensor>{part(inputs[0])};
                               })[0];
}

}  // namespace msplora
