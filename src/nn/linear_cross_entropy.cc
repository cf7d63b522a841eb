#include "msplora/nn/linear_cross_entropy.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <algorithm>
#include <utility>

#include "msplora/core/profile.h"
#include "msplora/kernels/gemm.h"
#include "nn/autograd.h"
#include "nn/composed.h"
#include "nn/dispatch.h"
#include "nn/graph_leaves.h"
#include "nn/kernel_product.h"
#include "nn/labels.h"
#include "nn/matmul.h"
#include "nn/packed_linear.h"

namespace msplora {
namespace {

using detail::data;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;
using Product = c10::intrusive_ptr<detail::PackedLinear>;

/// Fewer rows do not pay for reading the head's matrix; matrix units are done with them sooner.
constexpr int64_t kFewestRows = 128, kFewestRowsOfTiles = 512;

bool is_composed_loss(const at::Tensor& x) {
  return detail::is_composed(x, {kernels::Kernel::cross_entropy_rows});
}

struct Gradients {
  at::Tensor hidden, weight, bias;  // undefined where not asked for
};

/// The head: a matrix, or its packed product where it is frozen.
struct Head {
  at::Tensor weight, bias;
  Product product;

  int64_t classes() const { return product ? product->out_features() : weight.size(0); }
  at::Tensor logits(const at::Tensor& hidden) const {
    return product ? product->forward(hidden, bias.defined() ? bias.to(at::kFloat) : bias)
                   : detail::linear(hidden, weight, bias).contiguous();
  }
  void input_gradient(const at::Tensor& d_logits, at::Tensor d_hidden) const {
    if (product) return product->backward_into(d_logits, d_hidden);
    d_hidden.copy_(detail::matmul(d_logits, weight));
  }
};

/// The loss of rows that all have a label; adds to the gradients that are defined.
double head_loss(const at::Tensor& hidden, const Head& head, const at::Tensor& labels, int64_t chunk_rows,
                 double soft_cap, Gradients& gradients) {
  const int64_t rows = hidden.size(0), classes = head.classes();
  const bool with_gradient =
      gradients.hidden.defined() || gradients.weight.defined() || gradients.bias.defined();
  const at::Tensor losses = at::empty({rows}, hidden.options().dtype(at::kDouble));
  for (int64_t begin = 0; begin < rows; begin += chunk_rows) {
    const int64_t end = std::min(rows, begin + chunk_rows);
    const at::Tensor part = hidden.slice(0, begin, end);
    const at::Tensor logits = head.logits(part);
    {
      const ProfileScope scope("cross entropy");
      detail::dispatch(logits, "linear_cross_entropy", [&](auto t) {
        using T = decltype(t);
        detail::kernels_of<T>(logits).cross_entropy_rows({end - begin, classes, soft_cap,
                                                          data<int64_t>(labels) + begin, with_gradient,
                                                          data<T>(logits), data<double>(losses) + begin});
      });
    }
    if (gradients.hidden.defined()) head.input_gradient(logits, gradients.hidden.slice(0, begin, end));
    if (gradients.weight.defined()) gradients.weight.add_(detail::matmul(logits.t(), part));
    if (gradients.bias.defined()) gradients.bias.add_(logits.sum(0, false, gradients.bias.scalar_type()));
  }
  return losses.sum().item<double>();
}

struct LinearCrossEntropyFunction : detail::KernelFunction<LinearCrossEntropyFunction> {
  static constexpr const char* kName = "linear_cross_entropy_sum";

  /// `weight_in` is empty where the packed product stands for it.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& hidden, const at::Tensor& weight_in,
                            const at::Tensor& bias_in, const at::Tensor& rows, const at::Tensor& labels,
                            int64_t chunk_rows, double soft_cap, Product product) {
    const ProfileScope scope("head and loss");
    const at::ScalarType dtype = hidden.scalar_type();
    const at::ScalarType exact = detail::exact_dtype(dtype);
    const Head head{product ? at::Tensor() : weight_in.to(dtype),
                    bias_in.numel() > 0 ? bias_in.to(dtype) : at::Tensor(), std::move(product)};
    const at::Tensor kept =
        rows.numel() == hidden.size(0) ? hidden.contiguous() : hidden.index_select(0, rows);
    Gradients gradients;
    if (hidden.requires_grad()) gradients.hidden = at::empty_like(kept);
    if (weight_in.requires_grad())
      gradients.weight = at::zeros(weight_in.sizes(), weight_in.options().dtype(exact));
    if (bias_in.requires_grad()) gradients.bias = at::zeros(bias_in.sizes(), bias_in.options().dtype(exact));
    const double loss = head_loss(kept, head, labels, chunk_rows, soft_cap, gradients);
    ctx->save_for_backward({gradients.hidden, gradients.weight, gradients.bias, rows});
    ctx->saved_data["rows"] = hidden.size(0);
    ctx->saved_data["weight_dtype"] = static_cast<int64_t>(weight_in.scalar_type());
    ctx->saved_data["bias_dtype"] = static_cast<int64_t>(bias_in.scalar_type());
    return at::scalar_tensor(loss, hidden.options().dtype(exact).requires_grad(false));
  }

