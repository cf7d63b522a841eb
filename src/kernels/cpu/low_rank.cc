// Blocks of rows of x pass through all slices while they lie in cache, multiplied with the factors in float.
// Masks are drawn again in backward.
#include <omp.h>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/mask.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

constexpr int64_t kRowBlock = 16;  // rows handled at a time
constexpr int kRowMaskSlot = 16, kMaskSlot = 18, kDzSlot = 19, kDownSlot = 20, kUpSlot = 21;

int64_t round_up(int64_t n) {
  return (n + 15) / 16 * 16;
}

// Copies of factors with rows padded to whole vectors: [rank, width] -> [rank, round_up(width)].
void pad_rows(const float* from, int64_t rows, int64_t width, float* to) {
  const int64_t padded = round_up(width);
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(to + r * padded, from + r * width, sizeof(float) * static_cast<size_t>(width));
    for (int64_t i = width; i < padded; ++i) to[r * padded + i] = 0.0f;
  }
}

// Reads rows of x where they lie: converted and masked on the way into a product. Without dropout everything
// is kept.
struct RowMask {
  MaskBits bits;
  float scale = 1.0f;

  template <bool Masked>
  VecF apply(VecF value, int64_t i) const {
    return Masked ? keep(value * scale, bits, i) : value;
  }
};

// Elements i .. of a row of `width`; what lies beyond is zero.
template <bool Tail, typename T>
MSPLORA_INLINE VecF read(const T* row, int64_t i, int64_t width) {
  return Tail ? load_part(row + i, static_cast<int>(width - i)) : load(row + i);
}
template <bool Tail, typename T>
MSPLORA_INLINE void add_to(T* row, int64_t i, int64_t width, VecF value) {
  if (Tail) {
    const int count = static_cast<int>(width - i);
    store_part(row + i, load_part(row + i, count) + value, count);
  } else {
    store(row + i, load(row + i) + value);
  }
}

// Runs body(column, number of vectors, is the end of the row) over all columns, at most Most vectors at a
// time.
template <int Most, typename Body>
MSPLORA_INLINE void for_columns(int64_t width, const Body& body) {
  int64_t j = 0;
  for (; j + Most * kLanes <= width; j += Most * kLanes) body.template operator()<Most, false>(j);
  for (; j + kLanes <= width; j += kLanes) body.template operator()<1, false>(j);
  if (j < width) body.template operator()<1, true>(j);
}

// Runs body(first index, number of indices) over [begin, end), at most Most at a time.
template <int Most, typename Body>
MSPLORA_INLINE void for_groups(int64_t begin, int64_t end, const Body& body) {
  for (; begin + Most <= end; begin += Most) body.template operator()<Most>(begin);
  if constexpr (Most > 1) for_groups<Most / 2>(begin, end, body);
}

// c[i, j] = mask(x_i) . b_j for Rows rows of x and Columns rows of b.
template <int Rows, int Columns, bool Masked, typename T>
MSPLORA_INLINE void dot_tile(const T* x, int64_t width, const RowMask* masks, const float* b, int64_t wide,
                             float* c, int64_t ldc) {
  VecF acc[Rows][Columns];
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Columns; ++j) acc[i][j] = splat(0.0f);
  RowMask mask[Rows];
  for (int i = 0; i < Rows; ++i) mask[i] = masks[i];
  const auto add = [&]<bool Tail>(int64_t p) __attribute__((always_inline)) {
    VecF row[Columns];
    for (int j = 0; j < Columns; ++j) row[j] = load(b + j * wide + p);
    for (int i = 0; i < Rows; ++i) {
      const VecF value = mask[i].template apply<Masked>(read<Tail>(x + i * width, p, width), p);
      for (int j = 0; j < Columns; ++j) acc[i][j] += value * row[j];
    }
  };
  int64_t p = 0;
  for (; p + kLanes <= width; p += kLanes) add.template operator()<false>(p);
  if (p < width) add.template operator()<true>(p);
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Columns; ++j) c[i * ldc + j] = sum_lanes(acc[i][j]);
}

