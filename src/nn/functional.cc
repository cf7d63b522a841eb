#include "msplora/nn/functional.h"

#include <ATen/TensorOperators.h>
#include <torch/csrc/autograd/custom_function.h>

#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nll_loss.h>
#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "msplora/core/profile.h"
#include "msplora/core/random.h"
#include "nn/composed.h"
#include "nn/dispatch.h"
#include "nn/labels.h"

namespace msplora {
namespace {

using detail::data;
using detail::dispatch;
using kernels::Kernel;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// Masks travel through saved_data as two numbers.
void save_mask(AutogradContext* ctx, const kernels::DropoutMask& mask) {
  ctx->saved_data["mask_key"] = static_cast<int64_t>(mask.key);
  ctx->saved_data["mask_p"] = mask.p;
}

kernels::DropoutMask saved_mask(AutogradContext* ctx) {
  return {static_cast<uint64_t>(ctx->saved_data["mask_key"].toInt()), ctx->saved_data["mask_p"].toDouble()};
}

at::Tensor apply_dropout(const at::Tensor& x, const kernels::DropoutMask& mask) {
  at::Tensor y = at::empty_like(x);
  dispatch(x, "dropout", [&](auto t) {
    using T = decltype(t);
    detail::kernels_of<T>(x).dropout({x.numel(), mask, data<T>(x), data<T>(y)});
  });
  return y;
}

struct DropoutFunction : torch::autograd::Function<DropoutFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, kernels::DropoutMask mask) {
    const ProfileScope scope("dropout forward");
    save_mask(ctx, mask);
    return apply_dropout(x.contiguous(), mask);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const ProfileScope scope("dropout backward");
    return {apply_dropout(grads[0].contiguous(), saved_mask(ctx)), Variable()};
  }
};

struct ResidualLayerNormFunction : torch::autograd::Function<ResidualLayerNormFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_in, const at::Tensor& residual_in,
                            const at::Tensor& gamma, const at::Tensor& beta, double eps,
                            kernels::DropoutMask mask) {
    const ProfileScope scope("norm forward");
    const at::Tensor x = x_in.contiguous();
    const bool has_residual = residual_in.numel() > 0;
    const at::Tensor residual = has_residual ? residual_in.contiguous() : at::Tensor();
    const int64_t width = x.size(-1), rows = x.numel() / std::max<int64_t>(width, 1);
    const bool is_plain = !has_residual && !mask.active();
    at::Tensor s = is_plain ? x : at::empty_like(x);
    at::Tensor y = at::empty_like(x);
    at::Tensor mean = at::empty({rows}, x.options().dtype(at::kFloat)), rstd = at::empty_like(mean);
    dispatch(x, "residual_layer_norm", [&](auto t) {
      using T = decltype(t);
      detail::kernels_of<T>(x).residual_layer_norm(
          {rows, width, eps, mask, data<T>(x), data<T>(residual), data<kernels::Exact<T>>(gamma),
           data<kernels::Exact<T>>(beta), is_plain ? nullptr : data<T>(s), data<T>(y), data<float>(mean),
           data<float>(rstd)});
    });
    ctx->save_for_backward({s, mean, rstd, gamma});
    ctx->saved_data["has_residual"] = has_residual;
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["parameters"] = gamma.requires_grad() || beta.requires_grad();
    save_mask(ctx, mask);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const ProfileScope scope("norm backward");
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &s = saved[0], &mean = saved[1], &rstd = saved[2], &gamma = saved[3];
    const at::Tensor dy = grads[0].contiguous();
    const kernels::DropoutMask mask = saved_mask(ctx);
    const bool has_residual = ctx->saved_data["has_residual"].toBool();
    const bool with_parameters = ctx->saved_data["parameters"].toBool();
    const bool one_gradient = !mask.active() || !has_residual;
    at::Tensor d_x = at::empty_like(s);
    at::Tensor d_residual = one_gradient ? d_x : at::empty_like(s);
    at::Tensor d_gamma, d_beta;
    if (with_parameters) {
      d_gamma = at::empty_like(gamma);
      d_beta = at::empty_like(gamma);
    }
    dispatch(s, "residual_layer_norm", [&](auto t) {
      using T = decltype(t);
      kernels::ResidualLayerNormBackward<T> op;
      op.width = s.size(-1);
      op.rows = s.numel() / std::max<int64_t>(op.width, 1);
      op.eps = ctx->saved_data["eps"].toDouble();
      op.mask = mask;
      op.dy = data<T>(dy);
      op.s = data<T>(s);
      op.mean = data<float>(mean);
      op.rstd = data<float>(rstd);
      op.gamma = data<kernels::Exact<T>>(gamma);
      op.d_x = data<T>(d_x);
      op.d_residual = has_residual ? data<T>(d_residual) : nullptr;
      op.d_gamma = data<kernels::Exact<T>>(d_gamma);
      op.d_beta = data<kernels::Exact<T>>(d_beta);
      detail::kernels_of<T>(s).residual_layer_norm_backward(op);
    });
    return {d_x, has_residual ? d_residual : Variable(), d_gamma, d_beta, Variable(), Variable()};
  }
};

