#pragma once

// What scores may be beside scale q kᵀ: terms by distance and a soft cap (Attention in kernels.h). They are
// added in float; the products that they are made of are formed by whoever has keys and queries
// (attention_float_terms.h, attention_pair_terms.h).
#include "kernels/cpu/activation_functions.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/transpose_words.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

constexpr int kSlopeSlot = 24, kRelativeKeySlot = 25, kRelativeKeyTSlot = 26, kRelativeQuerySlot = 27,
              kRelativeQueryTSlot = 28, kQueryProductSlot = 29, kKeyProductSlot = 30, kQueryGradientSlot = 31,
              kKeyGradientSlot = 32, kRelativeBiasSlot = 33, kRelativeSumSlot = 34, kRunSlot = 39;

// The terms of one head of one segment. Buckets [first, first + count) hold those of its distances, in rows
// padded to `wide`; `first` is a multiple of 16, so that arrays by bucket are met at whole lines.
struct Terms {
  const int32_t* bucket_of = nullptr;  // of the distance 0; null: no relative terms
  int64_t reach = 0;
  int64_t first = 0, count = 0, wide = 0;
  const int32_t* runs = nullptr;    // of the distance 0: how many from there on have buckets in a row
  float* bias = nullptr;            // [count]; null: no such term
  float* query_products = nullptr;  // [kRowBlock, wide]: q · key[b] of a block of rows; null: no such term
  float* key_products = nullptr;    // [padded_length, wide]: k · query[b]; null: no such term
  float cap = 0.0f;                 // 0: none
  float* slope = nullptr;           // [kRowBlock, padded_length]: the cap's derivative; null: not needed
  int64_t head = -1;                // whose tables by bucket are there; -1: none

  int64_t bucket(int64_t distance) const {
    const int64_t near = distance > reach ? reach : (distance < -reach ? -reach : distance);
    return bucket_of[near] - first;
  }
};

// Buckets of the distances that occur.
template <typename T>
void find_buckets(const RelativeTerms<T>& relative, const Tile& tile, Terms& terms) {
  terms.reach = relative.reach;
  terms.bucket_of = relative.bucket_of + relative.reach;
  int64_t low = relative.buckets, high = 0;
  const auto limited = [&](int64_t d) {
    return d > terms.reach ? terms.reach : (d < -terms.reach ? -terms.reach : d);
  };
  const int64_t farthest = limited(tile.first_place + tile.queries - 1);
  for (int64_t d = limited(tile.first_place - (tile.length - 1)); d <= farthest; ++d) {
    const int64_t bucket = terms.bucket_of[d];
    low = bucket < low ? bucket : low;
    high = bucket > high ? bucket : high;
  }
  terms.first = low / 16 * 16;
  terms.count = high - terms.first + 1;
  terms.wide = round_up(terms.count, 16);
  const int64_t lowest = tile.first_place - (tile.length - 1), last = tile.first_place + tile.queries - 1;
  auto* const runs = reinterpret_cast<int32_t*>(thread_scratch(kRunSlot, last - lowest + 1)) - lowest;
  runs[last] = 1;
  for (int64_t d = last - 1; d >= lowest; --d)
    runs[d] = terms.bucket(d + 1) == terms.bucket(d) + 1 ? runs[d + 1] + 1 : 1;
  terms.runs = runs;
}

// All but the products; `bias_factor` multiplies the bias. Returns whether the tables of keys and queries by
// bucket are to be brought into order: they serve all segments of a head that have the same buckets.
template <typename T>
bool begin_terms(const Attention<T>& op, const Tile& tile, bool with_gradient, float bias_factor,
                 Terms& terms) {
  const int64_t head = terms.head, first = terms.first, count = terms.count;
  terms = Terms{};
  terms.cap = static_cast<float>(op.soft_cap);
  if (terms.cap > 0 && with_gradient)
    terms.slope = thread_scratch(kSlopeSlot, kRowBlock * tile.padded_length);
  if (op.relative == nullptr || tile.length == 0) return false;
  const RelativeTerms<T>& relative = *op.relative;
  find_buckets(relative, tile, terms);
  if (relative.key) terms.query_products = thread_scratch(kQueryProductSlot, kRowBlock * terms.wide);
  if (relative.query) terms.key_products = thread_scratch(kKeyProductSlot, tile.padded_length * terms.wide);
  if (relative.bias) {
    terms.bias = thread_scratch(kRelativeBiasSlot, terms.count);
    for (int64_t b = 0; b < terms.count; ++b)
      terms.bias[b] = relative.bias[(terms.first + b) * op.heads + tile.head] * bias_factor;
  }
  terms.head = tile.head;
  return head != tile.head || first != terms.first || count != terms.count;
}

