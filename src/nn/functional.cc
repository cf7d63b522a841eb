#include "msplora/nn/functional.h"

#include <ATen/TensorOperators.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/custom_function.h>

#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/nll_loss.h>
#include <algorithm>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/profile.h"
#include "msplora/core/random.h"
#include "nn/autograd.h"
#include "nn/composed.h"
#include "nn/dispatch.h"
#include "nn/int64_vector.h"
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

struct DropoutFunction : detail::KernelFunction<DropoutFunction> {
  static constexpr const char* kName = "dropout";

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, kernels::DropoutMask mask) {
    const ProfileScope scope("dropout forward");
    save_mask(ctx, mask);
    return apply_dropout(x.contiguous(), mask);
  }
  static variable_list gradients(AutogradContext* ctx, variable_list grads) {
    const ProfileScope scope("dropout backward");
    return {apply_dropout(grads[0].contiguous(), saved_mask(ctx)), Variable()};
  }
};

struct ResidualLayerNormFunction : detail::KernelFunction<ResidualLayerNormFunction> {
  static constexpr const char* kName = "residual_layer_norm";

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

  static variable_list gradients(AutogradContext* ctx, variable_list grads) {
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

struct ActivationFunction : detail::KernelFunction<ActivationFunction> {
  static constexpr const char* kName = "activation";

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
  static variable_list gradients(AutogradContext* ctx, variable_list grads) {
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

void check_embeddings(const std::vector<Embedding>& parts) {
  constexpr auto kMost = static_cast<size_t>(kernels::EmbeddingSum<float>::kMost);
  if (parts.empty() || parts.size() > kMost) {
    throw Error(ErrorCode::kUsage, "embedding_sum",
                fmt::format("expected 1 to {} embeddings, found {}", kMost, parts.size()));
  }
  detail::require_int64_vector(parts.front().ids, "ids");
  const int64_t rows = parts.front().ids.size(0), width = parts.front().table.size(-1);
  for (const Embedding& part : parts) {
    if (part.ids.defined()) detail::require_int64_vector(part.ids, "ids", rows, "the rows of the sum");
    if (part.table.dim() == 2 && part.table.size(1) == width) continue;
    throw Error(
        ErrorCode::kUsage, "embedding_sum",
        fmt::format("expected tables [n, {}], found [{}]", width, fmt::join(part.table.sizes(), ", ")));
  }
}

}  // namespace

kernels::DropoutMask dropout_mask(const ForwardContext& context, double p, uint64_t stream) {
  if (!context.training || p <= 0.0) return {};
  const uint64_t key = context.dropout_key(stream);
  return {context.part == 0 ? key : mix_seed(key, context.part), p};
}

at::Tensor dropout(const at::Tensor& x, const kernels::DropoutMask& mask) {
  if (!mask.active()) return x;
  return detail::is_composed(x, {Kernel::dropout}) ? detail::composed::dropout(x, mask)
                                                   : detail::apply_function<DropoutFunction>(x, mask);
}

at::Tensor residual_layer_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& gamma,
                               const at::Tensor& beta, double eps, const kernels::DropoutMask& mask) {
  if (detail::is_composed(x, {Kernel::residual_layer_norm, Kernel::residual_layer_norm_backward}))
    return detail::composed::residual_layer_norm(x, residual, gamma, beta, eps, mask);
  const at::ScalarType exact = detail::exact_dtype(x);
  return detail::apply_function<ResidualLayerNormFunction>(
      x, detail::or_empty(residual), detail::as(gamma, exact), detail::as(beta, exact), eps, mask);
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
  return detail::is_composed(x, {Kernel::activate, Kernel::multiply})
             ? detail::composed::activation(x, kind)
             : detail::apply_function<ActivationFunction>(x, kind);
}

at::Tensor embedding_sum(const std::vector<Embedding>& parts, at::ScalarType dtype) {
  check_embeddings(parts);
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
    ids.push_back(part.ids.defined() ? part.ids.to(first.device()).contiguous() : at::Tensor());
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
  if (logits.dim() != 2)
    throw Error(ErrorCode::kUsage, "logits",
                fmt::format("expected [rows, classes], found {} dimensions", logits.dim()));
  detail::check_labels(labels, logits.size(0), logits.size(1));
  const at::Tensor exact = logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat);
  return at::nll_loss(at::log_softmax(exact, 1), labels.to(exact.device()), {}, at::Reduction::Sum,
                      kIgnoredLabel);
}

at::Tensor squared_error_sum(const at::Tensor& predictions, const at::Tensor& targets) {
  if (predictions.numel() != targets.numel()) {
    throw Error(
        ErrorCode::kUsage, "targets",
        fmt::format("expected {}, one for each prediction, found {}", predictions.numel(), targets.numel()));
  }
  return (predictions.reshape({-1}) - targets.to(predictions.options()).reshape({-1})).square().sum();
}

uint64_t ForwardContext::dropout_key(uint64_t stream) const {
  const uint64_t key = mix_seed(step_key(stream), micro_batch);
  return repetition == 0 ? key : mix_seed(key, repetition);
}

uint64_t ForwardContext::step_key(uint64_t stream) const {
  return mix_seed(mix_seed(seed, stream), step);
}

}  // namespace msplora
