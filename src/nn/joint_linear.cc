#include "msplora/nn/joint_linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "msplora/core/profile.h"
#include "msplora/nn/recompute.h"
#include "nn/autograd.h"
#include "nn/composed.h"
#include "nn/low_rank_terms.h"
#include "nn/packed_linear.h"
#include "nn/packed_product.h"

namespace msplora {
namespace {

using detail::data;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

/// Ranks of one layer's update, and its columns of y.
struct Part {
  int64_t begin, end;
  int64_t column, width;
};

/// What one pass needs beside the differentiable tensors.
struct Plan : torch::CustomClassHolder {
  c10::intrusive_ptr<detail::PackedLinear> product;
  std::optional<kernels::Activation> gate;  // of a gated product
  at::Tensor bias;
  std::vector<Part> parts;  // of the layers with an update
  std::vector<kernels::LowRankSlice> slices;
};

/// `factors` holds up_t of one part after the other, so do its gradient and `d_factors`.
template <typename T>
std::vector<kernels::LowRankOutput<T>> outputs_of(const Plan& plan, const at::Tensor& factors,
                                                  const at::Tensor& y, const at::Tensor& dy,
                                                  const at::Tensor& d_factors) {
  using Factor = kernels::Exact<T>;
  std::vector<kernels::LowRankOutput<T>> outputs;
  int64_t at = 0;
  for (const Part& part : plan.parts) {
    kernels::LowRankOutput<T> output;
    output.begin = part.begin;
    output.end = part.end;
    output.width = part.width;
    output.stride = (y.defined() ? y : dy).size(1);
    output.up_t = data<Factor>(factors) + at;
    if (y.defined()) output.y = data<T>(y) + part.column;
    if (dy.defined()) output.dy = data<T>(dy) + part.column;
    if (d_factors.defined()) output.d_up_t = data<Factor>(d_factors) + at;
    outputs.push_back(output);
    at += (part.end - part.begin) * part.width;
  }
  return outputs;
}

/// The same for a product that adds them itself.
std::vector<kernels::GemmUpdate> updates_of(const Plan& plan, const at::Tensor& factors) {
  std::vector<kernels::GemmUpdate> updates;
  const float* up_t = data<float>(factors);
  for (const Part& part : plan.parts) {
    updates.push_back({part.begin, part.end, part.column, part.width, up_t});
    up_t += (part.end - part.begin) * part.width;
  }
  return updates;
}

// The product with an update (null: none) that it adds itself; a gated one fills `derivative`.
at::Tensor product_of(const Plan& plan, const at::Tensor& x, const detail::LowRankSum* update,
                      at::Tensor& derivative) {
  if (!plan.gate) return plan.product->forward(x, plan.bias, update);
  derivative = at::empty({x.size(0), plan.product->out_features()}, x.options());
  at::Tensor y = at::empty({x.size(0), plan.product->gated_width()}, x.options());
  plan.product->gated_into(x, plan.bias, *plan.gate, y, derivative, update);
  return y;
}

// f(gate) * up and what is by them, in the place of both halves.
at::Tensor gate_halves(const Plan& plan, const at::Tensor& halves) {
  const ProfileScope scope("activation forward");
  const int64_t width = plan.product->gated_width(), stride = halves.size(1);
  at::Tensor y = at::empty({halves.size(0), width}, halves.options());
  detail::dispatch(halves, "joint_linear", [&](auto t) {
    using T = decltype(t);
    T *const gate = data<T>(halves), *const up = gate + stride / 2;
    kernels::gated_activation<T>({y.size(0), width, stride, *plan.gate, gate, up, data<T>(y), gate, up});
  });
  return y;
}

// dy of a gated product -> of its two halves.
at::Tensor through_gate(const at::Tensor& dy, const at::Tensor& derivative) {
  const ProfileScope scope("activation backward");
  const int64_t width = dy.size(1), stride = derivative.size(1), half = stride / 2;
  const at::Tensor d_halves = at::empty_like(derivative);
  for (int64_t first = width; first < stride; first += half) d_halves.narrow(1, first, half - width).zero_();
  detail::dispatch(dy, "joint_linear", [&](auto t) {
    using T = decltype(t);
    const T* const by = data<T>(derivative);
    T* const d = data<T>(d_halves);
    kernels::gated_activation_backward<T>(
        {dy.size(0), width, stride, by, by + half, data<T>(dy), d, d + half});
  });
  return d_halves;
}

struct Terms {
  const at::Tensor &x, &down, &factors, &z, &dy;
};
/// dx is added to and dz written, where they are defined.
struct TermGradients {
  const at::Tensor &dx, &d_down, &d_factors, &dz;
};
void low_rank_gradients(const Plan& plan, const Terms& terms, const TermGradients& gradients) {
  const ProfileScope scope("low rank backward");
  detail::dispatch(terms.dy, "joint_linear", [&](auto t) {
    using T = decltype(t);
    using Factor = kernels::Exact<T>;
    const auto outputs = outputs_of<T>(plan, terms.factors, {}, terms.dy, gradients.d_factors);
    kernels::LowRankBackward<T> op;
    op.forward = detail::low_rank_op<T>(terms.x, terms.down, terms.z, plan.slices);
    op.forward.outputs = outputs.data();
    op.forward.num_outputs = static_cast<int64_t>(outputs.size());
    op.dx = data<T>(gradients.dx);
    op.d_down = data<Factor>(gradients.d_down);
    op.dz = data<Factor>(gradients.dz);
    kernels::low_rank_backward<T>(op);
  });
}

struct JointLinearFunction : detail::KernelFunction<JointLinearFunction> {
  static constexpr const char* kName = "joint_linear";