// Up to 16 rows of scores and 16 keys.
struct ScoreBlock {
  int64_t row, rows, key, keys;
  int64_t nearest;  // distance of the first row to the last key
};

// Runs near(block, bucket of the nearest distance) over the blocks of rows [i0, i0 + rows) whose distances
// have buckets in a row, and far(row, keys) over what rows see of others.
template <typename Near, typename Far>
void for_score_blocks(const Tile& tile, const Terms& terms, int64_t i0, int64_t rows, const Columns& columns,
                      const Near& near, const Far& far) {
  const int64_t end = columns.padded_end < tile.length ? columns.padded_end : tile.length;
  for (int64_t row = 0; row < rows; row += 16) {
    for (int64_t key = columns.begin; key < end; key += 16) {
      ScoreBlock block{row, rows - row < 16 ? rows - row : 16, key, end - key < 16 ? end - key : 16, 0};
      block.nearest = tile.first_place + i0 + row - (key + block.keys - 1);
      if (kLanes == 16 && terms.runs[block.nearest] >= block.rows + block.keys - 1) {
        near(block, terms.bucket(block.nearest));
        continue;
      }
      for (int64_t r = row; r < row + block.rows; ++r) {
        Keys seen = visible(tile, i0 + r);
        if (seen.begin < key) seen.begin = key;
        if (seen.end > key + block.keys) seen.end = key + block.keys;
        far(r, seen);
      }
    }
  }
}

// Of a block, row i and key t have the bucket first + i + (keys - 1 - t): along a row they fall, along the
// column of a key they rise. What hidden keys get is never read.
#if defined(__AVX512F__)
MSPLORA_INLINE __m512i reversed(__m512i v) {
  return _mm512_permutexvar_epi32(_mm512_set_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), v);
}

struct BlockMasks {
  __mmask16 rows, keys, last_keys;  // of the first lanes, and as many keys in the last ones

  explicit BlockMasks(const ScoreBlock& b)
      : rows(static_cast<__mmask16>((1u << b.rows) - 1)),
        keys(static_cast<__mmask16>((1u << b.keys) - 1)),
        last_keys(static_cast<__mmask16>(0xFFFFu << (16 - b.keys))) {}
};

inline void add_near(const Terms& terms, const ScoreBlock& b, int64_t first, int64_t wide, float* s) {
  const BlockMasks masks(b);
  __m512i sums[16] = {};
  for (int64_t t = 0; terms.key_products && t < b.keys; ++t) {
    const float* const from = terms.key_products + (b.key + t) * terms.wide + first + b.keys - 1 - t;
    sums[t] = _mm512_maskz_loadu_epi32(masks.rows, from);
  }
  if (terms.key_products) transpose_words(sums);
  for (int64_t i = 0; i < b.rows; ++i) {
    const int64_t lowest = first + b.keys - 16 + i;  // of the key of lane 15
    const auto falling = [&](const float* from) {
      return (VecF)reversed(_mm512_maskz_loadu_epi32(masks.last_keys, from + lowest));
    };
    VecF sum = (VecF)sums[i];
    if (terms.query_products) sum += falling(terms.query_products + (b.row + i) * terms.wide);
    if (terms.bias) sum += falling(terms.bias);
    float* const to = s + (b.row + i) * wide + b.key;
    _mm512_mask_storeu_ps(to, masks.keys, (__m512)(sum + (VecF)_mm512_maskz_loadu_ps(masks.keys, to)));
  }
}