struct ActivationFunction : torch::autograd::Function<ActivationFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_in, kernels::Activation kind) {
    const ProfileScope scope("activation forward");
    const at::Tensor x = x_in.contiguous();
    at::Tensor y = at::empty_like(x);
    const at::Tensor derivative = x_in.requires_grad() ? at::empty_like(x) : at::Tensor();
    dispatch(x, "activation", [&](auto t) {
      using T = decltype(t);
      detail::kernels_of<T>(x).activate({x.numel(), kind, data<T>(x), data<T>(y), data<T>(derivative)});
    });
    ctx->save_for_backward({derivative});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const ProfileScope scope("activation backward");
    const at::Tensor derivative = ctx->get_saved_variables()[0];
    const at::Tensor dy = grads[0].contiguous();
    at::Tensor dx = at::empty_like(dy);
    dispatch(dy, "activation", [&](auto t) {
      using T = decltype(t);
      detail::kernels_of<T>(dy).multiply({dy.numel(), data<T>(derivative), data<T>(dy), data<T>(dx)});
    });
    return {dx, Variable()};
  }
};

template <typename T>
kernels::SegmentAttention<T> attention_op(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                          const at::Tensor& o, const at::Tensor& lse,
                                          const at::Tensor& cu_seqlens, const AttentionShape& shape,
                                          const kernels::DropoutMask& mask) {
  kernels::SegmentAttention<T> op;
  op.cu_seqlens = data<int32_t>(cu_seqlens);
  op.segments = cu_seqlens.numel() - 1;
  op.heads = shape.heads;
  op.kv_heads = shape.kv_heads;
  op.head_dim = shape.head_dim;
  op.q_stride = q.stride(0);
  op.k_stride = k.stride(0);
  op.v_stride = v.stride(0);
  op.o_stride = o.size(1);
  op.scale = shape.used_scale();
  op.window_left = shape.window_left;
  op.window_right = shape.window_right;
  op.queries = shape.queries;
  op.mask = mask;
  op.q = data<T>(q);
  op.k = data<T>(k);
  op.v = data<T>(v);
  op.o = data<T>(o);
  op.lse = data<float>(lse);
  return op;
}

/// q, k and v, or their gradients: three tensors, q and columns of one (v undefined), or columns of one.
std::array<at::Tensor, 3> parts_of(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const AttentionShape& shape) {
  if (v.defined()) return {q, k, v};
  const int64_t wide = shape.heads * shape.head_dim, narrow = shape.kv_heads * shape.head_dim;
  if (k.defined()) return {q, k.narrow(1, 0, narrow), k.narrow(1, narrow, narrow)};
  return {q.narrow(1, 0, wide), q.narrow(1, wide, narrow), q.narrow(1, wide + narrow, narrow)};
}

