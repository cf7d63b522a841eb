#include "nn/matmul.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <c10/core/GradMode.h>

#include <exception>

namespace msplora::detail {
namespace {

/// Asks libtorch: of 4,096 terms 1 + ulp every partial sum in a narrow type is off.
bool sums_are_wide(at::ScalarType dtype) {
  const c10::NoGradGuard no_grad;
  constexpr int64_t kTerms = 4096;
  const double term = 1.0 + (dtype == at::kHalf ? 0x1p-10 : 0x1p-7);
  const at::Tensor ones = at::full({64, kTerms}, 1.0, dtype), terms = at::full({kTerms, 64}, term, dtype);
  try {
    for (const int64_t rows : {1, 64}) {
      const at::Tensor sums = at::matmul(ones.narrow(0, 0, rows), terms);
      if (!(sums == term * kTerms).all().item<bool>()) return false;
    }
    return true;
  } catch (const std::exception&) {
    return false;  // it has no product of this type here
  }
}

/// The type that products of tensors like `x` are formed in.
at::ScalarType product_dtype(const at::Tensor& x) {
  const at::ScalarType dtype = x.scalar_type();
  if (!x.is_cpu() || (dtype != at::kBFloat16 && dtype != at::kHalf)) return dtype;
  static const bool bfloat16_is_wide = sums_are_wide(at::kBFloat16), half_is_wide = sums_are_wide(at::kHalf);
  const bool is_wide = dtype == at::kHalf ? half_is_wide : bfloat16_is_wide;
  return is_wide ? dtype : at::kFloat;
}

}  // namespace

at::Tensor matmul(const at::Tensor& a, const at::Tensor& b) {
  const at::ScalarType dtype = product_dtype(a);
  if (dtype == a.scalar_type()) return at::matmul(a, b);
  return at::matmul(a.to(dtype), b.to(dtype)).to(a.scalar_type());
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const at::ScalarType dtype = product_dtype(x);
  if (dtype == x.scalar_type()) return at::linear(x, weight, bias);
  return at::linear(x.to(dtype), weight.to(dtype), bias.defined() ? bias.to(dtype) : bias)
      .to(x.scalar_type());
}

}  // namespace msplora::detail
