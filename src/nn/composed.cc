#include "nn/composed.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "msplora/core/ignored_label.h"
#include "msplora/nn/recompute.h"
#include "nn/dispatch.h"
#include "nn/low_rank_terms.h"
#include "nn/matmul.h"

namespace msplora {
namespace {

thread_local bool composed_on_cpu = false;

}  // namespace

ComposedOperations::ComposedOperations(bool on) : before_(composed_on_cpu) {
  composed_on_cpu = on;
}
ComposedOperations::~ComposedOperations() {
  composed_on_cpu = before_;
}

bool uses_composed_operations(const at::Tensor& x) {
  return !x.device().is_cpu() || composed_on_cpu;
}

bool detail::is_composed(const at::Tensor& x, std::initializer_list<kernels::Kernel> operation) {
  if (composed_on_cpu) return true;
  const auto lacks = [&](const auto& table) {
    return !std::all_of(operation.begin(), operation.end(),
                        [&](kernels::Kernel kernel) { return kernels::has(table, kernel); });
  };
  if (x.scalar_type() == at::kDouble) return lacks(kernels_of<double>(x));
  if (x.scalar_type() == at::kBFloat16) return lacks(kernels_of<kernels::Bfloat16>(x));
  return lacks(kernels_of<float>(x));
}

namespace detail::composed {
namespace {

/// A generator of the device that starts at `key`; nobody else draws from it.
at::Generator cuda_generator(const at::Device& device, uint64_t key) {
  at::Generator generator = at::globalContext().defaultGenerator(device).clone();
  generator.set_current_seed(key);
  return generator;
}

/// Zero where dropped, else 1 / (1 - p), in the shape and type of x.
at::Tensor drawn_mask(const at::Tensor& x, const kernels::DropoutMask& mask) {
  if (x.is_cuda()) {
    const double kept = 1.0 / mask.scale();
    return at::empty_like(x).bernoulli_(kept, cuda_generator(x.device(), mask.key)).mul_(mask.scale());
  }
  const at::Tensor drawn = at::ones(x.sizes(), x.options().device(at::kCPU));
  dispatch(drawn, "dropout", [&](auto t) {
    using T = decltype(t);
    kernels::dropout<T>({drawn.numel(), mask, data<T>(drawn), data<T>(drawn)});
  });
  return drawn.to(x.device());
}

at::Tensor standard_normal(at::IntArrayRef sizes, const at::Device& device, uint64_t key) {
  const at::TensorOptions options = at::TensorOptions(at::kFloat);
  if (device.is_cuda()) return at::randn(sizes, cuda_generator(device, key), options.device(device));
  return at::randn(sizes, at::detail::createCPUGenerator(key), options).to(device);
}

}  // namespace

at::Tensor dropout(const at::Tensor& x, const kernels::DropoutMask& mask) {
  return mask.active() ? x * drawn_mask(x, mask) : x;
}

at::Tensor residual_layer_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& gamma,
                               const at::Tensor& beta, double eps, const kernels::DropoutMask& mask) {
  at::Tensor sum = dropout(x, mask);
  if (residual.defined()) sum = sum + residual;
  const at::ScalarType exact = exact_dtype(x);
  return at::layer_norm(sum.to(exact), {x.size(-1)}, gamma.to(exact), beta.to(exact), eps)
      .to(x.scalar_type());
}

NormedSum residual_rms_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& gamma,
                            double eps) {
  const at::Tensor sum = residual.defined() ? x + residual : x;
  const at::ScalarType exact = exact_dtype(x);
  const at::Tensor wide = sum.to(exact);
  const at::Tensor scale = at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps);
  return {(wide * scale * gamma.to(exact)).to(x.scalar_type()), sum};
}

at::Tensor activation(const at::Tensor& x, kernels::Activation kind) {
  switch (kind) {
    case kernels::Activation::kGelu:
      return at::gelu(x);
    case kernels::Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case kernels::Activation::kRelu:
      return at::relu(x);
    case kernels::Activation::kSilu:
      return at::silu(x);
    case kernels::Activation::kTanh:
      return at::tanh(x);
  }
  throw Error(ErrorCode::kUsage, "activation", "unknown activation");
}

at::Tensor gated_activation(const at::Tensor& gate, const at::Tensor& up, kernels::Activation kind) {
  return activation(gate, kind) * up;
}

