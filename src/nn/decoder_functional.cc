#include "msplora/nn/decoder_functional.h"

#include <torch/csrc/autograd/custom_function.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <algorithm>
#include <cmath>
#include <string>

#include "msplora/core/error.h"
#include "msplora/core/profile.h"
#include "nn/autograd.h"
#include "nn/composed.h"
#include "nn/dispatch.h"
#include "nn/sequences.h"

namespace msplora {
namespace {

using detail::data;
using detail::dispatch;
using kernels::Kernel;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct ResidualRmsNormFunction : detail::KernelFunction<ResidualRmsNormFunction> {
  static constexpr const char* kName = "residual_rms_norm";

  static variable_list forward(AutogradContext* ctx, const at::Tensor& x_in, const at::Tensor& residual_in,
                               const at::Tensor& gamma, double eps) {
    const ProfileScope scope("norm forward");
    const at::Tensor x = x_in.contiguous();
    const bool has_residual = residual_in.numel() > 0;
    const at::Tensor residual = has_residual ? residual_in.contiguous() : at::Tensor();
    const int64_t width = x.size(-1), rows = x.numel() / std::max<int64_t>(width, 1);
    at::Tensor y = at::empty_like(x), s = has_residual ? at::empty_like(x) : x;
    at::Tensor inverse = at::empty({rows}, x.options().dtype(at::kFloat));
    dispatch(x, "residual_rms_norm", [&](auto t) {
      using T = decltype(t);
      detail::kernels_of<T>(x).residual_rms_norm(
          {rows, width, eps, data<T>(x), data<T>(residual), data<kernels::Exact<T>>(gamma),
           has_residual ? data<T>(s) : nullptr, data<T>(y), data<float>(inverse)});
    });
    ctx->save_for_backward({s, inverse, gamma});
    ctx->set_materialize_grads(false);
    ctx->saved_data["has_residual"] = has_residual;
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["gamma"] = gamma.requires_grad();
    return has_residual ? variable_list{y, s} : variable_list{y};
  }

  static variable_list gradients(AutogradContext* ctx, variable_list grads) {
    const ProfileScope scope("norm backward");
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &s = saved[0], &inverse = saved[1], &gamma = saved[2];
    const bool has_residual = ctx->saved_data["has_residual"].toBool();
    const at::Tensor d_s = has_residual && grads[1].defined() ? grads[1].contiguous() : at::Tensor();
    if (!grads[0].defined()) return {d_s, d_s, Variable(), Variable()};  // only the sum was used
    const at::Tensor dy = grads[0].contiguous();
    at::Tensor d_x = at::empty_like(s);
    at::Tensor d_gamma = ctx->saved_data["gamma"].toBool() ? at::empty_like(gamma) : at::Tensor();
    dispatch(s, "residual_rms_norm", [&](auto t) {
      using T = decltype(t);
      const int64_t width = s.size(-1), rows = s.numel() / std::max<int64_t>(width, 1);
      using Exact = kernels::Exact<T>;
      detail::kernels_of<T>(s).residual_rms_norm_backward(
          {rows, width, ctx->saved_data["eps"].toDouble(), data<T>(dy), data<T>(d_s), data<T>(s),
           data<float>(inverse), data<Exact>(gamma), data<T>(d_x), data<Exact>(d_gamma)});
    });
    return {d_x, has_residual ? d_x : Variable(), d_gamma, Variable()};
  }
};

struct RotaryFunction : detail::KernelFunction<RotaryFunction> {
  static constexpr const char* kName = "rotary_";