struct SegmentAttentionFunction : torch::autograd::Function<SegmentAttentionFunction> {
  /// With v empty, k holds both side by side; with k empty too, q holds all three.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q_in, const at::Tensor& k_in,
                            const at::Tensor& v_in, const at::Tensor& cu_seqlens, AttentionShape shape,
                            kernels::DropoutMask mask) {
    const ProfileScope scope("attention forward");
    const at::Tensor q = q_in.contiguous(), k = detail::or_undefined(k_in.contiguous()),
                     v = detail::or_undefined(v_in.contiguous());
    const auto [query, key, value] = parts_of(q, k, v, shape);
    at::Tensor o = at::empty({query.size(0), query.size(1)}, q.options());
    at::Tensor lse = at::empty({q.size(0), shape.heads}, q.options().dtype(at::kFloat));
    dispatch(q, "segment_attention", [&, &query = query, &key = key, &value = value](auto t) {
      using T = decltype(t);
      detail::kernels_of<T>(q).segment_attention(
          attention_op<T>(query, key, value, o, lse, cu_seqlens, shape, mask));
    });
    ctx->save_for_backward({q, k, v, o, lse, cu_seqlens});
    ctx->saved_data["heads"] = shape.heads;
    ctx->saved_data["kv_heads"] = shape.kv_heads;
    ctx->saved_data["head_dim"] = shape.head_dim;
    ctx->saved_data["window_left"] = shape.window_left;
    ctx->saved_data["window_right"] = shape.window_right;
    ctx->saved_data["queries"] = static_cast<int64_t>(shape.queries);
    ctx->saved_data["scale"] = shape.scale;
    save_mask(ctx, mask);
    return o;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const ProfileScope scope("attention backward");
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor d_o = grads[0].contiguous();
    const auto saved_int = [&](const char* key) { return ctx->saved_data[key].toInt(); };
    const AttentionShape shape{saved_int("heads"),
                               saved_int("kv_heads"),
                               saved_int("head_dim"),
                               saved_int("window_left"),
                               saved_int("window_right"),
                               static_cast<kernels::Queries>(saved_int("queries")),
                               ctx->saved_data["scale"].toDouble()};
    const auto like = [&](const at::Tensor& t) { return t.defined() ? at::empty_like(t) : at::Tensor(); };
    const at::Tensor d_q = like(saved[0]), d_k = like(saved[1]), d_v = like(saved[2]);
    const auto values = parts_of(saved[0], saved[1], saved[2], shape),
               gradients = parts_of(d_q, d_k, d_v, shape);
    dispatch(d_o, "segment_attention", [&](auto t) {
      using T = decltype(t);
      kernels::SegmentAttentionBackward<T> op;
      op.forward = attention_op<T>(values[0], values[1], values[2], saved[3], saved[4], saved[5], shape,
                                   saved_mask(ctx));
      op.d_o = data<T>(d_o);
      op.dq = data<T>(gradients[0]);
      op.dk = data<T>(gradients[1]);
      op.dv = data<T>(gradients[2]);
      detail::kernels_of<T>(d_o).segment_attention_backward(op);
    });
    return {d_q, d_k, d_v, Variable(), Variable(), Variable()};
  }
};

at::Tensor bounds_of(const std::vector<int32_t>& cu_seqlens) {
  const at::Tensor bounds = at::empty({static_cast<int64_t>(cu_seqlens.size())}, at::kInt);
  std::copy(cu_seqlens.begin(), cu_seqlens.end(), data<int32_t>(bounds));
  return bounds;
}

/// Of q, k and v as parts_of takes them.
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const std::vector<int32_t>& cu_seqlens, const AttentionShape& shape,
                  const kernels::DropoutMask& mask) {
  if (shape.soft_cap > 0 ||
      detail::is_composed(q, {Kernel::segment_attention, Kernel::segment_attention_backward})) {
    const auto parts = parts_of(q, k, v, shape);
    return detail::composed::segment_attention(parts[0], parts[1], parts[2], cu_seqlens, shape, mask);
  }
  return SegmentAttentionFunction::apply(q, detail::or_empty(k), detail::or_empty(v),
                                         bounds_of(cu_seqlens).to(q.device()), shape, mask);
}

}  // namespace

kernels::DropoutMask dropout_mask(const ForwardContext& context, double p, uint64_t stream) {
  if (!context.training || p <= 0.0) return {};
  return {context.dropout_key(stream), p};
}

at::Tensor dropout(const at::Tensor& x, const kernels::DropoutMask& mask) {
  if (!mask.active()) return x;
  return detail::is_composed(x, {Kernel::dropout}) ? detail::composed::dropout(x, mask)
                                                   : DropoutFunction::apply(x, mask);
}

at::Tensor residual_layer_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& gamma,
                               const at::Tensor& beta, double eps, const kernels::DropoutMask& mask) {
  if (detail::is_composed(x, {Kernel::residual_layer_norm, Kernel::residual_layer_norm_backward}))
    return detail::composed::residual_layer_norm(x, residual, gamma, beta, eps, mask);
  const at::ScalarType exact = detail::exact_dtype(x);
  return ResidualLayerNormFunction::apply(x, detail::or_empty(residual), detail::as(gamma, exact),
                                          detail::as(beta, exact), eps, mask);
}

