#include "msplora/nn/linear.h"

#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/custom_function.h>
#include <string>
#include <vector>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>

#include "msplora/core/error.h"
#include "msplora/core/profile.h"
#include "msplora/nn/functional.h"
#include "msplora/nn/recompute.h"
#include "nn/dispatch.h"
#include "nn/packed_linear.h"

namespace msplora {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

at::Tensor as(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : tensor.to(dtype);
}

// Slices without dropout share one input, so neighbours of that kind are one product.
std::vector<kernels::LowRankSlice> merge_plain_slices(std::vector<kernels::LowRankSlice> slices) {
  std::vector<kernels::LowRankSlice> merged;
  for (const kernels::LowRankSlice& slice : slices) {
    const bool joins = !merged.empty() && !merged.back().mask.active() && !slice.mask.active() &&
                       merged.back().end == slice.begin;
    if (joins) {
      merged.back().end = slice.end;
    } else {
      merged.push_back(slice);
    }
  }
  return merged;
}

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

at::ScalarType factor_dtype(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

template <typename T>
kernels::LowRank<T> low_rank_op(const at::Tensor& x, const at::Tensor& down, const at::Tensor& up_t,
                                const at::Tensor& z, const std::vector<kernels::LowRankSlice>& slices) {
  using Factor = typename kernels::FactorType<T>::type;
  kernels::LowRank<T> op;
  op.rows = x.size(0);
  op.in = x.size(1);
  op.out = up_t.size(1);
  op.rank = down.size(0);
  op.slices = slices.data();
  op.num_slices = static_cast<int64_t>(slices.size());
  op.x = detail::data<T>(x);
  op.down = detail::data<Factor>(down);
  op.up_t = detail::data<Factor>(up_t);
  op.z = detail::data<Factor>(z);
  return op;
}

/// The weight that the product uses, in `dtype`; noise makes it a copy that lives as long as the product.
at::Tensor used_weight(const at::Tensor& weight, at::ScalarType dtype, const WeightNoise& noise) {
  const at::Tensor plain = as(weight, dtype);
  if (!noise.deviations.defined()) return plain;
  const at::Tensor w = plain.contiguous();
  at::Tensor noisy = at::empty_like(w);
  detail::dispatch(w, "adapted_linear", [&](auto t) {
    using T = decltype(t);
    kernels::add_row_noise<T>({w.size(0), w.size(1), noise.key, detail::data<float>(noise.deviations),
                               detail::data<T>(w), detail::data<T>(noisy)});
  });
  return noisy;
}

struct AdaptedLinearFunction : torch::autograd::Function<AdaptedLinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_in, const at::Tensor& weight,
                            const at::Tensor& bias_in, const at::Tensor& down_in, const at::Tensor& up_in,
                            std::vector<kernels::LowRankSlice> slices, WeightNoise noise,
                            c10::intrusive_ptr<detail::PackedLinear> packed) {
    const ProfileScope scope("linear forward");
    const at::Tensor x = x_in.contiguous();
    const at::Tensor bias = detail::or_undefined(bias_in), down_given = detail::or_undefined(down_in);
    const at::ScalarType dtype = x.scalar_type();
    at::Tensor y;
    if (packed) {
      y = packed->forward(x, bias.defined() ? as(bias, at::kFloat) : bias);
    } else {
      y = at::linear(x, used_weight(weight, dtype, noise), bias.defined() ? as(bias, dtype) : bias);
    }
    auto saved = c10::make_intrusive<Saved>();
    at::Tensor down, up_t, z;
    if (down_given.defined()) {
      const ProfileScope low_rank("low rank forward");
      const at::ScalarType factors = factor_dtype(x);
      down = as(down_given, factors).contiguous();
      up_t = as(up_in, factors).t().contiguous();
      z = at::empty({x.size(0), down.size(0)}, down.options());
      detail::dispatch(x, "adapted_linear", [&](auto t) {
        using T = decltype(t);
        kernels::LowRank<T> op = low_rank_op<T>(x, down, up_t, z, slices);
        op.y = detail::data<T>(y);
        kernels::low_rank<T>(op);
      });
    }
    saved->need_x = x_in.requires_grad();
    saved->need_weight = weight.requires_grad();
    saved->need_bias = bias.defined() && bias.requires_grad();
    if (bias.defined()) saved->bias_dtype = bias.scalar_type();
    saved->slices = std::move(slices);
    saved->packed = std::move(packed);
    saved->noise_key = noise.key;
    // A frozen layer without terms does not need its input again.
    const bool keeps_x = saved->need_weight || down.defined();
    ctx->save_for_backward({keeps_x ? x : at::Tensor(), weight, down, up_t, z, noise.deviations});
    ctx->saved_data["saved"] = c10::IValue::make_capsule(std::move(saved));
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const ProfileScope scope("linear backward");
    const variable_list tensors = ctx->get_saved_variables();
    const at::Tensor &x = tensors[0], &weight = tensors[1], &down = tensors[2], &up_t = tensors[3];
    const Saved& saved = saved_of(ctx);
    const at::Tensor dy = grads[0].contiguous();
    const at::ScalarType dtype = dy.scalar_type();
    at::Tensor dx, d_weight, d_bias, d_down, d_up;
    if (saved.need_x) {
      dx = saved.packed ? saved.packed->backward(dy)
                        : at::mm(dy, used_weight(weight, dtype, {saved.noise_key, tensors[5]}));
    }
    if (saved.need_weight) d_weight = as(at::mm(dy.t(), x), weight.scalar_type());
    if (saved.need_bias) {
      d_bias = as(dy.sum(0, false, dtype == at::kDouble ? at::kDouble : at::kFloat), saved.bias_dtype);
    }
    if (down.defined()) {
      const ProfileScope low_rank("low rank backward");
      d_down = at::empty_like(down);
      at::Tensor d_up_t = at::empty_like(up_t);
      detail::dispatch(dy, "adapted_linear", [&](auto t) {
        using T = decltype(t);
        using Factor = typename kernels::FactorType<T>::type;
        kernels::LowRankBackward<T> op;
        op.forward = low_rank_op<T>(x, down, up_t, tensors[4], saved.slices);
        op.dy = detail::data<T>(dy);
        op.dx = detail::data<T>(dx);
        op.d_down = detail::data<Factor>(d_down);
        op.d_up_t = detail::data<Factor>(d_up_t);
        kernels::low_rank_backward<T>(op);
      });
      d_up = d_up_t.t();
    }
    return {dx, d_weight, d_bias, d_down, d_up, Variable(), Variable(), Variable()};
  }
};

