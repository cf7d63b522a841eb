#pragma once

// Blocks of rows of x pass through all slices while they lie in cache. Masks are drawn again in backward.

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/mask.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

/// Rows handled at a time: sums of outer products are loaded and stored once for each block.
inline constexpr int64_t kRowBlock = 64;
inline constexpr int kRowMaskSlot = 16, kPreparedSlot = 17, kMaskSlot = 18, kDzSlot = 19, kDownSlot = 20,
                     kUpSlot = 21;

/// Rows of x, y or their gradients: `width` values, `stride` from one row to the next.
template <typename T>
struct RowView {
  T* data;
  int64_t width, stride;

  T* row(int64_t t) const { return data + t * stride; }
  RowView from(int64_t t) const { return {row(t), width, stride}; }
};

inline int64_t round_up(int64_t n) {
  return (n + 15) / 16 * 16;
}

// Copies of factors with rows padded to whole vectors: [rank, width] -> [rank, round_up(width)].
inline void pad_rows(const float* from, int64_t rows, int64_t width, float* to) {
  const int64_t padded = round_up(width);
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(to + r * padded, from + r * width, sizeof(float) * static_cast<size_t>(width));
    for (int64_t i = width; i < padded; ++i) to[r * padded + i] = 0.0f;
  }
}