kernels::Activation activation_from_name(const std::string& name) {
  if (name == "gelu") return kernels::Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast")
    return kernels::Activation::kGeluTanh;
  if (name == "relu") return kernels::Activation::kRelu;
  if (name == "silu" || name == "swish") return kernels::Activation::kSilu;
  if (name == "tanh") return kernels::Activation::kTanh;
  throw Error(ErrorCode::kConfig, "config.json: hidden_act", "unknown activation `" + name + "`",
              "known: gelu, gelu_new, gelu_pytorch_tanh, relu, silu, tanh");
}

at::Tensor activation(const at::Tensor& x, kernels::Activation kind) {
  return detail::is_composed(x, {Kernel::activate, Kernel::multiply}) ? detail::composed::activation(x, kind)
                                                                      : ActivationFunction::apply(x, kind);
}

at::Tensor segment_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const std::vector<int32_t>& cu_seqlens, const AttentionShape& shape,
                             const kernels::DropoutMask& mask) {
  return attend(q, k, v, cu_seqlens, shape, mask);
}

at::Tensor segment_attention(const at::Tensor& qkv, const std::vector<int32_t>& cu_seqlens,
                             const AttentionShape& shape, const kernels::DropoutMask& mask) {
  return attend(qkv, {}, {}, cu_seqlens, shape, mask);
}

at::Tensor segment_attention(const at::Tensor& q, const at::Tensor& kv,
                             const std::vector<int32_t>& cu_seqlens, const AttentionShape& shape,
                             const kernels::DropoutMask& mask) {
  return attend(q, kv, {}, cu_seqlens, shape, mask);
}

at::Tensor embedding_sum(const std::vector<Embedding>& parts, at::ScalarType dtype) {
  const auto is_frozen = [&](const Embedding& part) {
    return !part.table.requires_grad() && part.table.scalar_type() == dtype && part.table.is_contiguous();
  };
  if (detail::is_composed(parts.front().table, {Kernel::embedding_sum}) ||
      !std::all_of(parts.begin(), parts.end(), is_frozen)) {
    at::Tensor sum;
    for (const Embedding& part : parts) {
      const at::Tensor rows = part.ids.defined() ? at::embedding(part.table, part.ids.to(part.table.device()))
                                                 : part.table.select(0, 0);
      sum = sum.defined() ? sum + rows : rows;
    }
    return sum.to(dtype);
  }
  const at::Tensor& first = parts.front().table;
  at::Tensor y = at::empty({parts.front().ids.size(0), first.size(1)}, first.options());
  std::vector<at::Tensor> ids;
  for (const Embedding& part : parts)
    ids.push_back(part.ids.defined() ? part.ids.to(first.device()) : at::Tensor());
  dispatch(y, "embedding_sum", [&](auto t) {
    using T = decltype(t);
    kernels::EmbeddingSum<T> op;
    op.rows = y.size(0);
    op.width = y.size(1);
    op.y = data<T>(y);
    for (; op.parts < static_cast<int>(parts.size()); ++op.parts) {
      op.tables[op.parts] = data<T>(parts[static_cast<size_t>(op.parts)].table);
      op.ids[op.parts] = data<int64_t>(ids[static_cast<size_t>(op.parts)]);
    }
    detail::kernels_of<T>(y).embedding_sum(op);
  });
  return y;
}

at::Tensor cross_entropy_sum(const at::Tensor& logits, const at::Tensor& labels) {
  detail::check_labels(labels, logits.size(1));
  const at::Tensor exact = logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat);
  return at::nll_loss(at::log_softmax(exact, 1), labels.to(exact.device()), {}, at::Reduction::Sum,
                      kIgnoredLabel);
}

at::Tensor squared_error_sum(const at::Tensor& predictions, const at::Tensor& targets) {
  return (predictions.reshape({-1}) - targets.to(predictions.options())).square().sum();
}

uint64_t ForwardContext::dropout_key(uint64_t stream) const {
  return mix_seed(step_key(stream), micro_batch);
}

uint64_t ForwardContext::step_key(uint64_t stream) const {
  return mix_seed(mix_seed(seed, stream), step);
}

}  // namespace msplora