  /// down [R, in] and factors [Σ r_part out_part], empty without updates. Gives y, and x where it needs a
  /// gradient.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& down_in,
                               const at::Tensor& factors, c10::intrusive_ptr<Plan> plan) {
    const ProfileScope scope("linear forward");
    const at::Tensor down = detail::or_undefined(down_in);
    const bool adds_update = down.defined() && plan->product->adds_updates();
    at::Tensor y, z, derivative;
    if (down.defined()) {
      if (!adds_update) y = plan->product->forward(x, plan->bias);
      const ProfileScope low_rank("low rank forward");
      z = at::empty({x.size(0), down.size(0)}, down.options());
      detail::dispatch(x, "joint_linear", [&](auto t) {
        using T = decltype(t);
        kernels::LowRank<T> op = detail::low_rank_op<T>(x, down, z, plan->slices);
        if (adds_update) return kernels::low_rank<T>(op);
        const auto outputs = outputs_of<T>(*plan, factors, y, {}, {});
        op.outputs = outputs.data();
        op.num_outputs = static_cast<int64_t>(outputs.size());
        kernels::low_rank<T>(op);
      });
    }
    if (adds_update) {
      const detail::LowRankSum update{z, updates_of(*plan, factors)};
      y = product_of(*plan, x, &update, derivative);
    } else if (!down.defined()) {
      y = product_of(*plan, x, nullptr, derivative);
    } else if (plan->gate) {
      derivative = y;
      y = gate_halves(*plan, derivative);
    }
    ctx->set_materialize_grads(false);
    ctx->save_for_backward({down.defined() ? x : at::Tensor(), down, factors, z, derivative});
    ctx->saved_data["need_x"] = x.requires_grad();
    ctx->saved_data["plan"] = c10::IValue::make_capsule(std::move(plan));
    if (x.requires_grad()) return {y, x};
    return {y};
  }

  static variable_list gradients(AutogradContext* ctx, variable_list grads) {
    const ProfileScope scope("linear backward");
    if (!grads[0].defined()) return {grads[1], Variable(), Variable(), Variable()};  // only x was used
    const variable_list tensors = ctx->get_saved_variables();
    const at::Tensor &x = tensors[0], &down = tensors[1], &factors = tensors[2];
    const auto& plan = static_cast<const Plan&>(*ctx->saved_data["plan"].toCapsule());
    at::Tensor dx, dy = grads[0].contiguous();
    if (plan.gate) dy = through_gate(dy, tensors[4]);
    const bool needs_x = ctx->saved_data["need_x"].toBool();
    const bool adds_gradient = needs_x && down.defined() && detail::adds_gradient(*plan.product, plan.slices);
    if (needs_x && !adds_gradient) dx = plan.product->backward_onto(dy, grads[1]);
    if (!down.defined()) return {dx, Variable(), Variable(), Variable()};
    const at::Tensor d_down = at::empty_like(down), d_factors = at::empty_like(factors), &z = tensors[3],
                     dz = adds_gradient ? at::empty_like(z) : at::Tensor();
    low_rank_gradients(plan, {x, down, factors, z, dy}, {dx, d_down, d_factors, dz});
    if (adds_gradient) {
      const detail::LowRankSum update = detail::gradient_sum(dz, down);
      dx = plan.product->backward_onto(dy, grads[1], &update);
    }
    return {dx, d_down, d_factors, Variable()};
  }
};

bool is_frozen(const Linear& layer, const at::Tensor& x) {
  return !layer.weight->requires_grad() && layer.weight->dtype() == x.scalar_type() &&
         !(layer.bias.defined() && layer.bias.requires_grad());
}

bool has_terms_alone(const SiteUpdate* update, const ForwardContext& context) {
  if (update == nullptr) return true;
  const bool is_noisy = update->noise != nullptr && update->noise->deviations.defined() && context.training;
  return !update->affine && !update->transform_output && !is_noisy;
}

bool suits(const at::Tensor& x, const std::vector<const Linear*>& layers, const ForwardContext& context) {
  if (uses_composed_operations(x)) return false;
  const bool has_bias = layers.front()->bias.defined();
  return std::all_of(layers.begin(), layers.end(), [&](const Linear* layer) {
    return is_frozen(*layer, x) && layer->bias.defined() == has_bias &&
           has_terms_alone(layer->update.get(), context);
  });
}

c10::intrusive_ptr<detail::PackedLinear> packed_of(const std::vector<const Linear*>& layers,
                                                   detail::Gating gating, detail::KeptProduct& kept) {
  std::vector<const Weight*> weights;
  for (const Linear* layer : layers) weights.push_back(layer->weight.get());
  return kept.of(weights, gating);
}

at::Tensor bias_of(const std::vector<const Linear*>& layers) {
  if (!layers.front()->bias.defined()) return {};
  std::vector<at::Tensor> parts;
  for (const Linear* layer : layers) parts.push_back(detail::as(layer->bias.detach(), at::kFloat));
  return at::cat(parts);
}

}  // namespace