// c[rows, columns] = mask(x) bᵀ.
template <bool Masked, typename T>
void dots(const T* x, int64_t width, int64_t rows, const RowMask* masks, const float* b, int64_t wide,
          int64_t columns, float* c, int64_t ldc) {
  for_groups<8>(0, columns, [&]<int Columns>(int64_t j) {
    for_groups<Columns == 8 ? 2 : 4>(0, rows, [&]<int Rows>(int64_t i) {
      dot_tile<Rows, Columns, Masked>(x + i * width, width, masks + i, b + j * wide, wide, c + i * ldc + j,
                                      ldc);
    });
  });
}

// sums[r, :] += Σ_t factors[t, r] mask(x_t) for `count` rows of sums.
template <bool Masked, typename T>
void add_outer(const T* x, int64_t width, int64_t rows, const RowMask* masks, const float* factors,
               int64_t ldf, int64_t count, float* sums, int64_t wide) {
  for_groups<8>(0, count, [&]<int Ranks>(int64_t r) {
    for_columns<Ranks == 8 ? 2 : 4>(width, [&]<int Vectors, bool Tail>(int64_t column) {
      VecF acc[Ranks][Vectors];
      for (int k = 0; k < Ranks; ++k)
        for (int j = 0; j < Vectors; ++j) acc[k][j] = load(sums + (r + k) * wide + column + j * kLanes);
      for (int64_t t = 0; t < rows; ++t) {
        for (int j = 0; j < Vectors; ++j) {
          const int64_t at = column + j * kLanes;
          const VecF value = masks[t].template apply<Masked>(read<Tail>(x + t * width, at, width), at);
          for (int k = 0; k < Ranks; ++k) acc[k][j] += factors[t * ldf + r + k] * value;
        }
      }
      for (int k = 0; k < Ranks; ++k)
        for (int j = 0; j < Vectors; ++j) store(sums + (r + k) * wide + column + j * kLanes, acc[k][j]);
    });
  });
}

template <typename T>
struct Block {
  const LowRank<T>& op;
  int64_t wide_in, wide_out;
  const float *down, *up_t;  // padded
  RowMask* masks;            // [num_slices, kRowBlock]
};

// acc = z_s b_s for the ranks [begin, end).
template <int Rows, int Vectors>
MSPLORA_INLINE void product_tile(const LowRankSlice& slice, const float* z, int64_t ldz, const float* b,
                                 int64_t wide, VecF (&acc)[Rows][Vectors]) {
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Vectors; ++j) acc[i][j] = splat(0.0f);
  for (int64_t r = slice.begin; r < slice.end; ++r) {
    VecF row[Vectors];
    for (int j = 0; j < Vectors; ++j) row[j] = load(b + r * wide + j * kLanes);
    for (int i = 0; i < Rows; ++i) {
      const VecF factor = splat(z[i * ldz + r]);
      for (int j = 0; j < Vectors; ++j) acc[i][j] += factor * row[j];
    }
  }
}

// y_t += Σ_r z[t, r] b_r over all ranks.
template <typename T>
void add_products(int64_t rank, const float* z, int64_t rows, const float* b, int64_t wide, T* y,
                  int64_t width) {
  const LowRankSlice whole = {0, rank, {}};
  for_columns<4>(width, [&]<int Vectors, bool Tail>(int64_t column) {
    for_groups<4>(0, rows, [&]<int Rows>(int64_t t) {
      VecF acc[Rows][Vectors];
      product_tile(whole, z + t * rank, rank, b + column, wide, acc);
      for (int i = 0; i < Rows; ++i)
        for (int j = 0; j < Vectors; ++j)
          add_to<Tail>(y + (t + i) * width, column + j * kLanes, width, acc[i][j]);
    });
  });
}

