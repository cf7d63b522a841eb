#include "msplora/nn/feed_forward.h"

#include <torch/csrc/autograd/custom_function.h>
#include <algorithm>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>

#include "msplora/core/profile.h"
#include "msplora/nn/decoder_functional.h"
#include "msplora/nn/functional.h"
#include "nn/autograd.h"
#include "nn/dispatch.h"
#include "nn/packed_linear.h"

namespace msplora {
namespace {

using detail::data;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Product = c10::intrusive_ptr<detail::PackedLinear>;

struct Products : torch::CustomClassHolder {
  Product up, down;

  int64_t block_rows(int64_t rows) const { return std::min(rows, up->rows_at_a_time()); }
};

template <typename Body>
void for_blocks(int64_t rows, int64_t block, const Body& body) {
  for (int64_t begin = 0; begin < rows; begin += block) body(begin, std::min(block, rows - begin));
}

/// The gradient of the input of two products: `through_down` gives rows of what is by the outputs of the
/// first from those of dy and of its derivative. Where the input was handed on, its gradient there is added.
template <typename ThroughDown>
at::Tensor input_gradient(AutogradContext* ctx, const variable_list& grads, const ThroughDown& through_down) {
  const ProfileScope scope("linear backward");
  if (!grads[0].defined()) return grads[1];  // only the input was used
  const at::Tensor derivative = ctx->get_saved_variables()[0];
  const at::Tensor dy = grads[0].contiguous();
  const auto& products = static_cast<const Products&>(*ctx->saved_data["products"].toCapsule());
  const int64_t rows = dy.size(0), block = products.block_rows(rows);
  // Rows of dy are read before those of dx are written, should both be one array.
  const bool is_onto = grads[1].defined();
  at::Tensor dx = is_onto ? grads[1].contiguous() : at::empty_like(dy);
  const at::Tensor inner = at::empty({block, derivative.size(1)}, dy.options());
  for_blocks(rows, block, [&](int64_t begin, int64_t count) {
    const at::Tensor d = inner.narrow(0, 0, count);
    through_down(*products.down, dy.narrow(0, begin, count), derivative.narrow(0, begin, count), d);
    products.up->backward_into(d, dx.narrow(0, begin, count), is_onto);
  });
  return dx;
}

struct FeedForwardFunction : detail::KernelFunction<FeedForwardFunction> {
  static constexpr const char* kName = "feed_forward";

  /// Gives y, and x where it needs a gradient.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& up_bias,
                               const at::Tensor& down_bias, kernels::Activation activation, int64_t wide,
                               Product up, Product down) {
    const ProfileScope scope("linear forward");
    auto products = c10::make_intrusive<Products>();
    products->up = std::move(up);
    products->down = std::move(down);
    const int64_t rows = x.size(0), block = products->block_rows(rows);
    at::Tensor y = at::empty_like(x);
    const at::Tensor derivative = x.requires_grad() ? at::empty({rows, wide}, x.options()) : at::Tensor();
    const at::Tensor inner = at::empty({block, wide}, x.options());
    for_blocks(rows, block, [&](int64_t begin, int64_t count) {
      const at::Tensor h = inner.narrow(0, 0, count);
      products->up->activated_into(x.narrow(0, begin, count), up_bias, activation, h,
                                   derivative.defined() ? derivative.narrow(0, begin, count) : derivative);
      products->down->forward_into(h, down_bias, y.narrow(0, begin, count));
    });
    ctx->save_for_backward({derivative});
    ctx->saved_data["products"] = c10::IValue::make_capsule(std::move(products));
    ctx->set_materialize_grads(false);
    if (x.requires_grad()) return {y, x};
    return {y};
  }

  static variable_list gradients(AutogradContext* ctx, variable_list grads) {
    const auto times = [](const detail::PackedLinear& down, const at::Tensor& dy, const at::Tensor& by,
                          const at::Tensor& d) { down.backward_times(dy, by, d); };
    return {input_gradient(ctx, grads, times), {}, {}, {}, {}, {}, {}};
  }
};

struct GatedFeedForwardFunction : detail::KernelFunction<GatedFeedForwardFunction> {
  static constexpr const char* kName = "gated_feed_forward";