struct JointLinear::Kept {
  detail::KeptProduct product;
};

detail::FrozenGate detail::frozen_gate(const JointLinear& joint, const std::vector<const Linear*>& layers,
                                       const at::Tensor& x) {
  const bool is_adapted =
      std::any_of(layers.begin(), layers.end(), [](const Linear* layer) { return layer->update != nullptr; });
  if (is_adapted || !suits(x, layers, {})) return {};
  auto product = packed_of(layers, Gating::kHalves, joint.kept_->product);
  if (!product) return {};
  at::Tensor bias = product->in_halves(bias_of(layers));
  return {std::move(product), std::move(bias)};
}

JointLinear::JointLinear() : kept_(std::make_shared<Kept>()) {}

std::optional<WithInput> JointLinear::forward(const at::Tensor& x, const std::vector<const Linear*>& layers,
                                              const ForwardContext& context) const {
  return run(x, layers, std::nullopt, context);
}

std::optional<WithInput> JointLinear::gated(const at::Tensor& x, const std::vector<const Linear*>& layers,
                                            kernels::Activation activation,
                                            const ForwardContext& context) const {
  const Linear& first = *layers.front();
  if (layers.size() == 1 && first.update) {
    // The columns of its update are those of both halves, with nothing between.
    const int64_t out = first.out_features();
    const int64_t half = detail::PackedLinear::packed_half(x.scalar_type(), out, first.in_features());
    if (2 * half != out) return std::nullopt;
  }
  return run(x, layers, activation, context);
}

std::optional<WithInput> JointLinear::run(const at::Tensor& x_in, const std::vector<const Linear*>& layers,
                                          std::optional<kernels::Activation> gate,
                                          const ForwardContext& context) const {
  if (!suits(x_in, layers, context)) return std::nullopt;
  auto product = packed_of(layers, gate ? detail::Gating::kHalves : detail::Gating::kNone, kept_->product);
  if (!product) return std::nullopt;
  const at::Tensor x = x_in.contiguous();
  auto plan = c10::make_intrusive<Plan>();
  plan->gate = gate;
  plan->bias = bias_of(layers);
  if (gate) plan->bias = product->in_halves(plan->bias);
  plan->product = std::move(product);
  std::vector<at::Tensor> downs, factors;
  int64_t rank = 0, column = 0;
  for (const Linear* layer : layers) {
    if (layer->update) {
      if (layer->update->observe_input && context.training && !is_recomputing())
        layer->update->observe_input(x);
      const detail::Stacked stacked = detail::stack(detail::terms_of(*layer->update), context);
      if (stacked.down.defined()) {
        for (kernels::LowRankSlice slice : stacked.slices) {
          plan->slices.push_back({rank + slice.begin, rank + slice.end, slice.mask});
        }
        const int64_t begin = rank;
        rank += stacked.down.size(0);
        plan->parts.push_back({begin, rank, column, layer->out_features()});
        downs.push_back(detail::as(stacked.down, at::kFloat));
        factors.push_back(detail::as(stacked.up, at::kFloat).t().reshape({-1}));
      }
    }
    column += gate ? plan->product->out_features() / 2 : layer->out_features();
  }
  plan->slices = detail::merge_plain_slices(std::move(plan->slices));
  const at::Tensor none = at::empty({0});
  const variable_list outputs = detail::apply_function<JointLinearFunction>(
      x, downs.empty() ? none : at::cat(downs, 0).contiguous(),
      factors.empty() ? none : at::cat(factors, 0).contiguous(), std::move(plan));
  return WithInput{outputs[0], outputs.size() > 1 ? outputs[1] : x};
}

}  // namespace msplora