// y_t += Σ over slices of mask_t(Σ_r z[t, r] b_r), all slices added before the one rounding of y.
template <typename T>
void add_masked_products(const Block<T>& block, const float* z, int64_t rows, T* y) {
  const LowRank<T>& op = block.op;
  for_columns<2>(op.in, [&]<int Vectors, bool Tail>(int64_t column) {
    for_groups<4>(0, rows, [&]<int Rows>(int64_t t) {
      VecF total[Rows][Vectors], acc[Rows][Vectors];
      for (int i = 0; i < Rows; ++i)
        for (int j = 0; j < Vectors; ++j) total[i][j] = splat(0.0f);
      for (int64_t s = 0; s < op.num_slices; ++s) {
        product_tile(op.slices[s], z + t * op.rank, op.rank, block.down + column, block.wide_in, acc);
        const RowMask* masks = block.masks + s * kRowBlock + t;
        const bool masked = op.slices[s].mask.active();
        for (int i = 0; i < Rows; ++i)
          for (int j = 0; j < Vectors; ++j)
            total[i][j] += masked ? masks[i].template apply<true>(acc[i][j], column + j * kLanes) : acc[i][j];
      }
      for (int i = 0; i < Rows; ++i)
        for (int j = 0; j < Vectors; ++j)
          add_to<Tail>(y + (t + i) * op.in, column + j * kLanes, op.in, total[i][j]);
    });
  });
}

// Draws the masks of rows [first, first + rows) of every slice.
template <typename T>
void draw(const Block<T>& b, int64_t first, int64_t rows) {
  const int64_t room = mask_words(kRowBlock * b.op.in);
  auto* words = reinterpret_cast<uint64_t*>(thread_scratch(kMaskSlot, 2 * room * b.op.num_slices));
  for (int64_t s = 0; s < b.op.num_slices; ++s) {
    const DropoutMask& mask = b.op.slices[s].mask;
    const MaskBits all =
        mask.active() ? draw_row(mask, first * b.op.in, rows * b.op.in, words + s * room) : MaskBits();
    for (int64_t t = 0; t < rows; ++t)
      b.masks[s * kRowBlock + t] = {all.from(t * b.op.in), static_cast<float>(mask.scale())};
  }
}

constexpr RowMask kNoMasks[kRowBlock] = {};

template <typename T>
void forward_block(const Block<T>& b, int64_t first, int64_t rows) {
  float* z = b.op.z + first * b.op.rank;
  draw(b, first, rows);
  for (int64_t s = 0; s < b.op.num_slices; ++s) {
    const LowRankSlice& slice = b.op.slices[s];
    const auto run = slice.mask.active() ? dots<true, T> : dots<false, T>;
    run(b.op.x + first * b.op.in, b.op.in, rows, b.masks + s * kRowBlock, b.down + slice.begin * b.wide_in,
        b.wide_in, slice.end - slice.begin, z + slice.begin, b.op.rank);
  }
  add_products(b.op.rank, z, rows, b.up_t, b.wide_out, b.op.y + first * b.op.out, b.op.out);
}

// The thread's sums of the gradients, [rank, wide_in] and [rank, wide_out].
struct Sums {
  float *down, *up_t, *dz;
};

template <typename T>
void backward_block(const LowRankBackward<T>& op, const Block<T>& b, const Sums& sums, int64_t first,
                    int64_t rows) {
  const int64_t rank = b.op.rank, in = b.op.in, out = b.op.out;
  const T* dy = op.dy + first * out;
  draw(b, first, rows);
  dots<false>(dy, out, rows, kNoMasks, b.up_t, b.wide_out, rank, sums.dz, rank);
  add_outer<false>(dy, out, rows, kNoMasks, b.op.z + first * rank, rank, rank, sums.up_t, b.wide_out);
  bool masked = false;
  for (int64_t s = 0; s < b.op.num_slices; ++s) {
    const LowRankSlice& slice = b.op.slices[s];
    masked |= slice.mask.active();
    const auto run = slice.mask.active() ? add_outer<true, T> : add_outer<false, T>;
    run(b.op.x + first * in, in, rows, b.masks + s * kRowBlock, sums.dz + slice.begin, rank,
        slice.end - slice.begin, sums.down + slice.begin * b.wide_in, b.wide_in);
  }
  if (op.dx == nullptr) return;
  if (masked) return add_masked_products(b, sums.dz, rows, op.dx + first * in);
  add_products(rank, sums.dz, rows, b.down, b.wide_in, op.dx + first * in, in);
}

int threads_for(int64_t rows, int64_t width) {
  return rows * width > kParallelElements ? omp_get_max_threads() : 1;
}

