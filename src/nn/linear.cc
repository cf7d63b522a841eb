#include "msplora/nn/linear.h"

#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/custom_function.h>
#include <string>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "msplora/core/error.h"
#include "msplora/core/profile.h"
#include "msplora/nn/functional.h"
#include "msplora/nn/recompute.h"
#include "nn/autograd.h"
#include "nn/composed.h"
#include "nn/dispatch.h"
#include "nn/low_rank_terms.h"
#include "nn/matmul.h"
#include "nn/packed_linear.h"
#include "nn/packed_product.h"

namespace msplora {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

using detail::as;
using detail::data;
using detail::Stacked;

// What backward needs beside tensors.
struct Saved : torch::CustomClassHolder {
  std::vector<kernels::LowRankSlice> slices;
  c10::intrusive_ptr<detail::PackedLinear> packed;
  bool need_x = false, need_weight = false, need_bias = false;
  at::ScalarType bias_dtype = at::kFloat;
  uint64_t noise_key = 0;
};

Saved& saved_of(AutogradContext* ctx) {
  return static_cast<Saved&>(*ctx->saved_data["saved"].toCapsule());
}

/// The one output of a layer alone; y or dy may be undefined.
template <typename T>
kernels::LowRankOutput<T> only_output(const at::Tensor& up_t, const at::Tensor& y, const at::Tensor& dy,
                                      const at::Tensor& d_up_t) {
  using Factor = kernels::Exact<T>;
  kernels::LowRankOutput<T> output;
  output.end = up_t.size(0);
  output.width = output.stride = up_t.size(1);
  output.up_t = data<Factor>(up_t);
  output.y = data<T>(y);
  output.dy = data<T>(dy);
  output.d_up_t = data<Factor>(d_up_t);
  return output;
}

/// The weight that the product uses, in `dtype`; noise makes it a copy that lives as long as the product.
at::Tensor used_weight(const at::Tensor& weight, at::ScalarType dtype, const WeightNoise& noise) {
  const at::Tensor plain = as(weight, dtype);
  if (!noise.deviations.defined()) return plain;
  const at::Tensor w = plain.contiguous();
  at::Tensor noisy = at::empty_like(w);
  detail::dispatch(w, "adapted_linear", [&](auto t) {
    using T = decltype(t);
    kernels::add_row_noise<T>(
        {w.size(0), w.size(1), noise.key, data<float>(noise.deviations), data<T>(w), data<T>(noisy)});
  });
  return noisy;
}

/// An update in one forward pass: its factors as the kernels take them, and z = mask(x) downᵀ.
struct Update {
  at::Tensor down, up_t, z;
};

/// Adds z upᵀ to y where that is defined.
Update run_update(const at::Tensor& x, const at::Tensor& down, const at::Tensor& up,
                  const std::vector<kernels::LowRankSlice>& slices, const at::Tensor& y) {
  const ProfileScope scope("low rank forward");
  const at::ScalarType factors = detail::exact_dtype(x);
  Update update;
  update.down = as(down, factors).contiguous();
  update.up_t = as(up, factors).t().contiguous();
  update.z = at::empty({x.size(0), down.size(0)}, update.down.options());
  detail::dispatch(x, "adapted_linear", [&](auto t) {
    using T = decltype(t);
    kernels::LowRank<T> op = detail::low_rank_op<T>(x, update.down, update.z, slices);
    if (!y.defined()) return kernels::low_rank<T>(op);
    const auto output = only_output<T>(update.up_t, y, {}, {});
    op.outputs = &output;
    op.num_outputs = 1;
    kernels::low_rank<T>(op);
  });
  return update;
}

struct AdaptedLinearFunction : detail::KernelFunction<AdaptedLinearFunction> {
  static constexpr const char* kName = "adapted_linear";