inline void add_near_gradients(const Terms& terms, const ScoreBlock& b, int64_t first, int64_t wide,
                               const float* ds, float* of_products, float* of_key_products) {
  const BlockMasks masks(b);
  const auto add = [](float* to, __mmask16 lanes, __m512i value) {
    _mm512_mask_storeu_ps(to, lanes, (__m512)((VecF)value + (VecF)_mm512_maskz_loadu_ps(lanes, to)));
  };
  __m512i rows[16] = {};
  for (int64_t i = 0; i < b.rows; ++i) {
    rows[i] = _mm512_maskz_loadu_epi32(masks.keys, ds + (b.row + i) * wide + b.key);
    add(of_products + (b.row + i) * terms.wide + first + b.keys - 16 + i, masks.last_keys, reversed(rows[i]));
  }
  transpose_words(rows);
  for (int64_t t = 0; t < b.keys; ++t)
    add(of_key_products + (b.key + t) * terms.wide + first + b.keys - 1 - t, masks.rows, rows[t]);
}
#else
inline void add_near(const Terms&, const ScoreBlock&, int64_t, int64_t, float*) {}
inline void add_near_gradients(const Terms&, const ScoreBlock&, int64_t, int64_t, const float*, float*,
                               float*) {}
#endif

// s += the terms of rows [i0, i0 + rows), whose query_products are there.
inline void add_terms(const Tile& tile, const Terms& terms, int64_t i0, int64_t rows, const Columns& columns,
                      float* s) {
  const int64_t wide = tile.padded_length;
  const auto near = [&](const ScoreBlock& block, int64_t first) { add_near(terms, block, first, wide, s); };
  for_score_blocks(tile, terms, i0, rows, columns, near, [&](int64_t r, Keys keys) {
    const int64_t place = tile.first_place + i0 + r;
    for (int64_t j = keys.begin; j < keys.end; ++j) {
      const int64_t b = terms.bucket(place - j);
      float sum = terms.bias ? terms.bias[b] : 0.0f;
      if (terms.query_products) sum += terms.query_products[r * terms.wide + b];
      if (terms.key_products) sum += terms.key_products[j * terms.wide + b];
      s[r * wide + j] += sum;
    }
  });
}

// s = cap tanh(scale s / cap), and the slope by scale s.
inline void cap_scores(const Tile& tile, const Terms& terms, int64_t i0, int64_t rows, const Columns& columns,
                       float scale, float* s) {
  const int64_t wide = tile.padded_length;
  const float factor = scale / terms.cap;
  for (int64_t r = 0; r < rows; ++r) {
    fill_hidden(s + r * wide, visible(tile, i0 + r), columns, 0.0f);
    for (int64_t j = columns.begin; j < columns.padded_end; j += kLanes) {
      const VecF t = tanh(load(s + r * wide + j) * factor);
      store(s + r * wide + j, t * terms.cap);
      if (terms.slope) store(terms.slope + r * wide + j, 1.0f - t * t);
    }
  }
}

// Sums of the gradients of relative terms over the segments, of the heads that one thread has.
struct TermSums {
  float *key, *query, *bias;  // of_table numbers a head, without the scale; [buckets] a head
  int64_t of_table, buckets;

  TermSums of_head(int64_t head) const {
    return {key + head * of_table, query + head * of_table, bias + head * buckets, of_table, buckets};
  }
};

// How the sums of a head's table lie: [buckets, deep].
struct SumsByBucket {
  static int64_t size(int64_t buckets, int64_t deep) { return buckets * deep; }
  template <typename T>
  static void write(const float* sums, int64_t buckets, int64_t dim, float scale, T* to, int64_t stride) {
    scatter(sums, round_up(dim, 16), buckets, dim, scale, to, stride);
  }
};

struct TermGradients {
  float* of_products;      // [kRowBlock, wide]
  float* of_key_products;  // [padded_length, wide]
  TermSums sums;
};

inline TermGradients make_term_gradients(const Tile& tile, const Terms& terms, const TermSums& sums) {
  TermGradients g{thread_scratch(kQueryGradientSlot, kRowBlock * terms.wide),
                  thread_scratch(kKeyGradientSlot, tile.padded_length * terms.wide), sums};
  std::memset(g.of_key_products, 0, sizeof(float) * static_cast<size_t>(tile.padded_length * terms.wide));
  return g;
}