at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, int64_t heads, int64_t head_dim,
                  const RotaryTable& table, kernels::RotaryPairs pairs) {
  const at::Tensor rows = positions.to(x.device(), at::kLong);
  const auto angles = [&](const at::Tensor& values) {
    return values.to(x.device(), exact_dtype(x)).index_select(0, rows).unsqueeze(1);  // [T, 1, half]
  };
  const at::Tensor cos = angles(table.cos), sin = angles(table.sin);
  const at::Tensor turned = x.narrow(1, 0, heads * head_dim).reshape({-1, heads, head_dim});
  const at::Tensor head = turned.narrow(2, 0, table.rotary_dim).to(exact_dtype(x));
  const bool is_halves = pairs == kernels::RotaryPairs::kHalves;
  const int64_t half = table.rotary_dim / 2;
  // [.., 2, half] or [.., half, 2]
  const at::Tensor in_pairs = is_halves ? head.view({-1, heads, 2, half}) : head.view({-1, heads, half, 2});
  const int64_t axis = is_halves ? 2 : 3;
  const at::Tensor a = in_pairs.select(axis, 0), b = in_pairs.select(axis, 1);
  const at::Tensor out =
      at::stack({a * cos - b * sin, b * cos + a * sin}, axis).view({-1, heads, table.rotary_dim});
  std::vector<at::Tensor> parts = {out.to(x.scalar_type())};
  if (table.rotary_dim < head_dim)
    parts.push_back(turned.narrow(2, table.rotary_dim, head_dim - table.rotary_dim));
  const at::Tensor whole = at::cat(parts, 2).reshape({-1, heads * head_dim});
  const int64_t rest = x.size(1) - heads * head_dim;
  return rest == 0 ? whole : at::cat({whole, x.narrow(1, heads * head_dim, rest)}, 1);
}

at::Tensor adapted_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                          const at::Tensor& down, const at::Tensor& up,
                          const std::vector<kernels::LowRankSlice>& slices, const WeightNoise& noise) {
  const at::ScalarType dtype = x.scalar_type();
  at::Tensor used = as(weight, dtype);
  if (noise.deviations.defined()) {
    const at::Tensor drawn = standard_normal(used.sizes(), x.device(), noise.key);
    used = used + as(drawn * noise.deviations.to(x.device()).unsqueeze(1), dtype);
  }
  at::Tensor y = detail::linear(x, used, bias.defined() ? as(bias, dtype) : bias);
  for (const kernels::LowRankSlice& slice : slices) {
    const int64_t rank = slice.end - slice.begin;
    const at::Tensor z = detail::linear(dropout(x, slice.mask), as(down.narrow(0, slice.begin, rank), dtype));
    y = y + detail::linear(z, as(up.narrow(1, slice.begin, rank), dtype));
  }
  return y;
}

at::Tensor cross_entropy_sum(const at::Tensor& logits, const at::Tensor& labels, double soft_cap) {
  at::Tensor exact = logits.to(exact_dtype(logits));
  if (soft_cap > 0) exact = at::tanh(exact / soft_cap) * soft_cap;
  return at::nll_loss(at::log_softmax(exact, 1), labels, {}, at::Reduction::Sum);
}

at::Tensor linear_cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight,
                                    const at::Tensor& bias, const at::Tensor& labels, int64_t chunk_rows,
                                    double soft_cap) {
  at::Tensor sum;
  for (int64_t begin = 0; begin < hidden.size(0); begin += chunk_rows) {
    const int64_t count = std::min(chunk_rows, hidden.size(0) - begin);
    const at::Tensor of_chunk = labels.narrow(0, begin, count);
    const auto loss = [weight, bias, of_chunk, soft_cap](const at::Tensor& rows) {
      const at::ScalarType dtype = rows.scalar_type();
      const at::Tensor logits =
          detail::linear(rows, as(weight, dtype), bias.defined() ? as(bias, dtype) : bias);
      return cross_entropy_sum(logits, of_chunk, soft_cap);
    };
    const at::Tensor part = recompute_in_backward(hidden.narrow(0, begin, count), loss);
    sum = sum.defined() ? sum + part : part;
  }
  return sum.defined() ? sum : at::zeros({}, hidden.options().dtype(exact_dtype(hidden)));
}

}  // namespace detail::composed
}  // namespace msplora
