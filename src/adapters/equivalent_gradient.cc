#include "adapters/equivalent_gradient.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <limits>
#include <tuple>

namespace msplora::detail {
namespace {

/// values ascending, not negative; matrix = vectors diag(values) vectorsᵀ.
struct Spectrum {
  at::Tensor values, vectors;
};

Spectrum spectrum_of(const at::Tensor& gram) {
  const auto [values, vectors] = at::linalg_eigh(gram);
  return {values.clamp_min(0.0), vectors};
}

/// 1 / x, and 0 where x is nothing but rounding (a pseudo-inverse).
at::Tensor pseudo_reciprocal(const at::Tensor& x) {
  const double floor =
      x.max().item<double>() * static_cast<double>(x.numel()) * std::numeric_limits<double>::epsilon();
  return at::where(x > floor, x.reciprocal(), at::zeros_like(x));
}

at::Tensor inverse(const Spectrum& spectrum, const Damping& damping) {
  const at::Tensor added = damping.relative > 0 ? spectrum.values.mean() * damping.relative
                                                : at::full({}, damping.absolute, spectrum.values.options());
  return at::mm(spectrum.vectors * pseudo_reciprocal(spectrum.values + added), spectrum.vectors.t());
}

/// The X with P X + X Q = C.
at::Tensor solve_sylvester(const Spectrum& p, const Spectrum& q, const at::Tensor& c) {
  const at::Tensor rotated = at::mm(at::mm(p.vectors.t(), c), q.vectors);
  const at::Tensor sums = p.values.unsqueeze(1) + q.values.unsqueeze(0);
  return at::mm(at::mm(p.vectors, rotated * pseudo_reciprocal(sums)), q.vectors.t());
}

}  // namespace

GradientSplit parse_gradient_split(const std::string& name) {
  if (name == "symmetric") return GradientSplit::kSymmetric;
  return name == "zero" ? GradientSplit::kZero : GradientSplit::kSylvester;
}

FactorMatrices equivalent_gradients(const FactorMatrices& factors, const FactorMatrices& gradients,
                                    double scaling, GradientSplit split, const Damping& damping) {
  const at::Tensor a = factors.down.to(at::kDouble), b = factors.up.to(at::kDouble);
  const at::Tensor ga = gradients.down.to(at::kDouble), gb = gradients.up.to(at::kDouble);
  const double inverse_square = 1.0 / (scaling * scaling);
  const Spectrum q = spectrum_of(at::mm(a, a.t()));
  const at::Tensor q_inverse = inverse(q, damping);
  const at::Tensor right = at::mm(gb, q_inverse) * inverse_square;
  if (!b.any().item<bool>()) return {at::zeros_like(a), right};

  const Spectrum p = spectrum_of(at::mm(b.t(), b));
  const at::Tensor p_inverse = inverse(p, damping);
  const at::Tensor shared = at::mm(p_inverse, at::mm(b.t(), right));  // (BᵀB)⁻¹ Bᵀ gB (AAᵀ)⁻¹ / s²
  const at::Tensor left = at::mm(p_inverse, ga) * inverse_square;
  const at::Tensor rest = right - at::mm(b, shared);
  if (split == GradientSplit::kZero) return {left, rest};
  const at::Tensor x =
      split == GradientSplit::kSymmetric ? shared * -0.5 : solve_sylvester(p, q, at::mm(left, a.t()).neg());
  return {left + at::mm(x, a), rest - at::mm(b, x)};
}

at::Tensor weight_change(const FactorMatrices& factors, const FactorMatrices& step, double scaling) {
  const at::ScalarType dtype = factors.down.scalar_type();
  at::Tensor change = at::mm(factors.up, step.down.to(dtype));
  change.addmm_(step.up.to(dtype), factors.down);
  return change.mul_(scaling);
}

}  // namespace msplora::detail
