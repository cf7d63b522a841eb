#pragma once

// What the attention kernels of all types share: the tile of one head, softmax rows, masks.

#include <omp.h>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/mask.h"

namespace msplora::kernels::MSPLORA_ISA {

inline constexpr int64_t kRowBlock =
    32;  // query rows handled at a time; 32 * round_up(S, 16) is a multiple of kMaskBlock
inline constexpr int kQSlot = 2, kKSlot = 3, kKtSlot = 4, kVSlot = 5, kPSlot = 6, kDoSlot = 7, kDsSlot = 8,
                     kDkSlot = 9, kDvSlot = 10, kOutSlot = 11, kVtSlot = 12, kMaskSlot = 13;

inline int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

template <typename T>
inline void scatter(const float* from, int64_t padded, int64_t rows, int64_t width, float scale, T* to,
                    int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* source = from + r * padded;
    T* target = to + r * stride;
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) store(target + i, load(source + i) * scale);
    for (; i < width; ++i) set(target[i], source[i] * scale);
  }
}

inline constexpr int64_t kUnlimited = int64_t{1} << 40;

// One head of one segment. Places count from the segment's first key.
struct Tile {
  int64_t length, padded_length, dim, padded_dim;  // keys
  int64_t first_key, head;
  int64_t first_query, queries;  // rows of q, o and lse
  int64_t first_place;           // of the first query
  int64_t left, right;           // of the window
};

template <typename T>
inline Tile make_tile(const Attention<T>& op, int64_t at, int64_t head) {
  const AttentionSegment& segment = op.segments[at];
  const auto reach = [](int64_t window) { return window < 0 ? kUnlimited : window; };
  Tile tile;
  tile.length = segment.k_count;
  tile.padded_length = round_up(segment.k_count, 16);
  tile.dim = op.head_dim;
  tile.padded_dim = round_up(op.head_dim, 16);
  tile.first_key = segment.k_begin;
  tile.head = head;
  tile.first_query = segment.q_begin;
  tile.queries = segment.q_count;
  tile.first_place = segment.q_place - segment.k_place;
  tile.left = reach(op.window_left);
  tile.right = reach(op.window_right);
  return tile;
}

// Heads of one segment that a thread takes at once: all of them, since their rows are neighbours in memory,
// unless there are too few segments to go round.
inline int64_t tasks_at_a_time(int64_t segments, int64_t heads) {
  return segments >= 4 * omp_get_max_threads() ? heads : 1;
}

// In which order heads of segments are taken: head by head where relative terms have tables for each.
struct TaskOrder {
  int64_t segments, heads, count, chunk;
  bool is_by_head;

  template <typename T>
  explicit TaskOrder(const Attention<T>& op)
      : segments(op.num_segments),
        heads(op.heads),
        count(segments * heads),
        is_by_head(op.relative != nullptr) {
    chunk = is_by_head ? round_up(segments, 4) / 4 : tasks_at_a_time(segments, heads);
    if (chunk < 1) chunk = 1;
  }
  int64_t segment(int64_t task) const { return is_by_head ? task % segments : task / heads; }
  int64_t head(int64_t task) const { return is_by_head ? task / segments : task % heads; }
};

// Whether there is enough to do for several threads.
template <typename T>
inline bool is_parallel(const Attention<T>& op) {
  int64_t keys = 0;
  for (int64_t s = 0; s < op.num_segments; ++s) keys += op.segments[s].k_count;
  return keys > 16;
}

// Keys [begin, end) of the segment.
struct Keys {
  int64_t begin, end;
};

// What query row i sees; nothing: begin is end.
MSPLORA_INLINE Keys visible(const Tile& tile, int64_t i) {
  const int64_t place = tile.first_place + i;
  Keys keys{place > tile.left ? place - tile.left : 0,
            place + tile.right < tile.length ? place + tile.right + 1 : tile.length};
  if (keys.end < 0) keys.end = 0;
  if (keys.begin > keys.end) keys.begin = keys.end;
  return keys;
}

// The columns of a block of query rows that are computed: all that any of them sees. Products sum over the
// keys [begin, end); vectors cover [begin, padded_end), both multiples of 16.
struct Columns {
  int64_t begin, end, padded_end;

  int64_t keys() const { return end - begin; }
  int64_t count() const { return padded_end - begin; }
  bool none() const { return padded_end <= begin; }
};

inline Columns columns_of(const Tile& tile, int64_t i0, int64_t rows) {
  const int64_t end = visible(tile, i0 + rows - 1).end;
  return {visible(tile, i0).begin / 16 * 16, end, round_up(end, 16)};
}

// Sets the columns that a row does not see.
MSPLORA_INLINE void fill_hidden(float* row, Keys seen, const Columns& columns, float value) {
  for (int64_t j = columns.begin; j < seen.begin; ++j) row[j] = value;
  for (int64_t j = seen.end; j < columns.padded_end; ++j) row[j] = value;
}

