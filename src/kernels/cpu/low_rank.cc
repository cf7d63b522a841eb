// Low-rank products with vectors: factors in float, x converted on the way.
#include "kernels/cpu/low_rank_blocks.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

// c[i, j] = mask(x_i) . b_j for Rows rows of x and Columns rows of b.
template <int Rows, int Columns, bool Masked, typename T>
MSPLORA_INLINE void dot_tile(RowView<const T> x, const MaskBits* masks, const float* b, int64_t wide,
                             float* c, int64_t ldc) {
  VecF acc[Rows][Columns];
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Columns; ++j) acc[i][j] = splat(0.0f);
  MaskBits mask[Rows];
  for (int i = 0; i < Rows; ++i) mask[i] = masks[i];
  const auto add = [&]<bool Tail>(int64_t p) __attribute__((always_inline)) {
    VecF row[Columns];
    for (int j = 0; j < Columns; ++j) row[j] = load(b + j * wide + p);
    for (int i = 0; i < Rows; ++i) {
      const VecF value = read<Masked, Tail>(x.row(i), mask[i], p, x.width);
      for (int j = 0; j < Columns; ++j) acc[i][j] += value * row[j];
    }
  };
  int64_t p = 0;
  for (; p + kLanes <= x.width; p += kLanes) add.template operator()<false>(p);
  if (p < x.width) add.template operator()<true>(p);
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Columns; ++j) c[i * ldc + j] = sum_lanes(acc[i][j]);
}

struct VectorProducts {
  struct Session {};
  static int64_t prepared_size(int64_t /*rank*/, int64_t /*wide*/) { return 0; }
  static void prepare(const float* /*padded*/, int64_t /*rank*/, int64_t /*wide*/, float* /*to*/) {}

  template <bool Masked, typename T>
  static void dots(RowView<const T> x, int64_t rows, const MaskBits* masks, const FactorRows& factors,
                   int64_t begin, int64_t end, float* c, int64_t ldc) {
    for_groups<8>(begin, end, [&]<int Columns>(int64_t j) {
      for_groups<Columns == 8 ? 2 : 4>(0, rows, [&]<int Count>(int64_t i) {
        dot_tile<Count, Columns, Masked, T>(x.from(i), masks + i, factors.padded + j * factors.wide,
                                            factors.wide, c + i * ldc + j, ldc);
      });
    });
  }

  template <bool Masked, typename T>
  static void add_outer(RowView<const T> x, int64_t rows, const MaskBits* masks, const float* factors,
                        int64_t ldf, int64_t count, float* sums, int64_t wide) {
    for_groups<8>(0, count, [&]<int Ranks>(int64_t r) {
      for_columns<Ranks == 8 ? 2 : 4>(x.width, [&]<int Vectors, bool Tail>(int64_t column) {
        VecF acc[Ranks][Vectors];
        for (int k = 0; k < Ranks; ++k)
          for (int j = 0; j < Vectors; ++j) acc[k][j] = load(sums + (r + k) * wide + column + j * kLanes);
        for (int64_t t = 0; t < rows; ++t) {
          for (int j = 0; j < Vectors; ++j) {
            const int64_t at = column + j * kLanes;
            const VecF value = read<Masked, Tail>(x.row(t), masks[t], at, x.width);
            for (int k = 0; k < Ranks; ++k) acc[k][j] += factors[t * ldf + r + k] * value;
          }
        }
        for (int k = 0; k < Ranks; ++k)
          for (int j = 0; j < Vectors; ++j) store(sums + (r + k) * wide + column + j * kLanes, acc[k][j]);
      });
    });
  }
};

}  // namespace

template <typename T>
void low_rank(const LowRank<T>& op) {
  run_low_rank<VectorProducts>(op);
}
template <typename T>
void low_rank_backward(const LowRankBackward<T>& op) {
  run_low_rank_backward<VectorProducts>(op);
}

MSPLORA_DEFINED(low_rank, LowRank)
MSPLORA_DEFINED(low_rank_backward, LowRankBackward)

}  // namespace msplora::kernels::MSPLORA_ISA