  static void turn(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& cos,
                   const at::Tensor& sin, int64_t heads, int64_t head_dim, int64_t pairs, bool inverse) {
    dispatch(x, "rotary", [&](auto t) {
      using T = decltype(t);
      kernels::Rotary<T> op;
      op.tokens = x.size(0);
      op.heads = heads;
      op.head_dim = head_dim;
      op.rotary_dim = 2 * cos.size(1);
      op.x_stride = op.y_stride = x.size(1);
      op.pairs = static_cast<kernels::RotaryPairs>(pairs);
      op.inverse = inverse;
      op.positions = data<int32_t>(positions);
      op.cos = data<kernels::Exact<T>>(cos);
      op.sin = data<kernels::Exact<T>>(sin);
      op.y = data<T>(x);
      op.x = op.y;
      detail::kernels_of<T>(x).rotary(op);
    });
  }

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& positions,
                            const at::Tensor& cos, const at::Tensor& sin, int64_t heads, int64_t head_dim,
                            int64_t pairs) {
    const ProfileScope scope("rotary forward");
    ctx->save_for_backward({positions, cos, sin});
    ctx->mark_dirty({x});
    ctx->saved_data["heads"] = heads;
    ctx->saved_data["head_dim"] = head_dim;
    ctx->saved_data["pairs"] = pairs;
    turn(x, positions, cos, sin, heads, head_dim, pairs, false);
    return x;
  }
  static variable_list gradients(AutogradContext* ctx, variable_list grads) {
    const ProfileScope scope("rotary backward");
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor dx = grads[0].contiguous();
    turn(dx, saved[0], saved[1], saved[2], ctx->saved_data["heads"].toInt(),
         ctx->saved_data["head_dim"].toInt(), ctx->saved_data["pairs"].toInt(), true);
    return {dx, Variable(), Variable(), Variable(), Variable(), Variable(), Variable()};
  }
};

/// gate and up, or what is by them, as two tensors, or side by side in one (up undefined).
struct GateAndUp {
  at::Tensor gate, up;

  int64_t stride() const { return gate.size(-1); }
  int64_t width() const { return up.defined() ? stride() : stride() / 2; }
  int64_t rows() const { return gate.numel() / std::max<int64_t>(stride(), 1); }
  GateAndUp like() const { return {at::empty_like(gate), up.defined() ? at::empty_like(up) : at::Tensor()}; }
  template <typename T>
  T* gate_data() const {
    return data<T>(gate);
  }
  template <typename T>
  T* up_data() const {
    return up.defined() || !gate.defined() ? data<T>(up) : data<T>(gate) + width();
  }
};

struct GatedActivationFunction : detail::KernelFunction<GatedActivationFunction> {
  static constexpr const char* kName = "gated_activation";

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate, const at::Tensor& up,
                            int64_t kind) {
    const ProfileScope scope("activation forward");
    const GateAndUp in{gate.contiguous(), detail::or_undefined(up.contiguous())};
    const bool needs_gradient = gate.requires_grad() || up.requires_grad();
    const GateAndUp derivatives = needs_gradient ? in.like() : GateAndUp{};
    at::Tensor y = at::empty({in.rows(), in.width()}, gate.options());
    dispatch(gate, "gated_activation", [&](auto t) {
      using T = decltype(t);
      detail::kernels_of<T>(gate).gated_activation(
          {in.rows(), in.width(), in.stride(), static_cast<kernels::Activation>(kind), in.gate_data<T>(),
           in.up_data<T>(), data<T>(y), derivatives.gate_data<T>(), derivatives.up_data<T>()});
    });
    ctx->save_for_backward({derivatives.gate, derivatives.up});
    return y;
  }
  static variable_list gradients(AutogradContext* ctx, variable_list grads) {
    const ProfileScope scope("activation backward");
    const variable_list saved = ctx->get_saved_variables();
    const GateAndUp by{saved[0], saved[1]}, d = by.like();
    const at::Tensor dy = grads[0].contiguous();
    dispatch(dy, "gated_activation", [&](auto t) {
      using T = decltype(t);
      detail::kernels_of<T>(dy).gated_activation_backward({by.rows(), by.width(), by.stride(),
                                                           by.gate_data<T>(), by.up_data<T>(), data<T>(dy),
                                                           d.gate_data<T>(), d.up_data<T>()});
    });
    return {d.gate, d.up, Variable()};
  }
};

bool is_gate_composed(const at::Tensor& x) {
  return detail::is_composed(x, {Kernel::gated_activation, Kernel::gated_activation_backward});
}

}  // namespace

NormedSum residual_rms_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& gamma,
                            double eps) {
  if (detail::is_composed(x, {Kernel::residual_rms_norm, Kernel::residual_rms_norm_backward}))
    return detail::composed::residual_rms_norm(x, residual, gamma, eps);
  const variable_list out = detail::apply_function<ResidualRmsNormFunction>(
      x, detail::or_empty(residual), detail::as(gamma, detail::exact_dtype(x)), eps);
  return {out[0], out.size() > 1 ? out[1] : x};
}

std::vector<double> rotary_frequencies(int64_t rotary_dim, double theta) {
  if (rotary_dim < 2 || rotary_dim % 2 != 0) {
    throw Error(ErrorCode::kUsage, "rotary embedding",
                "expected an even number of turned elements, found " + std::to_string(rotary_dim));
  }
  std::vector<double> frequencies;
  for (int64_t i = 0; i < rotary_dim; i += 2) {
    const double exponent = static_cast<double>(i) / static_cast<double>(rotary_dim);
    frequencies.push_back(1.0 / std::pow(theta, exponent));
  }
  return frequencies;
}

