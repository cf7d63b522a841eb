#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace msplora::detail {

/// A pair for the factors of W' = W + s B A: the factors themselves, their gradients or their steps.
struct FactorMatrices {
  at::Tensor down;  // A's, [r, in]
  at::Tensor up;    // B's, [out, r]
};

/// Which of the steps with the same effect on W' is taken (the matrix X of the formula below).
enum class GradientSplit {
  kSylvester,  // nearest to the factors' own gradients: BᵀB X + X AAᵀ = -(BᵀB)⁻¹ gA Aᵀ / s²
  kSymmetric,  // both factors carry half of what they share: X = -(BᵀB)⁻¹ Bᵀ gB (AAᵀ)⁻¹ / (2 s²)
  kZero,
};
/// Of "sylvester", "symmetric", "zero".
GradientSplit parse_gradient_split(const std::string& name);

/// What is added to the eigenvalues of BᵀB and AAᵀ before they are inverted.
struct Damping {
  double absolute = 1e-8;
  double relative = 0.0;  // of the mean eigenvalue; above 0 it replaces the absolute one
};

/// LoRA-Pro (arXiv 2407.18242): the step of the factors whose effect on W', s B hA + s hB A, is the nearest
/// to the gradient of W' itself, computed from the gradients (gA, gB) of the factors alone:
///   hA = (BᵀB)⁻¹ gA / s² + X A,      hB = (I - B (BᵀB)⁻¹ Bᵀ) gB (AAᵀ)⁻¹ / s² - B X
/// X cancels in the effect, which is the projection P_B G + G P_A - P_B G P_A. B = 0 is allowed: hA = 0 then.
/// Float64 whatever comes in; O((in + out) r² + r³).
FactorMatrices equivalent_gradients(const FactorMatrices& factors, const FactorMatrices& gradients,
                                    double scaling, GradientSplit split, const Damping& damping);

/// The change of W' that a step of the factors makes, to first order: s B hA + s hB A, in the dtype of
/// `factors`.
at::Tensor weight_change(const FactorMatrices& factors, const FactorMatrices& step, double scaling);

}  // namespace msplora::detail