  /// `weight` is empty where a packed product stands for it.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_in, const at::Tensor& weight_in,
                            const at::Tensor& bias_in, const at::Tensor& down_in, const at::Tensor& up_in,
                            std::vector<kernels::LowRankSlice> slices, WeightNoise noise,
                            c10::intrusive_ptr<detail::PackedLinear> packed) {
    const ProfileScope scope("linear forward");
    const at::Tensor x = x_in.contiguous();
    const at::Tensor weight = detail::or_undefined(weight_in), bias = detail::or_undefined(bias_in),
                     down_given = detail::or_undefined(down_in);
    const at::ScalarType dtype = x.scalar_type();
    const at::Tensor exact_bias = packed && bias.defined() ? as(bias, at::kFloat) : bias;
    at::Tensor y;
    Update update;
    if (packed && packed->adds_updates() && down_given.defined()) {
      update = run_update(x, down_given, up_in, slices, {});
      const detail::LowRankSum sum{update.z,
                                   {{0, update.z.size(1), 0, update.up_t.size(1), data<float>(update.up_t)}}};
      y = packed->forward(x, exact_bias, &sum);
    } else {
      y = packed
              ? packed->forward(x, exact_bias)
              : detail::linear(x, used_weight(weight, dtype, noise), bias.defined() ? as(bias, dtype) : bias);
      if (down_given.defined()) update = run_update(x, down_given, up_in, slices, y);
    }
    auto saved = c10::make_intrusive<Saved>();
    saved->need_x = x_in.requires_grad();
    saved->need_weight = weight.defined() && weight.requires_grad();
    saved->need_bias = bias.defined() && bias.requires_grad();
    if (bias.defined()) saved->bias_dtype = bias.scalar_type();
    saved->slices = std::move(slices);
    saved->packed = std::move(packed);
    saved->noise_key = noise.key;
    // A frozen layer without terms does not need its input again.
    const bool keeps_x = saved->need_weight || update.down.defined();
    ctx->save_for_backward(
        {keeps_x ? x : at::Tensor(), weight, update.down, update.up_t, update.z, noise.deviations});
    ctx->saved_data["saved"] = c10::IValue::make_capsule(std::move(saved));
    return y;
  }

  static variable_list gradients(AutogradContext* ctx, variable_list grads) {
    const ProfileScope scope("linear backward");
    const variable_list tensors = ctx->get_saved_variables();
    const at::Tensor &x = tensors[0], &weight = tensors[1], &down = tensors[2], &up_t = tensors[3];
    const Saved& saved = saved_of(ctx);
    const at::Tensor dy = grads[0].contiguous();
    const at::ScalarType dtype = dy.scalar_type();
    at::Tensor dx, d_weight, d_bias, d_down, d_up, dz;
    const bool adds_gradient =
        saved.need_x && saved.packed && down.defined() && detail::adds_gradient(*saved.packed, saved.slices);
    if (saved.need_x && !adds_gradient) {
      dx = saved.packed ? saved.packed->backward(dy)
                        : detail::matmul(dy, used_weight(weight, dtype, {saved.noise_key, tensors[5]}));
    }
    if (saved.need_weight) d_weight = as(detail::matmul(dy.t(), x), weight.scalar_type());
    if (saved.need_bias) {
      d_bias = as(dy.sum(0, false, detail::exact_dtype(dtype)), saved.bias_dtype);
    }
    if (down.defined()) {
      const ProfileScope low_rank("low rank backward");
      d_down = at::empty_like(down);
      at::Tensor d_up_t = at::empty_like(up_t);
      if (adds_gradient) dz = at::empty_like(tensors[4]);
      detail::dispatch(dy, "adapted_linear", [&](auto t) {
        using T = decltype(t);
        using Factor = kernels::Exact<T>;
        kernels::LowRankBackward<T> op;
        const auto output = only_output<T>(up_t, {}, dy, d_up_t);
        op.forward = detail::low_rank_op<T>(x, down, tensors[4], saved.slices);
        op.forward.outputs = &output;
        op.forward.num_outputs = 1;
        op.dx = data<T>(dx);
        op.d_down = data<Factor>(d_down);
        op.dz = data<Factor>(dz);
        kernels::low_rank_backward<T>(op);
      });
      d_up = d_up_t.t();
    }
    if (adds_gradient) {
      const detail::LowRankSum update = detail::gradient_sum(dz, down);
      dx = saved.packed->backward(dy, &update);
    }
    return {dx, d_weight, d_bias, d_down, d_up, Variable(), Variable(), Variable()};
  }
};

