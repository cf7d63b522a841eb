#pragma once

#include "kernels/table.h"

/// The kernels as plain loops, for float and double: what the fast ones are tested against, and what runs in
/// float64. mean, rstd and lse stay float arrays in the interface; the double build keeps its own precision
/// by computing them again in backward.
namespace msplora::kernels::ref {

const KernelTable<double>& double_table();
const KernelTable<float>& float_table();

/// 0 or scale for element e, straight from the definition in kernels.h.
double mask_factor(const DropoutMask& mask, uint64_t element);

/// The standard normal of (key, row, column), straight from the definition of RowNoise in kernels.h.
double normal(uint64_t key, int64_t row, int64_t column);

}  // namespace msplora::kernels::ref