WeightNoise noise_of(const NoiseSource* source, const ForwardContext& context) {
  if (source == nullptr || !context.training || !source->deviations.defined()) return {};
  return {source->per_micro_batch ? context.dropout_key(source->stream) : context.step_key(source->stream),
          source->deviations};
}

// Stacked factors, scalings folded into `up`.
struct Stacked {
  at::Tensor down, up;
  std::vector<kernels::LowRankSlice> slices;
};

Stacked stack(const std::vector<LowRankTerm>& terms, const ForwardContext& context) {
  Stacked stacked;
  std::vector<at::Tensor> downs, ups;
  int64_t rows = 0;
  for (const LowRankTerm& term : terms) {
    downs.push_back(term.down);
    ups.push_back(term.scaling == 1.0 ? term.up : term.up * term.scaling);
    const int64_t rank = term.down.size(0);
    stacked.slices.push_back({rows, rows + rank, dropout_mask(context, term.dropout, term.dropout_stream)});
    rows += rank;
  }
  if (terms.empty()) return stacked;
  stacked.down = downs.size() == 1 ? downs[0] : at::cat(downs, 0);
  stacked.up = ups.size() == 1 ? ups[0] : at::cat(ups, 1);
  return stacked;
}

at::Tensor apply(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, Stacked stacked,
                 const WeightNoise& noise, c10::intrusive_ptr<detail::PackedLinear> packed) {
  return AdaptedLinearFunction::apply(
      x, weight, detail::or_empty(bias), detail::or_empty(stacked.down), detail::or_empty(stacked.up),
      merge_plain_slices(std::move(stacked.slices)), noise, std::move(packed));
}

// The kept product of a frozen weight, or null where the plain one serves.
c10::intrusive_ptr<detail::PackedLinear> packed_for(const at::Tensor& x, const at::Tensor& weight,
                                                    c10::intrusive_ptr<detail::PackedLinear>& kept) {
  const bool suits = !weight.requires_grad() && weight.scalar_type() == x.scalar_type() &&
                     x.size(0) >= detail::PackedLinear::kFewestRows;
  if (!suits) return {};
  if (!kept || !kept->is_of(weight)) kept = detail::PackedLinear::make(weight);
  return kept;
}

}  // namespace

at::Tensor adapted_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                          const at::Tensor& down, const at::Tensor& up,
                          std::vector<kernels::LowRankSlice> slices, const WeightNoise& noise) {
  return apply(x, weight, bias, {down, up, std::move(slices)}, noise, {});
}

struct Linear::Packed {
  c10::intrusive_ptr<detail::PackedLinear> product;
};

Linear::Linear() : packed_(std::make_shared<Packed>()) {}

Linear::Linear(std::string name, at::Tensor weight, at::Tensor bias)
    : weight(std::move(weight)),
      bias(std::move(bias)),
      name_(std::move(name)),
      packed_(std::make_shared<Packed>()) {}

c10::intrusive_ptr<detail::PackedLinear> detail::frozen_product(const Linear& layer, const at::Tensor& x) {
  if (layer.update || (layer.bias.defined() && layer.bias.requires_grad())) return {};
  return packed_for(x, layer.weight, layer.packed_->product);
}

at::Tensor Linear::forward(const at::Tensor& x, const ForwardContext& context) const {
  if (!update) return apply(x, weight, bias, {}, {}, packed_for(x, weight, packed_->product));
  if (update->observe_input && context.training && !is_recomputing()) update->observe_input(x);
  std::vector<LowRankTerm> terms = update->low_rank;
  if (update->computed_low_rank) {
    for (LowRankTerm& term : update->computed_low_rank()) terms.push_back(std::move(term));
  }
  const WeightNoise noise = noise_of(update->noise.get(), context);
  at::Tensor y;
  if (update->affine) {
    const AffineMap map = update->affine(*this, context);
    y = apply(x, map.weight, map.bias, stack(terms, context), noise, {});
  } else {
    const bool is_plain = !noise.deviations.defined();
    y = apply(
        x, weight, bias, stack(terms, context), noise,
        is_plain ? packed_for(x, weight, packed_->product) : c10::intrusive_ptr<detail::PackedLinear>());
  }
  return update->transform_output ? update->transform_output(*this, x, y, context) : y;
}

}  // namespace msplora
