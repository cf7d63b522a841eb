#include "nn/packed_linear.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "nn/packed_product.h"

namespace msplora::detail {
namespace {

const float* bias_data(const at::Tensor& bias) {
  return bias.defined() && bias.numel() > 0 ? bias.data_ptr<float>() : nullptr;
}

// Each half of the rows, and zeros up to `half` rows.
MatrixRows in_two_halves(const MatrixRows& matrix, int64_t half) {
  MatrixRows halves = matrix;
  halves.out = 2 * half;
  if (halves.out == matrix.out) return halves;
  halves.rows = [matrix, half](int64_t begin, int64_t end) {
    const int64_t width = matrix.out / 2;
    const at::Tensor zeros = at::zeros({half - width, matrix.in}, matrix.dtype);
    std::vector<at::Tensor> parts;
    for (int64_t first = 0; first < 2 * half; first += half) {
      const int64_t from = std::max(begin - first, int64_t{0}), to = std::min(end - first, half);
      const int64_t offset = first == 0 ? 0 : width;
      if (from < std::min(to, width))
        parts.push_back(matrix.rows(offset + from, offset + std::min(to, width)));
      if (std::max(from, width) < to) parts.push_back(zeros.narrow(0, 0, to - std::max(from, width)));
    }
    return at::cat(parts, 0);
  };
  if (!matrix.stored) return halves;
  halves.stored = [matrix, half](int64_t row) {
    const int64_t width = matrix.out / 2, in_half = row % half;
    return in_half < width ? matrix.stored(row / half * width + in_half) : StoredRow{};
  };
  return halves;
}

}  // namespace

PackedLinear::Origin::Origin(const Weight& weight)
    : weight(weight), version(weight.frozen() ? 0 : static_cast<uint32_t>(weight.tensor()._version())) {}

bool PackedLinear::Origin::is_of(const Weight& other) const {
  if (weight.frozen() || other.frozen()) return weight.frozen() == other.frozen();
  return other.tensor().is_same(weight.tensor()) &&
         static_cast<uint32_t>(other.tensor()._version()) == version;
}

c10::intrusive_ptr<PackedLinear> PackedLinear::make(const std::vector<const Weight*>& weights,
                                                    Gating gating) {
  const at::ScalarType dtype = weights.front()->dtype();
  const int64_t in = weights.front()->in_features();
  int64_t out = 0;
  std::vector<Origin> origins;
  for (const Weight* weight : weights) {
    const at::Tensor& tensor = weight->tensor();
    if (tensor.defined() && (!tensor.is_cpu() || !tensor.is_contiguous())) return {};
    out += weight->out_features();
    origins.emplace_back(*weight);
  }
  if (!packs_weights(dtype, out, in)) return {};
  return c10::intrusive_ptr<PackedLinear>::unsafe_steal_from_new(
      new PackedLinear(std::move(origins), out, in, dtype, gating));
}

PackedLinear::PackedLinear(std::vector<Origin> origins, int64_t out, int64_t in, at::ScalarType dtype,
                           Gating gating)
    : origins_(std::move(origins)), in_(in), out_(out) {
  MatrixRows matrix = stacked(out, in, dtype);
  if (gating == Gating::kHalves) {
    gated_width_ = out / 2;
    matrix = in_two_halves(matrix, packed_half(dtype, out, in));
    out_ = matrix.out;
  }
  product_ = suits_kernel_product(dtype, out, in) ? make_kernel_product(matrix) : make_onednn_product(matrix);
  for (const Origin& origin : origins_) {
    if (origin.weight.frozen()) origin.weight.frozen()->let_go();
  }
}

MatrixRows PackedLinear::stacked(int64_t out, int64_t in, at::ScalarType dtype) const {
  MatrixRows matrix{out, in, dtype, {}, {}};
  matrix.rows = [origins = origins_](int64_t begin, int64_t end) {
    std::vector<at::Tensor> parts;
    for (const Origin& origin : origins) {
      const int64_t count = origin.weight.out_features();
      if (begin < count && end > 0)
        parts.push_back(origin.weight.rows(std::max<int64_t>(0, begin), std::min(end, count)));
      begin -= count;
      end -= count;
    }
    return parts.size() == 1 ? parts.front() : at::cat(parts, 0);
  };
  const bool is_quantised = std::all_of(origins_.begin(), origins_.end(), [](const Origin& origin) {
    return origin.weight.frozen() && origin.weight.frozen()->stored_row(0).blocks != nullptr;
  });
  if (!is_quantised) return matrix;
  matrix.stored = [origins = origins_](int64_t row) {
    auto origin = origins.begin();
    for (; row >= origin->weight.out_features(); ++origin) row -= origin->weight.out_features();
    return origin->weight.frozen()->stored_row(row);
  };
  return matrix;
}

PackedLinear::~PackedLinear() = default;

int64_t PackedLinear::packed_half(at::ScalarType dtype, int64_t out, int64_t in) {
  if (!suits_kernel_product(dtype, out, in)) return out / 2;
  const kernels::Isa isa = kernels::active_isa();
  if (dtype == at::kBFloat16) return kernels::whole_panels<kernels::Bfloat16>(isa, out / 2);
  return kernels::whole_panels<float>(isa, out / 2, kernels::matmul_precision(isa));
}

void PackedLinear::run(const at::Tensor& x, Direction direction, ProductCall call) const {
  call.x = x.data_ptr();
  call.rows = x.size(0);
  product_->run(direction, call);
}

void PackedLinear::forward_into(const at::Tensor& x, const at::Tensor& bias, const at::Tensor& y,
                                const LowRankSum* update) const {
  ProductCall call;
  call.bias = bias_data(bias);
  call.y = y.data_ptr();
  call.update = update;
  run(x, Direction::kForward, call);
}

void PackedLinear::activated_into(const at::Tensor& x, const at::Tensor& bias, kernels::Activation activation,
                                  const at::Tensor& y, const at::Tensor& derivative) const {
  ProductCall call;
  call.bias = bias_data(bias);
  call.y = y.data_ptr();
  call.activation = &activation;
  if (derivative.defined()) call.derivative = derivative.data_ptr();
  run(x, Direction::kForward, call);
}

void PackedLinear::backward_into(const at::Tensor& dy, const at::Tensor& dx, bool add,
                                 const LowRankSum* update) const {
  ProductCall call;
  call.update = update;
  call.y = dx.data_ptr();
  call.add = add;
  run(dy, Direction::kBackward, call);
}

void PackedLinear::backward_times(const at::Tensor& dy, const at::Tensor& factor,
                                  const at::Tensor& dx) const {
  ProductCall call;
  call.y = dx.data_ptr();
  call.factor = factor.data_ptr();
  run(dy, Direction::kBackward, call);
}

void PackedLinear::gated_into(const at::Tensor& x, const at::Tensor& bias, kernels::Activation activation,
                              const at::Tensor& y, const at::Tensor& derivative,
                              const LowRankSum* update) const {
  ProductCall call;
  call.bias = bias_data(bias);
  call.y = y.data_ptr();
  call.activation = &activation;
  call.derivative = derivative.data_ptr();
  call.update = update;
  call.gated_width = gated_width_;
  run(x, Direction::kForward, call);
}

void PackedLinear::backward_halves(const at::Tensor& dy, const at::Tensor& factor,
                                   const at::Tensor& dx) const {
  ProductCall call;
  call.y = dx.data_ptr();
  call.factor = factor.data_ptr();
  call.half_width = factor.size(1) / 2;
  run(dy, Direction::kBackward, call);
}

at::Tensor PackedLinear::in_halves(const at::Tensor& bias) const {
  if (bias_data(bias) == nullptr || bias.size(0) == out_) return bias;
  const at::Tensor zeros = at::zeros({out_ / 2 - gated_width_}, bias.options());
  return at::cat({bias.narrow(0, 0, gated_width_), zeros, bias.narrow(0, gated_width_, gated_width_), zeros});
}

at::Tensor PackedLinear::forward(const at::Tensor& x, const at::Tensor& bias,
                                 const LowRankSum* update) const {
  const at::Tensor y = at::empty({x.size(0), out_}, x.options());
  forward_into(x, bias, y, update);
  return y;
}

at::Tensor PackedLinear::backward(const at::Tensor& dy, const LowRankSum* update) const {
  const at::Tensor dx = at::empty({dy.size(0), in_}, dy.options());
  backward_into(dy, dx, /*add=*/false, update);
  return dx;
}

at::Tensor PackedLinear::backward_onto(const at::Tensor& dy, const at::Tensor& others,
                                       const LowRankSum* update) const {
  if (!others.defined()) return backward(dy, update);
  const at::Tensor dx = others.contiguous();
  backward_into(dy, dx, /*add=*/true, update);
  return dx;
}

bool PackedLinear::is_of(const std::vector<const Weight*>& weights, Gating gating) const {
  if ((gated_width_ > 0) != (gating == Gating::kHalves)) return false;
  return std::equal(origins_.begin(), origins_.end(), weights.begin(), weights.end(),
                    [](const Origin& origin, const Weight* weight) { return origin.is_of(*weight); });
}

c10::intrusive_ptr<PackedLinear> KeptProduct::of(const std::vector<const Weight*>& weights, Gating gating) {
  const std::lock_guard lock(mutex_);
  if (!kept_ || !kept_->is_of(weights, gating)) kept_ = PackedLinear::make(weights, gating);
  return kept_;
}

}  // namespace msplora::detail

namespace msplora {

bool packs_weights(at::ScalarType dtype, int64_t out, int64_t in) {
  constexpr int64_t kSmallest = 64 * 64;  // elements; smaller matrices stay in cache anyway
  if (dtype != at::kFloat && dtype != at::kBFloat16) return false;
  return out * in >= kSmallest &&
         (detail::suits_kernel_product(dtype, out, in) || detail::suits_onednn_product(dtype));
}

}  // namespace msplora