RotaryTable make_rotary_table(int64_t positions, const std::vector<double>& frequencies,
                              at::ScalarType compute_dtype, double factor) {
  const auto half = static_cast<int64_t>(frequencies.size());
  const at::ScalarType dtype = detail::exact_dtype(compute_dtype);
  RotaryTable table{at::empty({positions, half}, dtype), at::empty({positions, half}, dtype), 2 * half};
  dispatch(table.cos, "rotary", [&](auto t) {
    using Angle = kernels::Exact<decltype(t)>;
    Angle *cos = data<Angle>(table.cos), *sin = data<Angle>(table.sin);
    for (int64_t position = 0; position < positions; ++position) {
      for (const double frequency : frequencies) {
        const Angle angle = static_cast<Angle>(position) * static_cast<Angle>(frequency);
        *cos++ = static_cast<Angle>(factor * std::cos(static_cast<double>(angle)));
        *sin++ = static_cast<Angle>(factor * std::sin(static_cast<double>(angle)));
      }
    }
  });
  return table;
}

at::Tensor segment_positions(const std::vector<int32_t>& cu_seqlens) {
  detail::require_ends(cu_seqlens);
  at::Tensor positions = at::empty({cu_seqlens.empty() ? 0 : cu_seqlens.back()}, at::kInt);
  int32_t* position = data<int32_t>(positions);
  for (size_t b = 1; b < cu_seqlens.size(); ++b)
    for (int32_t t = cu_seqlens[b - 1]; t < cu_seqlens[b]; ++t) position[t] = t - cu_seqlens[b - 1];
  return positions;
}

at::Tensor rotary_(at::Tensor x, const at::Tensor& positions, int64_t heads, int64_t head_dim,
                   const RotaryTable& table, kernels::RotaryPairs pairs) {
  if (heads < 1 || heads * head_dim > x.size(1) || table.rotary_dim > head_dim || !x.is_contiguous()) {
    throw Error(ErrorCode::kUsage, "rotary embedding",
                "a width of " + std::to_string(x.size(1)) + " has no " + std::to_string(heads) +
                    " heads of " + std::to_string(head_dim) + " elements, of which " +
                    std::to_string(table.rotary_dim) + " are turned");
  }
  if (positions.dim() != 1 || positions.size(0) != x.size(0)) {
    throw Error(ErrorCode::kUsage, "positions",
                "expected " + std::to_string(x.size(0)) + ", one for each row, found " +
                    std::to_string(positions.numel()));
  }
  // Elsewhere asking would wait for the device, whose own lookup refuses what is out of range.
  const at::Tensor places = positions.to(at::kInt).contiguous();
  if (places.numel() > 0 && places.device().is_cpu()) {
    const int32_t* const begin = data<int32_t>(places);
    const auto [low, high] = std::minmax_element(begin, begin + places.numel());
    if (*low < 0 || *high >= table.cos.size(0)) {
      throw Error(ErrorCode::kData, "positions",
                  "run from " + std::to_string(*low) + " to " + std::to_string(*high) +
                      ", the model knows 0 to " + std::to_string(table.cos.size(0) - 1));
    }
  }
  if (detail::is_composed(x, {Kernel::rotary}))
    return detail::composed::rotary(x, positions, heads, head_dim, table, pairs);
  const at::ScalarType exact = detail::exact_dtype(x);
  return detail::apply_function<RotaryFunction>(x, places, detail::as(table.cos, exact),
                                                detail::as(table.sin, exact), heads, head_dim,
                                                static_cast<int64_t>(pairs));
}

at::Tensor gated_activation(const at::Tensor& gate, const at::Tensor& up, kernels::Activation kind) {
  if (is_gate_composed(gate)) return detail::composed::gated_activation(gate, up, kind);
  return detail::apply_function<GatedActivationFunction>(gate, up, static_cast<int64_t>(kind));
}

at::Tensor gated_activation(const at::Tensor& gate_up, kernels::Activation kind) {
  if (is_gate_composed(gate_up)) {
    const int64_t width = gate_up.size(-1) / 2;
    return detail::composed::gated_activation(gate_up.narrow(-1, 0, width), gate_up.narrow(-1, width, width),
                                              kind);
  }
  return detail::apply_function<GatedActivationFunction>(gate_up, at::empty({0}, gate_up.options()),
                                                         static_cast<int64_t>(kind));
}

}  // namespace msplora
