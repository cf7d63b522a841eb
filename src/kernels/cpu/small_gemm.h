#pragma once

// Products of small float matrices that stay in cache, inside other kernels.

#include "kernels/cpu/simd.h"

namespace msplora::kernels::MSPLORA_ISA {

// C[m, n] = (add ? C : 0) + A[m, k] B[k, n]. A is read one scalar at a time with any strides; rows of B and C
// are padded to whole vectors of 16 floats, so n is a multiple of 16.
template <int Rows, int Vectors>
MSPLORA_INLINE void gemm_tile(int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b,
                              int64_t ldb, float* c, int64_t ldc, bool add) {
  VecF acc[Rows][Vectors];
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Vectors; ++j) acc[i][j] = add ? load(c + i * ldc + j * kLanes) : splat(0.0f);
  for (int64_t p = 0; p < k; ++p) {
    VecF row[Vectors];
    for (int j = 0; j < Vectors; ++j) row[j] = load(b + p * ldb + j * kLanes);
    for (int i = 0; i < Rows; ++i) {
      const VecF factor = splat(a[i * a_row + p * a_col]);
      for (int j = 0; j < Vectors; ++j) acc[i][j] += factor * row[j];
    }
  }
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Vectors; ++j) store(c + i * ldc + j * kLanes, acc[i][j]);
}

template <int Rows>
inline void gemm_rows(int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col, const float* b,
                      int64_t ldb, float* c, int64_t ldc, bool add) {
  constexpr int kWide = 4;
  int64_t j = 0;
  for (; j + kWide * kLanes <= n; j += kWide * kLanes)
    gemm_tile<Rows, kWide>(k, a, a_row, a_col, b + j, ldb, c + j, ldc, add);
  for (; j < n; j += kLanes) gemm_tile<Rows, 1>(k, a, a_row, a_col, b + j, ldb, c + j, ldc, add);
}

inline void gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col,
                 const float* b, int64_t ldb, float* c, int64_t ldc, bool add) {
  constexpr int kRows = kLanes == 16 ? 6 : (kLanes == 8 ? 3 : 2);  // accumulators that fit the register file
  int64_t i = 0;
  for (; i + kRows <= m; i += kRows)
    gemm_rows<kRows>(n, k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, add);
  for (; i < m; ++i) gemm_rows<1>(n, k, a + i * a_row, a_row, a_col, b, ldb, c + i * ldc, ldc, add);
}

}  // namespace msplora::kernels::MSPLORA_ISA