  static variable_list gradients(AutogradContext* ctx, variable_list grads) {
    const ProfileScope scope("head and loss, backward");
    const variable_list saved = ctx->get_saved_variables();
    const int64_t all_rows = ctx->saved_data["rows"].toInt();
    const auto scaled = [&](const at::Tensor& gradient, at::ScalarType dtype) {
      return gradient.defined() ? (gradient * grads[0]).to(dtype) : Variable();
    };
    at::Tensor d_hidden;
    if (saved[0].defined()) {
      d_hidden = scaled(saved[0], saved[0].scalar_type());
      if (saved[0].size(0) != all_rows) {
        d_hidden =
            at::zeros({all_rows, saved[0].size(1)}, saved[0].options()).index_copy_(0, saved[3], d_hidden);
      }
    }
    return {d_hidden,
            scaled(saved[1], static_cast<at::ScalarType>(ctx->saved_data["weight_dtype"].toInt())),
            scaled(saved[2], static_cast<at::ScalarType>(ctx->saved_data["bias_dtype"].toInt())),
            Variable(),
            Variable(),
            Variable(),
            Variable(),
            Variable()};
  }
};

/// Which rows have a label, and theirs, where the hidden states lie.
struct Counted {
  at::Tensor rows, labels;
  int64_t chunk = 0;

  Counted(const at::Tensor& hidden, const at::Tensor& all, int64_t classes, int64_t chunk_rows) {
    detail::check_labels(all, hidden.size(0), classes);
    const at::Tensor counted = all.ne(kIgnoredLabel).nonzero().squeeze(1);
    rows = counted.to(hidden.device());
    labels = all.index_select(0, counted).to(hidden.device());
    chunk = chunk_rows > 0 ? chunk_rows
                           : default_logit_rows(rows.size(0), hidden.size(1), classes, hidden.scalar_type());
  }
};

/// `weight` may be undefined beside a product.
at::Tensor loss_of(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& bias,
                   const at::Tensor& labels, int64_t chunk_rows, double soft_cap, Product product) {
  const Counted counted(hidden, labels, product ? product->out_features() : weight.size(0), chunk_rows);
  if (is_composed_loss(hidden)) {
    return detail::composed::linear_cross_entropy_sum(hidden.index_select(0, counted.rows), weight, bias,
                                                      counted.labels, counted.chunk, soft_cap);
  }
  return detail::apply_function<LinearCrossEntropyFunction>(
      hidden, detail::or_empty(weight), detail::or_empty(bias), counted.rows, counted.labels, counted.chunk,
      soft_cap, std::move(product));
}

/// A number and its gradients by some tensors, which are undefined where it does not depend on one.
struct Known : torch::CustomClassHolder {
  at::Tensor value;
  variable_list gradients;
};

struct KnownGradientsFunction : detail::KernelFunction<KnownGradientsFunction> {
  static constexpr const char* kName = "linear_cross_entropy_sum";

  static at::Tensor forward(AutogradContext* ctx, at::TensorList, c10::intrusive_ptr<Known> known) {
    ctx->save_for_backward(known->gradients);
    return known->value;
  }
  static variable_list gradients(AutogradContext* ctx, variable_list grads) {
    variable_list scaled;
    for (const at::Tensor& gradient : ctx->get_saved_variables())
      scaled.push_back(gradient.defined() ? gradient * grads[0] : Variable());
    scaled.emplace_back();
    return scaled;
  }
};

/// The loss behind a layer with an update, which runs forwards and back chunk by chunk: what remains of a
/// chunk are its loss and gradients.
class AdaptedHead {
 public:
  /// `hidden`: the rows that have a label.
  AdaptedHead(const Linear& layer, const at::Tensor& hidden, double soft_cap)
      : layer_(layer),
        hidden_(hidden),
        soft_cap_(soft_cap),
        loss_(at::zeros({}, hidden.options().dtype(at::kDouble).requires_grad(false))) {
    if (hidden.requires_grad() && at::GradMode::is_enabled())
      d_hidden_ = at::empty_like(hidden, hidden.options().requires_grad(false));
  }