// ds: the gradients of the scores of rows [i0, i0 + rows) -> of their query products, onto those of the key
// products and the bias.
inline void collect_term_gradients(const Tile& tile, const Terms& terms, const TermGradients& g,
                                   const float* ds, int64_t i0, int64_t rows, const Columns& columns) {
  // An even number of rows: they may be taken in pairs.
  std::memset(g.of_products, 0, sizeof(float) * static_cast<size_t>(round_up(rows, 2) * terms.wide));
  const auto near = [&](const ScoreBlock& block, int64_t first) {
    add_near_gradients(terms, block, first, tile.padded_length, ds, g.of_products, g.of_key_products);
  };
  for_score_blocks(tile, terms, i0, rows, columns, near, [&](int64_t r, Keys keys) {
    const int64_t place = tile.first_place + i0 + r;
    for (int64_t j = keys.begin; j < keys.end; ++j) {
      const int64_t b = terms.bucket(place - j);
      g.of_products[r * terms.wide + b] += ds[r * tile.padded_length + j];
      g.of_key_products[j * terms.wide + b] += ds[r * tile.padded_length + j];
    }
  });
  for (int64_t r = 0; terms.bias && r < rows; ++r)
    for (int64_t b = 0; b < terms.count; ++b)
      g.sums.bias[terms.first + b] += g.of_products[r * terms.wide + b];
}

// Runs body(sums of the heads that read a key head) and writes them, those by query times `query_scale`.
template <typename Sums, typename T, typename Body>
void sum_term_gradients(const AttentionBackward<T>& op, int64_t kv_head, float query_scale,
                        const Body& body) {
  const Attention<T>& f = op.forward;
  const int64_t group = f.heads / f.kv_heads, dim = f.head_dim, deep = round_up(dim, 16);
  const int64_t buckets = f.relative->buckets, of_table = Sums::size(buckets, deep),
                of_group = group * of_table, all = 2 * of_group + group * buckets;
  float* memory = thread_scratch(kRelativeSumSlot, all);
  std::memset(memory, 0, sizeof(float) * static_cast<size_t>(all));
  const TermSums sums{memory, memory + of_group, memory + 2 * of_group, of_table, buckets};
  body(sums);
  for (int64_t h = 0; h < group; ++h) {
    const TermSums head = sums.of_head(h);
    const int64_t at = (kv_head * group + h) * dim, stride = f.heads * dim;
    if (f.relative->key && op.d_relative_key)
      Sums::write(head.key, buckets, dim, 1.0f, op.d_relative_key + at, stride);
    if (f.relative->query && op.d_relative_query)
      Sums::write(head.query, buckets, dim, query_scale, op.d_relative_query + at, stride);
    for (int64_t b = 0; f.relative->bias && op.d_relative_bias && b < buckets; ++b)
      op.d_relative_bias[b * f.heads + kv_head * group + h] = head.bias[b];
  }
}

// Runs body(segment, key head, sums, of_thread) over the key heads of all segments, where every thread has an
// OfThread of its own. Gradients of relative terms are sums over all segments: one thread then has a key
// head.
template <typename OfThread, typename Sums = SumsByBucket, typename T, typename Body>
void for_key_heads(const AttentionBackward<T>& op, float query_scale, const Body& body) {
  const Attention<T>& f = op.forward;
  const int64_t tasks = f.relative ? f.kv_heads : f.num_segments * f.kv_heads;
  const int64_t chunk = f.relative ? 1 : tasks_at_a_time(f.num_segments, f.kv_heads);
  ThreadErrors errors;
#pragma omp parallel if (is_parallel(f))
  {
    OfThread of_thread;
#pragma omp for schedule(dynamic, chunk)
    for (int64_t task = 0; task < tasks; ++task) {
      errors.run([&] {
        if (f.relative == nullptr) return body(task / f.kv_heads, task % f.kv_heads, TermSums{}, of_thread);
        sum_term_gradients<Sums>(op, task, query_scale, [&](const TermSums& sums) {
          for (int64_t segment = 0; segment < f.num_segments; ++segment) body(segment, task, sums, of_thread);
        });
      });
    }
  }
  errors.rethrow();
}

}  // namespace
}  // namespace msplora::kernels::MSPLORA_ISA
