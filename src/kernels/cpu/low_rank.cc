// Blocks of rows of x pass through all slices while they lie in cache: masked once for each slice, multiplied
// with the factors in float. Masks are drawn again in backward.
#include <omp.h>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/small_gemm.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

constexpr int64_t kRowBlock = 16;
constexpr int kInputSlot = 16, kOutputSlot = 17, kNumbersSlot = 18, kDzSlot = 19, kDownSlot = 20,
              kUpSlot = 21;

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

// The mask of one row of a slice; without dropout, every factor is 1.
struct RowMask {
  const uint16_t* numbers = nullptr;
  uint32_t threshold = 0;
  float scale = 1.0f;

  VecF apply(VecF value, int64_t i) const {
    return numbers ? value * mask_factors(numbers + i, threshold, scale) : value;
  }
};

// to = mask(from), padded with zeros to whole vectors.
template <typename T>
void read_row(const T* from, int64_t width, const RowMask& mask, float* to) {
  const RowMask m = mask;
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(to + i, m.apply(load(from + i), i));
  const int rest = static_cast<int>(width - i);
  if (rest > 0) store(to + i, m.apply(load_part(from + i, rest), i));
  for (i += kLanes; i < round_up(width); i += kLanes) store(to + i, splat(0.0f));
}

// to += mask(from).
template <typename T>
void add_row(const float* from, int64_t width, const RowMask& mask, T* to) {
  const RowMask m = mask;
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(to + i, load(to + i) + m.apply(load(from + i), i));
  const int rest = static_cast<int>(width - i);
  if (rest > 0) store_part(to + i, load_part(to + i, rest) + m.apply(load_part(from + i, rest), i), rest);
}

// c[i, j] = a_i . b_j for Rows x Columns rows of padded length n.
template <int Rows, int Columns>
MSPLORA_INLINE void dot_tile(int64_t n, const float* a, const float* b, float* c, int64_t ldc) {
  VecF acc[Rows][Columns];
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Columns; ++j) acc[i][j] = splat(0.0f);
  for (int64_t p = 0; p < n; p += kLanes) {
    VecF row[Columns];
    for (int j = 0; j < Columns; ++j) row[j] = load(b + j * n + p);
    for (int i = 0; i < Rows; ++i) {
      const VecF value = load(a + i * n + p);
      for (int j = 0; j < Columns; ++j) acc[i][j] += value * row[j];
    }
  }
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < Columns; ++j) c[i * ldc + j] = sum_lanes(acc[i][j]);
}

template <int Rows>
void dot_rows(int64_t columns, int64_t n, const float* a, const float* b, float* c, int64_t ldc) {
  int64_t j = 0;
  for (; j + 4 <= columns; j += 4) dot_tile<Rows, 4>(n, a, b + j * n, c + j, ldc);
  for (; j + 2 <= columns; j += 2) dot_tile<Rows, 2>(n, a, b + j * n, c + j, ldc);
  for (; j < columns; ++j) dot_tile<Rows, 1>(n, a, b + j * n, c + j, ldc);
}

// c[rows, columns] = a bᵀ.
void dots(int64_t rows, int64_t columns, int64_t n, const float* a, const float* b, float* c, int64_t ldc) {
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) dot_rows<4>(columns, n, a + i * n, b, c + i * ldc, ldc);
  for (; i < rows; ++i) dot_rows<1>(columns, n, a + i * n, b, c + i * ldc, ldc);
}

template <typename T>
struct Block {
  const LowRank<T>& op;
  int64_t wide_in, wide_out;
  const float *down, *up_t;  // padded
  float *input, *output;     // [kRowBlock, wide_in], [kRowBlock, wide_out]
};

// Draws the numbers of a block of rows of one slice.
template <typename T>
void draw(const Block<T>& b, const LowRankSlice& slice, int64_t first, int64_t rows, RowMask* masks) {
  if (!slice.mask.active()) {
    for (int64_t t = 0; t < rows; ++t) masks[t] = {};
    return;
  }
  const int64_t room = round_up(b.op.in) + 288;
  auto* buffer = reinterpret_cast<uint16_t*>(thread_scratch(kNumbersSlot, kRowBlock * room / 2));
  for (int64_t t = 0; t < rows; ++t) {
    masks[t] = {row_numbers(slice.mask.key, (first + t) * b.op.in, b.op.in, buffer + t * room),
                slice.mask.threshold(), static_cast<float>(slice.mask.scale())};
  }
}

template <typename T>
void masked_input(const Block<T>& b, const RowMask* masks, int64_t first, int64_t rows) {
  for (int64_t t = 0; t < rows; ++t)
    read_row(b.op.x + (first + t) * b.op.in, b.op.in, masks[t], b.input + t * b.wide_in);
}

template <typename T>
void forward_block(const Block<T>& b, int64_t first, int64_t rows) {
  float* z = b.op.z + first * b.op.rank;
  RowMask masks[kRowBlock];
  for (int64_t s = 0; s < b.op.num_slices; ++s) {
    const LowRankSlice& slice = b.op.slices[s];
    draw(b, slice, first, rows, masks);
    masked_input(b, masks, first, rows);
    dots(rows, slice.end - slice.begin, b.wide_in, b.input, b.down + slice.begin * b.wide_in, z + slice.begin,
         b.op.rank);
  }
  gemm(rows, b.wide_out, b.op.rank, z, b.op.rank, 1, b.up_t, b.wide_out, b.output, b.wide_out, false);
  for (int64_t t = 0; t < rows; ++t)
    add_row(b.output + t * b.wide_out, b.op.out, {}, b.op.y + (first + t) * b.op.out);
}

// The thread's sums of the gradients, [rank, wide_in] and [rank, wide_out].
struct Sums {
  float *down, *up_t, *dz;
};

template <typename T>
void backward_block(const LowRankBackward<T>& op, const Block<T>& b, const Sums& sums, int64_t first,
                    int64_t rows) {
  const int64_t rank = b.op.rank;
  RowMask masks[kRowBlock];
  for (int64_t t = 0; t < rows; ++t)
    read_row(op.dy + (first + t) * b.op.out, b.op.out, {}, b.output + t * b.wide_out);
  dots(rows, rank, b.wide_out, b.output, b.up_t, sums.dz, rank);
  gemm(rank, b.wide_out, rows, b.op.z + first * rank, 1, rank, b.output, b.wide_out, sums.up_t, b.wide_out,
       true);
  for (int64_t s = 0; s < b.op.num_slices; ++s) {
    const LowRankSlice& slice = b.op.slices[s];
    const int64_t width = slice.end - slice.begin;
    draw(b, slice, first, rows, masks);
    masked_input(b, masks, first, rows);
    gemm(width, b.wide_in, rows, sums.dz + slice.begin, 1, rank, b.input, b.wide_in,
         sums.down + slice.begin * b.wide_in, b.wide_in, true);
    if (op.dx == nullptr) continue;
    gemm(rows, b.wide_in, width, sums.dz + slice.begin, rank, 1, b.down + slice.begin * b.wide_in, b.wide_in,
         b.input, b.wide_in, false);
    for (int64_t t = 0; t < rows; ++t)
      add_row(b.input + t * b.wide_in, b.op.in, masks[t], op.dx + (first + t) * b.op.in);
  }
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
          thread_scratch(kInputSlot, kRowBlock * wide_in),
          thread_scratch(kOutputSlot, kRowBlock * wide_out)};
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