// Scores of rows [i0, i0 + rows), the given columns of each -> probabilities in place; writes the log-sum-exp
// of each row.
inline void softmax_rows(const Tile& tile, int64_t i0, int64_t rows, const Columns& columns, float* p,
                         float* lse, int64_t lse_stride) {
  const int64_t begin = columns.begin, end = columns.padded_end;
  for (int64_t r = 0; r < rows; ++r) {
    float* row = p + r * tile.padded_length;
    const Keys seen = visible(tile, i0 + r);
    fill_hidden(row, seen, columns, -1e30f);
    VecF best = load(row + begin);
    for (int64_t j = begin + kLanes; j < end; j += kLanes) best = vmax(load(row + j), best);
    const float top = max_lanes(best);
    for (int64_t j = begin; j < end; j += kLanes) store(row + j, exp<true>(load(row + j) - top));
    // exp clamps, so hidden keys leave a tiny positive number: take it away exactly.
    fill_hidden(row, seen, columns, 0.0f);
    VecF sum = splat(0.0f);
    for (int64_t j = begin; j < end; j += kLanes) sum += load(row + j);
    const float denominator = sum_lanes(sum);
    const float inverse = denominator > 0.0f ? 1.0f / denominator : 0.0f;  // 0 where no key is seen
    for (int64_t j = begin; j < end; j += kLanes) store(row + j, load(row + j) * inverse);
    if (lse) lse[r * lse_stride] = top + __builtin_logf(denominator);
  }
}

// Probabilities again from the saved log-sum-exp.
inline void probability_rows(const Tile& tile, int64_t i0, int64_t rows, const Columns& columns, float* p,
                             const float* lse, int64_t lse_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    float* row = p + r * tile.padded_length;
    const float shift = lse[r * lse_stride];
    for (int64_t j = columns.begin; j < columns.padded_end; j += kLanes)
      store(row + j, exp(load(row + j) - shift));
    fill_hidden(row, visible(tile, i0 + r), columns, 0.0f);
  }
}

// The mask of rows [i0, i0 + rows), each padded_length elements long, where the columns need it; i0 is a
// multiple of kRowBlock.
inline MaskBits block_mask(const DropoutMask& mask, const Tile& tile, int64_t i0, int64_t rows,
                           const Columns& columns) {
  if (!mask.active()) return {};
  const int64_t wide = tile.padded_length;
  const DropoutMask of_head = {attention_mask_key(mask.key, tile.first_key, tile.head), mask.p};
  auto* words = reinterpret_cast<uint64_t*>(thread_scratch(kMaskSlot, 2 * mask_words(kRowBlock * wide)));
  if (2 * columns.count() > wide) return draw_row(of_head, i0 * wide, rows * wide, words);
  const int64_t first_block = i0 * wide / kMaskBlock;  // exact
  for (int64_t row = 0; row < rows * wide; row += wide) {
    const int64_t begin = (row + columns.begin) / kMaskBlock,
                  end = (row + columns.padded_end + kMaskBlock - 1) / kMaskBlock;
    draw_mask(of_head, static_cast<uint64_t>(first_block + begin), end - begin, words + begin);
  }
  return MaskBits(reinterpret_cast<const unsigned char*>(words));
}

// p = mask(p), of rows that are `wide` apart.
inline void apply_mask(float* p, const MaskBits& bits, float scale, int64_t rows, const Columns& columns,
                       int64_t wide) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = r * wide + columns.begin; i < r * wide + columns.padded_end; i += kLanes)
      store(p + i, keep(load(p + i) * scale, bits, i));
  }
}

// dS = P * (dP - delta), dP = M * dO Vᵀ, delta_i = Σ_j P_ij dP_ij / Σ_j P_ij. Dao et al. 2022 (Algorithm 4)
// take the equal dO_i . O_i; where dP hardly varies along a row, that loses the digits that the difference
// needs. On return p holds the masked probabilities M * P, which dV needs.
inline void score_gradients(const Tile& tile, int64_t rows, const Columns& columns, const MaskBits& bits,
                            float mask_scale, float* p_rows, float* ds_rows) {
  const int64_t wide = tile.padded_length, begin = columns.begin, end = columns.padded_end;
  if (bits.active()) apply_mask(ds_rows, bits, mask_scale, rows, columns, wide);
  for (int64_t r = 0; r < rows; ++r) {
    float* p = p_rows + r * wide;
    float* ds = ds_rows + r * wide;
    VecF weighted = splat(0.0f), total = splat(0.0f);
    for (int64_t j = begin; j < end; j += kLanes) {
      weighted += load(p + j) * load(ds + j);
      total += load(p + j);
    }
    const float sum = sum_lanes(total);
    const float delta = sum > 0.0f ? sum_lanes(weighted) / sum : 0.0f;
    for (int64_t j = begin; j < end; j += kLanes) store(ds + j, load(p + j) * (load(ds + j) - delta));
  }
  if (bits.active()) apply_mask(p_rows, bits, mask_scale, rows, columns, wide);
}

// Rows [i0, i0 + rows) see no key at all.
template <typename T>
inline void attend_to_nothing(const Attention<T>& op, const Tile& tile, int64_t i0, int64_t rows) {
  for (int64_t r = tile.first_query + i0; r < tile.first_query + i0 + rows; ++r) {
    std::memset(op.o + r * op.o_stride + tile.head * tile.dim, 0, sizeof(T) * static_cast<size_t>(tile.dim));
    if (op.lse) op.lse[r * op.heads + tile.head] = -__builtin_inff();
  }
}

/// bfloat16 attention on the processor's bfloat16 dot products (attention_bf16.cc). Return false, having done
/// nothing, where the instruction set has none or the shape does not suit; attention.cc then computes in
/// float.
bool attention_in_pairs(const Attention<Bfloat16>& op);
bool attention_in_pairs_backward(const AttentionBackward<Bfloat16>& op);

}  // namespace msplora::kernels::MSPLORA_ISA