WeightNoise noise_of(const NoiseSource* source, const ForwardContext& context) {
  if (source == nullptr || !context.training || !source->deviations.defined()) return {};
  return {source->per_micro_batch ? context.dropout_key(source->stream) : context.step_key(source->stream),
          source->deviations};
}

at::Tensor run_layer(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, Stacked stacked,
                     const WeightNoise& noise, c10::intrusive_ptr<detail::PackedLinear> packed) {
  if (uses_composed_operations(x)) {
    return detail::composed::adapted_linear(x, weight, bias, stacked.down, stacked.up,
                                            detail::merge_plain_slices(std::move(stacked.slices)), noise);
  }
  return detail::apply_function<AdaptedLinearFunction>(
      x, detail::or_empty(weight), detail::or_empty(bias), detail::or_empty(stacked.down),
      detail::or_empty(stacked.up), detail::merge_plain_slices(std::move(stacked.slices)), noise,
      std::move(packed));
}

// The kept product of a frozen weight, or null where the plain one serves.
c10::intrusive_ptr<detail::PackedLinear> packed_for(const at::Tensor& x, const Weight& weight,
                                                    detail::KeptProduct& kept) {
  const bool suits =
      !weight.requires_grad() && weight.dtype() == x.scalar_type() && !uses_composed_operations(x);
  if (!suits) return {};
  return kept.of({&weight});
}

}  // namespace

at::Tensor adapted_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                          const at::Tensor& down, const at::Tensor& up,
                          std::vector<kernels::LowRankSlice> slices, const WeightNoise& noise) {
  return run_layer(x, weight, bias, {down, up, std::move(slices)}, noise, {});
}

struct Linear::Packed {
  detail::KeptProduct product;
};

Linear::Linear() : Linear({}, at::Tensor(), {}) {}

Linear::Linear(std::string name, at::Tensor weight, at::Tensor bias)
    : Linear(std::move(name), std::make_shared<Weight>(std::move(weight)), std::move(bias)) {}

Linear::Linear(std::string name, std::shared_ptr<Weight> weight, at::Tensor bias)
    : weight(std::move(weight)),
      bias(std::move(bias)),
      name_(std::move(name)),
      packed_(std::make_shared<Packed>()) {}

c10::intrusive_ptr<detail::PackedLinear> detail::frozen_product(const Linear& layer, const at::Tensor& x) {
  if (layer.update || (layer.bias.defined() && layer.bias.requires_grad())) return {};
  return packed_for(x, *layer.weight, layer.packed_->product);
}

at::Tensor Linear::forward(const at::Tensor& x, const ForwardContext& context) const {
  const auto plain = [&](const Stacked& stacked, const WeightNoise& noise) {
    c10::intrusive_ptr<detail::PackedLinear> packed;
    if (!noise.deviations.defined()) packed = packed_for(x, *weight, packed_->product);
    // Read before the call, whose arguments have no order.
    const at::Tensor values = packed ? at::Tensor() : weight->values();
    return run_layer(x, values, bias, stacked, noise, std::move(packed));
  };
  if (!update) return plain({}, {});
  const bool is_whole = context.part == 0 && !is_recomputing();
  if (update->observe_input && context.training && is_whole) update->observe_input(x);
  const Stacked stacked = detail::stack(detail::terms_of(*update), context);
  const WeightNoise noise = noise_of(update->noise.get(), context);
  at::Tensor y;
  if (update->affine) {
    const AffineMap map = update->affine(*this, context);
    y = run_layer(x, map.weight, map.bias, stacked, noise, {});
  } else {
    y = plain(stacked, noise);
  }
  return update->transform_output ? update->transform_output(*this, x, y, context) : y;
}

}  // namespace msplora
