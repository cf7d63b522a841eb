#pragma once

#include "kernels/table.h"

/// The kernels as plain loops in float64: what the fast ones are tested against, and what runs in float64.
/// mean, rstd, inverse and lse stay float arrays in the interface; backward computes them again to keep its
/// precision.
namespace msplora::kernels::ref {

extern const Table<double> kTable;

#define MSPLORA_KERNEL(name, Op) void name(const Op<double>& op);
MSPLORA_KERNELS
#undef MSPLORA_KERNEL

/// 0 or scale for element e, straight from the definition in types.h; 1 without a mask.
double mask_factor(const DropoutMask& mask, int64_t element);

/// The standard normal of (key, row, column), straight from the definition of RowNoise in kernels.h.
double normal(uint64_t key, int64_t row, int64_t column);

double activation(Activation kind, double x);
double activation_derivative(Activation kind, double x);

}  // namespace msplora::kernels::ref
