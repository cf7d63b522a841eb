#include "adapters/initial_factors.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <cstdint>
#include <string>
#include <tuple>

#include <cmath>

#include "adapters/initial.h"
#include "msplora/core/random.h"

namespace msplora::detail {
namespace {

template <typename Draw>
at::Tensor filled(int64_t rows, int64_t columns, const Draw& draw) {
  at::Tensor tensor = at::empty({rows, columns}, at::kDouble);
  double* values = tensor.data_ptr<double>();
  for (int64_t i = 0; i < rows * columns; ++i) values[i] = draw();
  return tensor;
}

at::Tensor normals(int64_t rows, int64_t columns, uint64_t seed, const std::string& name) {
  RandomStream stream(seed, name);
  return filled(rows, columns, [&] { return stream.normal(); });
}

at::Tensor random_down(const FactorRequest& request, int64_t in) {
  RandomStream stream(request.seed, request.down_name);
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  const double deviation = 1.0 / static_cast<double>(request.rank);
  if (request.init == "gaussian") {
    return filled(request.rank, in, [&] { return stream.normal() * deviation; });
  }
  return filled(request.rank, in, [&] { return (2.0 * stream.uniform() - 1.0) * bound; });
}

Factors pissa(const FactorRequest& request, const at::Tensor& weight) {
  const auto [u, s, vh] = at::linalg_svd(weight, /*full_matrices=*/false);
  const at::Tensor root = (s.slice(0, 0, request.rank) / request.scaling).sqrt();
  return {vh.slice(0, 0, request.rank) * root.unsqueeze(1), u.slice(1, 0, request.rank) * root};
}

Factors olora(const FactorRequest& request, const at::Tensor& weight) {
  const auto [q, r] = at::linalg_qr(weight);
  return {r.slice(0, 0, request.rank), q.slice(1, 0, request.rank)};
}

Factors orthogonal(const FactorRequest& request, const Site& site) {
  const int64_t half = request.rank / 2;
  const auto draw = [&](int64_t rows, int64_t columns, const char* part) {
    return normals(rows, columns, request.seed, fmt::format("{} {}", request.down_name, part));
  };
  const at::Tensor q = std::get<0>(at::linalg_qr(draw(request.rank, request.rank, "rotation")));
  const at::Tensor odd = q.slice(0, 0, request.rank, 2), even = q.slice(0, 1, request.rank, 2);
  return {at::mm(draw(site.in_features, half, "inputs"), odd).t() / 10.0,
          at::mm(draw(half, site.out_features, "outputs").t(), even) / 10.0};
}

}  // namespace

bool is_weight_init(const std::string& init) {
  return init == "pissa" || init == "olora";
}

Factors zero_factors(int64_t rank, const Site& site) {
  const at::TensorOptions options = factor_options(site);
  return {at::zeros({rank, site.in_features}, options), at::zeros({site.out_features, rank}, options)};
}

Factors initial_factors(const FactorRequest& request, const Site& site) {
  const c10::NoGradGuard no_grad;
  const at::TensorOptions options = factor_options(site);
  Factors factors;
  if (is_weight_init(request.init)) {
    const at::Tensor weight = site.linear->weight->values().detach().to(options);
    factors = request.init == "pissa" ? pissa(request, weight) : olora(request, weight);
  } else if (request.init == "orthogonal") {
    factors = orthogonal(request, site);
  } else if (site.role == LinearRole::kWords) {
    factors = zero_factors(request.rank, site);
    factors.up = normals(site.out_features, request.rank, request.seed, request.down_name);
  } else {
    factors = zero_factors(request.rank, site);
    factors.down = random_down(request, site.in_features);
  }
  // Copies, so that no factor is a view of a decomposition.
  const auto own = [&](const at::Tensor& tensor) { return at::empty(tensor.sizes(), options).copy_(tensor); };
  return {own(factors.down), own(factors.up)};
}

}  // namespace msplora::detail