  void add(int64_t begin, int64_t end, const at::Tensor& labels, const ForwardContext& context) {
    const at::Tensor part = hidden_.slice(0, begin, end).detach().requires_grad_(d_hidden_.defined());
    const at::Tensor logits = layer_.forward(part, context);
    const bool with_gradient = logits.requires_grad();
    if (is_composed_loss(logits)) {
      const at::Tensor loss = detail::composed::cross_entropy_sum(logits, labels, soft_cap_);
      loss_ += loss.detach();
      if (with_gradient) differentiate(part, loss, {}, begin, end);
      return;
    }
    // They become their own gradient, unless the update may need its output.
    at::Tensor d_logits = logits.detach().contiguous();
    if (layer_.update->transform_output && with_gradient) d_logits = d_logits.clone();
    const at::Tensor losses = at::empty({end - begin}, loss_.options());
    detail::dispatch(d_logits, "linear_cross_entropy", [&](auto t) {
      using T = decltype(t);
      detail::kernels_of<T>(d_logits).cross_entropy_rows({end - begin, d_logits.size(1), soft_cap_,
                                                          data<int64_t>(labels), with_gradient,
                                                          data<T>(d_logits), data<double>(losses)});
    });
    loss_ += losses.sum();
    if (with_gradient) differentiate(part, logits, d_logits, begin, end);
  }

  at::Tensor loss() {
    const auto known = c10::make_intrusive<Known>();
    known->value = loss_.to(detail::exact_dtype(hidden_));
    variable_list inputs;
    if (d_hidden_.defined()) {
      inputs.push_back(hidden_);
      known->gradients.push_back(d_hidden_);
    }
    inputs.insert(inputs.end(), leaves_.begin(), leaves_.end());
    known->gradients.insert(known->gradients.end(), gradients_.begin(), gradients_.end());
    if (inputs.empty()) return known->value;
    return KnownGradientsFunction::apply(at::TensorList(inputs), known);
  }

 private:
  /// Adds the gradients of a chunk; `seed` is that of its output, undefined for a number.
  void differentiate(const at::Tensor& part, const at::Tensor& output, const at::Tensor& seed, int64_t begin,
                     int64_t end) {
    if (!is_known_) leaves_ = detail::leaves_of({output}, {part});
    variable_list wanted = leaves_;
    if (d_hidden_.defined()) wanted.push_back(part);
    variable_list found = torch::autograd::grad({output}, wanted, {seed}, /*retain_graph=*/false,
                                                /*create_graph=*/false, /*allow_unused=*/true);
    if (d_hidden_.defined()) {
      d_hidden_.slice(0, begin, end).copy_(found.back());
      found.pop_back();
    }
    for (size_t i = 0; i < found.size() && is_known_; ++i) {
      if (found[i].defined()) gradients_[i] = gradients_[i].defined() ? gradients_[i] + found[i] : found[i];
    }
    if (!is_known_) gradients_ = std::move(found);
    is_known_ = true;
  }

  const Linear& layer_;
  const at::Tensor& hidden_;
  double soft_cap_;
  at::Tensor loss_, d_hidden_;
  bool is_known_ = false;  // which leaves there are
  variable_list leaves_, gradients_;
};

at::Tensor adapted_loss(const at::Tensor& hidden, const Linear& head, const Counted& counted, double soft_cap,
                        ForwardContext context) {
  const ProfileScope scope("head and loss");
  const int64_t rows = counted.rows.size(0);
  if (rows == 0) {  // 0, with a graph
    const at::Tensor logits = head.forward(at::zeros({1, hidden.size(1)}, hidden.options()), context);
    return (logits.sum() * 0.0 + hidden.sum() * 0.0).to(detail::exact_dtype(hidden));
  }
  const at::Tensor kept = rows == hidden.size(0) ? hidden.contiguous() : hidden.index_select(0, counted.rows);
  if (head.update->observe_input && context.training) head.update->observe_input(kept);
  AdaptedHead adapted(head, kept, soft_cap);
  for (int64_t begin = 0; begin < rows; begin += counted.chunk) {
    const int64_t end = std::min(rows, begin + counted.chunk);
    ++context.part;
    adapted.add(begin, end, counted.labels.slice(0, begin, end), context);
  }
  return adapted.loss();
}

}  // namespace

int64_t default_logit_rows(int64_t rows, int64_t width, int64_t classes, at::ScalarType dtype) {
  const int64_t wanted = (rows * width + classes - 1) / std::max<int64_t>(1, classes);
  int64_t chunk = detail::is_on_matrix_units(dtype) ? kFewestRowsOfTiles : kFewestRows;
  while (chunk < wanted) chunk *= 2;
  return chunk;
}

at::Tensor linear_cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight,
                                    const at::Tensor& bias, const at::Tensor& labels, int64_t chunk_rows,
                                    double soft_cap) {
  return loss_of(hidden, weight, bias, labels, chunk_rows, soft_cap, {});
}

at::Tensor linear_cross_entropy_sum(const at::Tensor& hidden, const Linear& head, const at::Tensor& labels,
                                    const ForwardContext& context, int64_t chunk_rows, double soft_cap) {
  if (head.update)
    return adapted_loss(hidden, head, Counted(hidden, labels, head.out_features(), chunk_rows), soft_cap,
                        context);
  Product product = detail::frozen_product(head, hidden);
  const at::Tensor weight = product ? at::Tensor() : head.weight->values();
  return loss_of(hidden, weight, head.bias, labels, chunk_rows, soft_cap, std::move(product));
}

}  // namespace msplora
