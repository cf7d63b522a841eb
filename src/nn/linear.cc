#include "msplora/nn/linear.h"

#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/custom_function.h>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>

#include "msplora/core/error.h"
#include "msplora/nn/functional.h"
#include "nn/dispatch.h"

namespace msplora {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

at::Tensor masked(const at::Tensor& x, const kernels::DropoutMask& mask) {
  if (!mask.active()) return x;
  at::Tensor y = at::empty_like(x);
  detail::dispatch(x, "adapted_linear", [&](auto t) {
    using T = decltype(t);
    kernels::dropout<T>(detail::data<T>(x), detail::data<T>(y), x.numel(), mask);
  });
  return y;
}

at::Tensor as(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : tensor.to(dtype);
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

// Slices without dropout share one input, so neighbours of that kind are one product.
std::vector<LowRankSlice> merge_plain_slices(std::vector<LowRankSlice> slices) {
  std::vector<LowRankSlice> merged;
  for (const LowRankSlice& slice : slices) {
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

void save_slices(AutogradContext* ctx, const std::vector<LowRankSlice>& slices) {
  std::vector<int64_t> numbers;
  std::vector<double> probabilities;
  for (const LowRankSlice& slice : slices) {
    numbers.insert(numbers.end(), {slice.begin, slice.end, static_cast<int64_t>(slice.mask.key)});
    probabilities.push_back(slice.mask.p);
  }
  ctx->saved_data["slices"] = numbers;
  ctx->saved_data["p"] = probabilities;
}

std::vector<LowRankSlice> saved_slices(AutogradContext* ctx) {
  const std::vector<int64_t> numbers = ctx->saved_data["slices"].toIntVector();
  const std::vector<double> probabilities = ctx->saved_data["p"].toDoubleVector();
  std::vector<LowRankSlice> slices;
  for (size_t i = 0; i < probabilities.size(); ++i) {
    slices.push_back(
        {numbers[3 * i], numbers[3 * i + 1], {static_cast<uint64_t>(numbers[3 * i + 2]), probabilities[i]}});
  }
  return slices;
}

struct AdaptedLinearFunction : torch::autograd::Function<AdaptedLinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_in, const at::Tensor& weight,
                            const at::Tensor& bias_in, const at::Tensor& down_in, const at::Tensor& up_in,
                            std::vector<LowRankSlice> slices, WeightNoise noise) {
    const at::Tensor x = x_in.contiguous();
    const at::Tensor bias = detail::or_undefined(bias_in), down = detail::or_undefined(down_in),
                     up = detail::or_undefined(up_in);
    const at::ScalarType dtype = x.scalar_type();
    at::Tensor y = at::linear(x, used_weight(weight, dtype, noise), bias.defined() ? as(bias, dtype) : bias);
    at::Tensor z;
    if (down.defined()) {
      const at::Tensor down_x = as(down, dtype);
      z = at::empty({x.size(0), down.size(0)}, x.options());
      for (const LowRankSlice& slice : slices) {
        at::Tensor part = z.slice(1, slice.begin, slice.end);
        part.copy_(at::mm(masked(x, slice.mask), down_x.slice(0, slice.begin, slice.end).t()));
      }
      y.addmm_(z, as(up, dtype).t());
    }
    ctx->save_for_backward({x, weight, down, up, z, noise.deviations});
    ctx->saved_data["noise_key"] = static_cast<int64_t>(noise.key);
    save_slices(ctx, slices);
    ctx->saved_data["need_x"] = x_in.requires_grad();
    ctx->saved_data["need_weight"] = weight.requires_grad();
    ctx->saved_data["need_bias"] = bias.defined() && bias.requires_grad();
    if (bias.defined()) ctx->saved_data["bias_dtype"] = static_cast<int64_t>(bias.scalar_type());
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &down = saved[2], &up = saved[3], &z = saved[4];
    const WeightNoise noise{static_cast<uint64_t>(ctx->saved_data["noise_key"].toInt()), saved[5]};
    const at::Tensor dy = grads[0].contiguous();
    const at::ScalarType dtype = dy.scalar_type();
    const bool need_x = ctx->saved_data["need_x"].toBool();
    at::Tensor dx, d_weight, d_bias, d_down, d_up;
    if (need_x) dx = at::mm(dy, used_weight(weight, dtype, noise));
    if (ctx->saved_data["need_weight"].toBool()) d_weight = as(at::mm(dy.t(), x), weight.scalar_type());
    if (ctx->saved_data["need_bias"].toBool()) {
      const auto bias_dtype = static_cast<at::ScalarType>(ctx->saved_data["bias_dtype"].toInt());
      d_bias = as(dy.sum(0, false, dtype == at::kDouble ? at::kDouble : at::kFloat), bias_dtype);
    }
    if (down.defined()) {
      d_up = as(at::mm(dy.t(), z), up.scalar_type());
      const at::Tensor dz = at::mm(dy, as(up, dtype));
      const at::Tensor down_x = as(down, dtype);
      d_down = at::empty_like(down);
      for (const LowRankSlice& slice : saved_slices(ctx)) {
        const at::Tensor dz_slice = dz.slice(1, slice.begin, slice.end).contiguous();
        d_down.slice(0, slice.begin, slice.end).copy_(at::mm(dz_slice.t(), masked(x, slice.mask)));
        if (!need_x) continue;
        if (slice.mask.active()) {
          dx += masked(at::mm(dz_slice, down_x.slice(0, slice.begin, slice.end)), slice.mask);
        } else {
          dx.addmm_(dz_slice, down_x.slice(0, slice.begin, slice.end));
        }
      }
    }
    return {dx, d_weight, d_bias, d_down, d_up, Variable(), Variable()};
  }
};

WeightNoise noise_of(const NoiseSource* source, const ForwardContext& context) {
  if (source == nullptr || !context.training || !source->deviations.defined()) return {};
  return {source->per_micro_batch ? context.dropout_key(source->stream) : context.step_key(source->stream),
          source->deviations};
}

// Stacks the terms into one down and one up product.
at::Tensor with_terms(const at::Tensor& x, const AffineMap& map, const std::vector<LowRankTerm>& terms,
                      const WeightNoise& noise, const ForwardContext& context) {
  if (terms.empty()) return adapted_linear(x, map.weight, map.bias, {}, {}, {}, noise);
  std::vector<at::Tensor> downs, ups;
  std::vector<LowRankSlice> slices;
  int64_t rows = 0;
  for (const LowRankTerm& term : terms) {
    downs.push_back(term.down);
    ups.push_back(term.scaling == 1.0 ? term.up : term.up * term.scaling);
    const int64_t rank = term.down.size(0);
    slices.push_back({rows, rows + rank, dropout_mask(context, term.dropout, term.dropout_stream)});
    rows += rank;
  }
  const bool is_one = downs.size() == 1;
  return adapted_linear(x, map.weight, map.bias, is_one ? downs[0] : at::cat(downs, 0),
                        is_one ? ups[0] : at::cat(ups, 1), std::move(slices), noise);
}

}  // namespace

at::Tensor adapted_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                          const at::Tensor& down, const at::Tensor& up, std::vector<LowRankSlice> slices,
                          const WeightNoise& noise) {
  return AdaptedLinearFunction::apply(x, weight, detail::or_empty(bias), detail::or_empty(down),
                                      detail::or_empty(up), merge_plain_slices(std::move(slices)), noise);
}

Linear::Linear(std::string name, at::Tensor weight, at::Tensor bias)
    : weight(std::move(weight)), bias(std::move(bias)), name_(std::move(name)) {}

at::Tensor Linear::forward(const at::Tensor& x, const ForwardContext& context) const {
  if (!update) return adapted_linear(x, weight, bias, {}, {}, {});
  if (update->observe_input && context.training) update->observe_input(x);
  const AffineMap map = update->affine ? update->affine(*this, context) : AffineMap{weight, bias};
  const WeightNoise noise = noise_of(update->noise.get(), context);
  at::Tensor y;
  if (update->computed_low_rank) {
    std::vector<LowRankTerm> terms = update->low_rank;
    for (LowRankTerm& term : update->computed_low_rank()) terms.push_back(std::move(term));
    y = with_terms(x, map, terms, noise, context);
  } else {
    y = with_terms(x, map, update->low_rank, noise, context);
  }
  return update->transform_output ? update->transform_output(*this, x, y, context) : y;
}

}  // namespace msplora