  /// Gives y, and x where it needs a gradient.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& gate_up_bias,
                               const at::Tensor& down_bias, kernels::Activation activation, Product gate_up,
                               Product down) {
    const ProfileScope scope("linear forward");
    auto products = c10::make_intrusive<Products>();
    products->up = std::move(gate_up);
    products->down = std::move(down);
    const int64_t rows = x.size(0), block = products->block_rows(rows);
    const bool needs_x = x.requires_grad();
    at::Tensor y = at::empty_like(x);
    const at::Tensor derivative =
        at::empty({needs_x ? rows : block, products->up->out_features()}, x.options());
    const at::Tensor inner = at::empty({block, products->up->gated_width()}, x.options());
    for_blocks(rows, block, [&](int64_t begin, int64_t count) {
      const at::Tensor h = inner.narrow(0, 0, count);
      products->up->gated_into(x.narrow(0, begin, count), gate_up_bias, activation, h,
                               derivative.narrow(0, needs_x ? begin : 0, count));
      products->down->forward_into(h, down_bias, y.narrow(0, begin, count));
    });
    ctx->save_for_backward({needs_x ? derivative : at::Tensor()});
    ctx->saved_data["products"] = c10::IValue::make_capsule(std::move(products));
    ctx->set_materialize_grads(false);
    if (needs_x) return {y, x};
    return {y};
  }

  static variable_list gradients(AutogradContext* ctx, variable_list grads) {
    const auto halves = [](const detail::PackedLinear& down, const at::Tensor& dy, const at::Tensor& by,
                           const at::Tensor& d) { down.backward_halves(dy, by, d); };
    return {input_gradient(ctx, grads, halves), {}, {}, {}, {}, {}};
  }
};

at::Tensor as_float(const at::Tensor& bias) {
  return bias.defined() ? bias.to(at::kFloat) : at::empty({0}, at::kFloat);
}

}  // namespace

WithInput feed_forward(const at::Tensor& x, const Linear& up, const Linear& down,
                       kernels::Activation activation, const ForwardContext& context) {
  Product up_product = detail::frozen_product(up, x), down_product = detail::frozen_product(down, x);
  if (up_product && down_product) {
    const at::Tensor rows = x.contiguous();
    const variable_list outputs = detail::apply_function<FeedForwardFunction>(
        rows, as_float(up.bias), as_float(down.bias), activation, up.out_features(), std::move(up_product),
        std::move(down_product));
    return {outputs[0], outputs.size() > 1 ? outputs[1] : rows};
  }
  return {down.forward(msplora::activation(up.forward(x, context), activation), context), x};
}

WithInput gated(const at::Tensor& x, const JointLinear& joint, const std::vector<const Linear*>& layers,
                kernels::Activation activation, const ForwardContext& context) {
  if (const auto both = joint.gated(x, layers, activation, context)) return *both;
  const at::Tensor gate = layers.front()->forward(x, context);
  if (layers.size() == 1) return {gated_activation(gate, activation), x};
  return {gated_activation(gate, layers[1]->forward(x, context), activation), x};
}

WithInput gated_feed_forward(const at::Tensor& x, const JointLinear& joint,
                             const std::vector<const Linear*>& layers, const Linear& down,
                             kernels::Activation activation, const ForwardContext& context) {
  detail::FrozenGate gate = detail::frozen_gate(joint, layers, x);
  Product down_product = gate.product ? detail::frozen_product(down, x) : Product();
  if (down_product) {
    const at::Tensor rows = x.contiguous();
    const variable_list outputs = detail::apply_function<GatedFeedForwardFunction>(
        rows, detail::or_empty(gate.bias), as_float(down.bias), activation, std::move(gate.product),
        std::move(down_product));
    return {outputs[0], outputs.size() > 1 ? outputs[1] : rows};
  }
  const WithInput inner = gated(x, joint, layers, activation, context);
  return {down.forward(inner.y, context), inner.x};
}

}  // namespace msplora