// Elements i .. of a row of x, read where it lies: converted on the way into a product, dropped elements and
// what lies beyond the end as zero. The scale of a mask is applied to the few numbers of the rank instead.
template <bool Masked, bool Tail, typename T>
MSPLORA_INLINE VecF read(const T* row, const MaskBits& mask, int64_t i, int64_t width) {
  if constexpr (Masked && !Tail) return load_kept(row, mask, i);
  const VecF value = Tail ? load_part(row + i, static_cast<int>(width - i)) : load(row + i);
  return Masked ? keep(value, mask, i) : value;
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

// Factors [rank, width], rows padded to `wide`, and what products make of them (prepared).
struct FactorRows {
  const float* padded;
  int64_t wide;
  const float* prepared;
};

template <typename T>
struct Block {
  const LowRank<T>& op;
  int64_t wide_in;
  const float *down, *up_t;  // padded; those of the outputs one after the other
  const float* prepared;     // of down, then of the outputs
  MaskBits* masks;           // [num_slices, kRowBlock]
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

// y_t += Σ_r z[t, r] b_r over `count` ranks.
template <typename T>
void add_products(int64_t count, const float* z, int64_t ldz, int64_t rows, const float* b, int64_t wide,
                  RowView<T> y) {
  const LowRankSlice whole = {0, count, {}};
  for_columns<4>(y.width, [&]<int Vectors, bool Tail>(int64_t column) {
    for_groups<4>(0, rows, [&]<int Count>(int64_t t) {
      VecF acc[Count][Vectors];
      product_tile(whole, z + t * ldz, ldz, b + column, wide, acc);
      for (int i = 0; i < Count; ++i)
        for (int j = 0; j < Vectors; ++j) add_to<Tail>(y.row(t + i), column + j * kLanes, y.width, acc[i][j]);
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
        const MaskBits* masks = block.masks + s * kRowBlock + t;
        const bool masked = op.slices[s].mask.active();
        for (int i = 0; i < Rows; ++i)
          for (int j = 0; j < Vectors; ++j)
            total[i][j] += masked ? keep(acc[i][j], masks[i], column + j * kLanes) : acc[i][j];
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
  const int64_t in = b.op.in, room = kRowBlock * mask_words(in);
  auto* words = reinterpret_cast<uint64_t*>(thread_scratch(kMaskSlot, 2 * room * b.op.num_slices));
  for (int64_t s = 0; s < b.op.num_slices; ++s) {
    const DropoutMask& mask = b.op.slices[s].mask;
    MaskBits* masks = b.masks + s * kRowBlock;
    uint64_t* place = words + s * room;
    if (!mask.active()) {
      for (int64_t t = 0; t < rows; ++t) masks[t] = MaskBits();
    } else if (in % 8 == 0) {
      const MaskBits all = draw_row(mask, first * in, rows * in, place);
      for (int64_t t = 0; t < rows; ++t) masks[t] = all.from(t * in);
    } else {  // rows do not begin with a byte
      for (int64_t t = 0; t < rows; ++t)
        masks[t] = draw_row(mask, (first + t) * in, in, place + t * mask_words(in));
    }
  }
}

inline const MaskBits kNoMasks[kRowBlock] = {};

// The ranks of masked slices times the scale of the mask.
template <typename T>
void scale_ranks(const LowRank<T>& op, int64_t rows, float* z) {
  for (int64_t s = 0; s < op.num_slices; ++s) {
    const LowRankSlice& slice = op.slices[s];
    if (!slice.mask.active()) continue;
    const auto scale = static_cast<float>(slice.mask.scale());
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t r = slice.begin; r < slice.end; ++r) z[t * op.rank + r] *= scale;
  }
}

// Runs body(output, its factors, their padded width) over the outputs.
template <typename T, typename Body>
void for_outputs(const LowRank<T>& op, float* factors, const Body& body) {
  for (int64_t k = 0; k < op.num_outputs; ++k) {
    const LowRankOutput<T>& output = op.outputs[k];
    const int64_t wide = round_up(output.width);
    body(output, factors, wide);
    factors += (output.end - output.begin) * wide;
  }
}

// The two products over long rows are those of the instruction set:
//   Session                       lives in a thread while it multiplies
//   prepared_size(rank, wide)     floats that factors take in the form of dots, beside the padded ones
//   prepare(padded, rank, wide, to)
//   dots<Masked>(x, rows, masks, factors, begin, end, c, ldc)
//                                 c[t, r] = mask(x_t) . factors_r for the ranks [begin, end)
//   add_outer<Masked>(x, rows, masks, z, ldz, count, sums, wide)
//                                 sums[r, :] += sum over t of z[t, r] mask(x_t) for `count` ranks
template <typename Products, typename T>
const float* prepare_factors(const LowRank<T>& op, const float* down, float* up_t) {
  const int64_t wide_in = round_up(op.in);
  int64_t size = Products::prepared_size(op.rank, wide_in);
  for_outputs(op, up_t, [&](const LowRankOutput<T>& o, const float*, int64_t wide) {
    size += Products::prepared_size(o.end - o.begin, wide);
  });
  float* const prepared = thread_scratch(kPreparedSlot, size);
  float* to = prepared;
  Products::prepare(down, op.rank, wide_in, to);
  to += Products::prepared_size(op.rank, wide_in);
  for_outputs(op, up_t, [&](const LowRankOutput<T>& o, const float* factors, int64_t wide) {
    Products::prepare(factors, o.end - o.begin, wide, to);
    to += Products::prepared_size(o.end - o.begin, wide);
  });
  return prepared;
}

template <typename Products, typename T>
void forward_block(const Block<T>& b, int64_t first, int64_t rows) {
  const int64_t rank = b.op.rank;
  float* z = b.op.z + first * rank;
  draw(b, first, rows);
  const RowView<const T> x = {b.op.x + first * b.op.in, b.op.in, b.op.in};
  const FactorRows down{b.down, b.wide_in, b.prepared};
  for (int64_t s = 0; s < b.op.num_slices; ++s) {
    const LowRankSlice& slice = b.op.slices[s];
    const auto run =
        slice.mask.active() ? &Products::template dots<true, T> : &Products::template dots<false, T>;
    run(x, rows, b.masks + s * kRowBlock, down, slice.begin, slice.end, z, rank);
  }
  scale_ranks(b.op, rows, z);
  for_outputs(b.op, const_cast<float*>(b.up_t),
              [&](const LowRankOutput<T>& o, const float* up_t, int64_t wide) {
                const RowView<T> y = {o.y + first * o.stride, o.width, o.stride};
                add_products(o.end - o.begin, z + o.begin, rank, rows, up_t, wide, y);
              });
}

// A part's sums of the gradients, laid out as the padded factors are, and room for a block's dz where nobody
// asks for it.
struct Sums {
  float *down, *up_t, *room;
};

template <typename Products, typename T>
void backward_block(const LowRankBackward<T>& op, const Block<T>& b, const Sums& sums, int64_t first,
                    int64_t rows) {
  const int64_t rank = b.op.rank, in = b.op.in;
  float* const dz = op.dz ? op.dz + first * rank : sums.room;
  draw(b, first, rows);
  const float* prepared = b.prepared + Products::prepared_size(rank, b.wide_in);
  for_outputs(b.op, sums.up_t, [&](const LowRankOutput<T>& o, float* d_up_t, int64_t wide) {
    const RowView<const T> dy = {o.dy + first * o.stride, o.width, o.stride};
    const int64_t count = o.end - o.begin;
    const FactorRows up_t{b.up_t + (d_up_t - sums.up_t), wide, prepared};
    prepared += Products::prepared_size(count, wide);
    Products::template dots<false, T>(dy, rows, kNoMasks, up_t, 0, count, dz + o.begin, rank);
    Products::template add_outer<false, T>(dy, rows, kNoMasks, b.op.z + first * rank + o.begin, rank, count,
                                           d_up_t, wide);
  });
  scale_ranks(b.op, rows, dz);
  bool masked = false;
  const RowView<const T> x = {b.op.x + first * in, in, in};
  for (int64_t s = 0; s < b.op.num_slices; ++s) {
    const LowRankSlice& slice = b.op.slices[s];
    masked |= slice.mask.active();
    const auto run = slice.mask.active() ? &Products::template add_outer<true, T>
                                         : &Products::template add_outer<false, T>;
    run(x, rows, b.masks + s * kRowBlock, dz + slice.begin, rank, slice.end - slice.begin,
        sums.down + slice.begin * b.wide_in, b.wide_in);
  }
  if (op.dx == nullptr) return;
  if (masked) return add_masked_products(b, dz, rows, op.dx + first * in);
  add_products(rank, dz, rank, rows, b.down, b.wide_in, RowView<T>{op.dx + first * in, in, in});
}

// The rows are cut into parts, each of which a thread takes when it is free and sums the gradients of on its
// own: the cut, and so the order of all sums, depends on the number of rows alone.
struct Cut {
  int64_t parts, rows;  // of each part, whole blocks
};
inline Cut cut_of(int64_t rows) {
  constexpr int64_t kLeast = 512, kMostParts = 64;
  const int64_t even = (rows + kMostParts - 1) / kMostParts;
  Cut cut;
  cut.rows = even > kLeast ? (even + kRowBlock - 1) / kRowBlock * kRowBlock : kLeast;
  cut.parts = (rows + cut.rows - 1) / cut.rows;
  return cut;
}

inline int64_t rows_from(int64_t first, int64_t end) {
  return end - first < kRowBlock ? end - first : kRowBlock;
}

template <typename T>
Block<T> make_block(const LowRank<T>& op, const float* down, const float* up_t, const float* prepared) {
  return {op,
          round_up(op.in),
          down,
          up_t,
          prepared,
          reinterpret_cast<MaskBits*>(
              thread_scratch(kRowMaskSlot, op.num_slices * kRowBlock * sizeof(MaskBits) / sizeof(float)))};
}

template <typename T>
int64_t padded_size(const LowRank<T>& op) {
  int64_t size = 0;
  for_outputs(op, static_cast<float*>(nullptr), [&](const LowRankOutput<T>& o, const float*, int64_t wide) {
    size += (o.end - o.begin) * wide;
  });
  return size;
}

template <typename T>
void pad_factors(const LowRank<T>& op, float* down, float* up_t) {
  pad_rows(op.down, op.rank, op.in, down);
  for_outputs(op, up_t, [&](const LowRankOutput<T>& o, float* to, int64_t) {
    pad_rows(o.up_t, o.end - o.begin, o.width, to);
  });
}

// parts[0] += parts[1] + ..., in order, `size` from one part to the next; then without padding to `to`.
inline void reduce(float* parts, int64_t count, int64_t size, int64_t rows, int64_t width, float* to) {
  const int64_t padded = round_up(width);
#pragma omp parallel for schedule(static) if (count > 1 && rows * padded > kParallelElements)
  for (int64_t r = 0; r < rows; ++r) {
    float* row = parts + r * padded;
    for (int64_t part = 1; part < count; ++part)
      for (int64_t i = 0; i < padded; i += kLanes)
        store(row + i, load(row + i) + load(row + part * size + i));
    std::memcpy(to + r * width, row, sizeof(float) * static_cast<size_t>(width));
  }
}

template <typename Products, typename T>
void run_low_rank(const LowRank<T>& op) {
  float* down = thread_scratch(kDownSlot, op.rank * round_up(op.in));
  float* up_t = thread_scratch(kUpSlot, padded_size(op));
  pad_factors(op, down, up_t);
  const float* const prepared = prepare_factors<Products>(op, down, up_t);
  const int64_t blocks = (op.rows + kRowBlock - 1) / kRowBlock;
  ThreadErrors errors;
  // The last rows first: the product before wrote them last, and so they are the ones still in a cache.
#pragma omp parallel if (op.rows * op.in > kParallelElements)
  {
    [[maybe_unused]] const typename Products::Session session;
#pragma omp for schedule(dynamic, 1)
    for (int64_t block = blocks - 1; block >= 0; --block) {
      const int64_t t = block * kRowBlock;
      errors.run(
          [&] { forward_block<Products>(make_block(op, down, up_t, prepared), t, rows_from(t, op.rows)); });
    }
  }
  errors.rethrow();
}

template <typename Products, typename T>
void run_low_rank_backward(const LowRankBackward<T>& op) {
  const LowRank<T>& f = op.forward;
  const Cut cut = cut_of(f.rows);
  const int64_t down_size = f.rank * round_up(f.in), up_size = padded_size(f);
  // Factors first, then the sums of each part.
  float* down = thread_scratch(kDownSlot, down_size * (1 + cut.parts));
  float* up_t = thread_scratch(kUpSlot, up_size * (1 + cut.parts));
  pad_factors(f, down, up_t);
  const float* const prepared = prepare_factors<Products>(f, down, up_t);
  const auto run_part = [&](int64_t part) {
    const Sums sums{down + down_size * (1 + part), up_t + up_size * (1 + part),
                    thread_scratch(kDzSlot, kRowBlock * f.rank)};
    std::memset(sums.down, 0, sizeof(float) * static_cast<size_t>(down_size));
    std::memset(sums.up_t, 0, sizeof(float) * static_cast<size_t>(up_size));
    const Block<T> block = make_block(f, down, up_t, prepared);
    const int64_t begin = part * cut.rows, end = begin + cut.rows < f.rows ? begin + cut.rows : f.rows;
    for (int64_t t = begin; t < end; t += kRowBlock)
      backward_block<Products>(op, block, sums, t, rows_from(t, end));
  };
  ThreadErrors errors;
#pragma omp parallel if (f.rows * f.in > kParallelElements)
  {
    [[maybe_unused]] const typename Products::Session session;
#pragma omp for schedule(dynamic, 1)
    for (int64_t part = 0; part < cut.parts; ++part) errors.run([&] { run_part(part); });
  }
  errors.rethrow();
  reduce(down + down_size, cut.parts, down_size, f.rank, f.in, op.d_down);
  for_outputs(f, up_t + up_size, [&](const LowRankOutput<T>& o, float* parts, int64_t) {
    reduce(parts, cut.parts, up_size, o.end - o.begin, o.width, o.d_up_t);
  });
}

}  // namespace
}  // namespace msplora::kernels::MSPLORA_ISA