// Rows [begin, end) of one thread, whole blocks.
struct Range {
  int64_t begin, end;
};
Range range_of(int64_t rows, int64_t threads, int64_t thread) {
  const int64_t blocks = (rows + kRowBlock - 1) / kRowBlock;
  const int64_t end = blocks * (thread + 1) / threads * kRowBlock;
  return {blocks * thread / threads * kRowBlock, end < rows ? end : rows};
}

template <typename T>
Block<T> make_block(const LowRank<T>& op, const float* down, const float* up_t) {
  const int64_t wide_in = round_up(op.in), wide_out = round_up(op.out);
  return {op,
          wide_in,
          wide_out,
          down,
          up_t,
          reinterpret_cast<RowMask*>(
              thread_scratch(kRowMaskSlot, op.num_slices * kRowBlock * sizeof(RowMask) / sizeof(float)))};
}

// parts[0] += parts[1] + ..., in order; then without padding to `to`.
void reduce(float* parts, int64_t count, int64_t rows, int64_t width, float* to) {
  const int64_t padded = round_up(width), size = rows * padded;
#pragma omp parallel for schedule(static) if (count > 1 && size > kParallelElements)
  for (int64_t r = 0; r < rows; ++r) {
    float* row = parts + r * padded;
    for (int64_t part = 1; part < count; ++part)
      for (int64_t i = 0; i < padded; i += kLanes)
        store(row + i, load(row + i) + load(row + part * size + i));
    std::memcpy(to + r * width, row, sizeof(float) * static_cast<size_t>(width));
  }
}

}  // namespace

template <typename T>
void low_rank(const LowRank<T>& op) {
  const int64_t wide_in = round_up(op.in), wide_out = round_up(op.out);
  float* down = thread_scratch(kDownSlot, op.rank * wide_in);
  float* up_t = thread_scratch(kUpSlot, op.rank * wide_out);
  pad_rows(op.down, op.rank, op.in, down);
  pad_rows(op.up_t, op.rank, op.out, up_t);
  const int threads = threads_for(op.rows, op.in);
#pragma omp parallel num_threads(threads)
  {
    const Block<T> block = make_block(op, down, up_t);
    const Range range = range_of(op.rows, threads, omp_get_thread_num());
    for (int64_t t = range.begin; t < range.end; t += kRowBlock)
      forward_block(block, t, range.end - t < kRowBlock ? range.end - t : kRowBlock);
  }
}

template <typename T>
void low_rank_backward(const LowRankBackward<T>& op) {
  const LowRank<T>& f = op.forward;
  const int64_t wide_in = round_up(f.in), wide_out = round_up(f.out);
  const int threads = threads_for(f.rows, f.in);
  const int64_t down_size = f.rank * wide_in, up_size = f.rank * wide_out;
  // Factors first, then one part of the sums for each thread.
  float* down = thread_scratch(kDownSlot, down_size * (1 + threads));
  float* up_t = thread_scratch(kUpSlot, up_size * (1 + threads));
  pad_rows(f.down, f.rank, f.in, down);
  pad_rows(f.up_t, f.rank, f.out, up_t);
#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num();
    const Sums sums{down + down_size * (1 + thread), up_t + up_size * (1 + thread),
                    thread_scratch(kDzSlot, kRowBlock * f.rank)};
    std::memset(sums.down, 0, sizeof(float) * static_cast<size_t>(down_size));
    std::memset(sums.up_t, 0, sizeof(float) * static_cast<size_t>(up_size));
    const Block<T> block = make_block(f, down, up_t);
    const Range range = range_of(f.rows, threads, thread);
    for (int64_t t = range.begin; t < range.end; t += kRowBlock)
      backward_block(op, block, sums, t, range.end - t < kRowBlock ? range.end - t : kRowBlock);
  }
  reduce(down + down_size, threads, f.rank, f.in, op.d_down);
  reduce(up_t + up_size, threads, f.rank, f.out, op.d_up_t);
}

template void low_rank(const LowRank<float>&);
template void low_rank(const LowRank<Bfloat16>&);
template void low_rank_backward(const LowRankBackward<float>&);
template void low_rank_backward(const LowRankBackward<Bfloat16>&);

}  // namespace msplora::kernels::MSPLORA_ISA
