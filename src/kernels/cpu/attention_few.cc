// Attention of a few queries over many keys. Keys and values are read once, where they lie, by all query
// heads that share them, and nothing is transposed. The keys are cut into parts, which threads share: each
// gives its largest score, and sums relative to that, and parts are put together in their order (Dao et al.,
// Flash-Decoding, 2023). The cut depends on the shapes alone.
#include "kernels/cpu/attention_few.h"

#include "kernels/cpu/activation_functions.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

constexpr int64_t kPartKeys = 256;
constexpr int kHeadsAtOnce = kLanes == 16 ? 4 : 2;  // with kVectorsAtOnce, sums that fit the registers
constexpr int kVectorsAtOnce = 4;
constexpr int kPartSlot = 35, kQuerySlot = 36, kScoreSlot = 37, kTaskSlot = 38;

// One query, the heads that read one key head, and keys [begin, end) of the segment.
struct FewTask {
  int64_t query, kv_head;  // row of q
  int64_t first_key;       // row of k and v of the segment's first key
  int64_t begin, end;
};

// What a head has of a part: the largest score, Σ e^(s - top), its weight among the parts, and Σ e^(s - top)
// v from kPartHead on.
constexpr int64_t kPartHead = 16;
int64_t part_size(int64_t deep) {
  return kPartHead + deep;
}

// Of one key head, the rows of a part are short and far apart: no hardware foresees them.
template <typename T>
MSPLORA_INLINE void fetch_row(const T* row, int64_t dim) {
  fetch_lines<0, 3>(row, dim);
}

// s[h, j] = scale q[h] · k[j] of kHeads heads; rows of q are `deep` apart, rows of s kPartKeys. Fetches the
// rows of v, which are read next.
template <int kHeads, typename T>
void scores(const float* q, int64_t deep, int64_t dim, const T* k, int64_t stride, int64_t keys, float* s,
            const T* v, int64_t v_stride) {
  constexpr int64_t kRowsAhead = 16;
  for (int64_t j = 0; j < keys; ++j, k += stride, v += v_stride) {
    fetch_row(k + kRowsAhead * stride, dim);
    fetch_row(v, dim);
    VecF sums[kHeads];
    for (int h = 0; h < kHeads; ++h) sums[h] = splat(0.0f);
    for (int64_t d = 0; d < dim; d += kLanes) {
      const VecF key = load_some(k + d, lanes_from(d, dim));
      for (int h = 0; h < kHeads; ++h) sums[h] += load(q + h * deep + d) * key;
    }
    for (int h = 0; h < kHeads; ++h) s[h * kPartKeys + j] = sum_lanes(sums[h]);
  }
}

// s -> e^(s - top) in place; returns top and the sum.
struct TopAndSum {
  float top, sum;
};
TopAndSum exponentials(float* s, int64_t keys, float cap) {
  const int64_t padded = round_up(keys, kLanes);
  if (cap > 0) {
    for (int64_t j = keys; j < padded; ++j) s[j] = 0.0f;
    for (int64_t j = 0; j < padded; j += kLanes) store(s + j, tanh(load(s + j) * (1.0f / cap)) * cap);
  }
  for (int64_t j = keys; j < padded; ++j) s[j] = -1e30f;
  VecF best = load(s);
  for (int64_t j = kLanes; j < padded; j += kLanes) best = vmax(load(s + j), best);
  const float top = max_lanes(best);
  for (int64_t j = 0; j < padded; j += kLanes) store(s + j, exp<true>(load(s + j) - top));
  for (int64_t j = keys; j < padded; ++j) s[j] = 0.0f;  // exp clamps
  VecF sum = splat(0.0f);
  for (int64_t j = 0; j < padded; j += kLanes) sum += load(s + j);
  return {top, sum_lanes(sum)};
}

// o[h, d] = Σ_j p[h, j] v[j, d] for kVectors whole vectors, the last of which has `last` lanes.
template <int kHeads, int kVectors, typename T>
void weighted_values(const float* p, const T* v, int64_t stride, int64_t keys, int last, float* o,
                     int64_t o_stride) {
  VecF sums[kHeads][kVectors];
  for (int h = 0; h < kHeads; ++h)
    for (int i = 0; i < kVectors; ++i) sums[h][i] = splat(0.0f);
  for (int64_t j = 0; j < keys; ++j, v += stride) {
    VecF value[kVectors];
    for (int i = 0; i < kVectors; ++i)
      value[i] = i + 1 < kVectors ? load(v + i * kLanes) : load_some(v + i * kLanes, last);
    for (int h = 0; h < kHeads; ++h) {
      const VecF weight = splat(p[h * kPartKeys + j]);
      for (int i = 0; i < kVectors; ++i) sums[h][i] += weight * value[i];
    }
  }
  for (int h = 0; h < kHeads; ++h)
    for (int i = 0; i < kVectors; ++i) store(o + h * o_stride + i * kLanes, sums[h][i]);
}

// Heads [head, head + kHeads) of a task; `to` is the part of the first of them.
template <int kHeads, typename T>
void few_heads(const Attention<T>& op, const FewTask& task, int64_t head, float* to) {
  const int64_t dim = op.head_dim, deep = round_up(dim, 16), keys = task.end - task.begin;
  const int64_t row = task.first_key + task.begin, column = task.kv_head * dim;
  float* q = thread_scratch(kQuerySlot, kHeadsAtOnce * deep);
  float* s = thread_scratch(kScoreSlot, kHeadsAtOnce * kPartKeys);
  for (int h = 0; h < kHeads; ++h) {
    const T* from = op.q + task.query * op.q_stride + (head + h) * dim;
    for (int64_t d = 0; d < deep; ++d)
      q[h * deep + d] = d < dim ? to_float(from[d]) * static_cast<float>(op.scale) : 0.0f;
  }
  const T* v = op.v + row * op.v_stride + column;
  scores<kHeads>(q, deep, dim, op.k + row * op.k_stride + column, op.k_stride, keys, s, v, op.v_stride);
  for (int h = 0; h < kHeads; ++h) {
    const TopAndSum sum = exponentials(s + h * kPartKeys, keys, static_cast<float>(op.soft_cap));
    to[h * part_size(deep)] = sum.top;
    to[h * part_size(deep) + 1] = sum.sum;
  }
  float* o = to + kPartHead;
  int64_t d = 0;
  constexpr int64_t kWide = kVectorsAtOnce * kLanes;
  for (; d + kWide <= dim; d += kWide)
    weighted_values<kHeads, kVectorsAtOnce>(s, v + d, op.v_stride, keys, kLanes, o + d, part_size(deep));
  for (; d < dim; d += kLanes)
    weighted_values<kHeads, 1>(s, v + d, op.v_stride, keys, lanes_from(d, dim), o + d, part_size(deep));
}

template <int kHeads, typename T>
void few_heads_of(int64_t heads, const Attention<T>& op, const FewTask& task, int64_t head, float* to) {
  if (heads == kHeads) return few_heads<kHeads>(op, task, head, to);
  if constexpr (kHeads > 1) few_heads_of<kHeads - 1>(heads, op, task, head, to);
}

// `parts`: those of the heads of the group, one after the other.
template <typename T>
void run_few(const Attention<T>& op, const FewTask& task, float* parts) {
  const int64_t group = op.heads / op.kv_heads, first = task.kv_head * group;
  for (int64_t h = 0; h < group; h += kHeadsAtOnce) {
    const int64_t heads = group - h < kHeadsAtOnce ? group - h : kHeadsAtOnce;
    few_heads_of<kHeadsAtOnce>(heads, op, task, first + h, parts + h * part_size(round_up(op.head_dim, 16)));
  }
}

// Puts the parts of one head of one query together, which lie `stride` apart.
template <typename T>
void merge_parts(const Attention<T>& op, int64_t query, int64_t head, float* parts, int64_t count,
                 int64_t stride) {
  float top = parts[0];
  for (int64_t p = 1; p < count; ++p) top = parts[p * stride] > top ? parts[p * stride] : top;
  float sum = 0.0f;
  for (int64_t p = 0; p < count; ++p) {
    float* part = parts + p * stride;
    part[2] = __builtin_expf(part[0] - top);
    sum += part[1] * part[2];
  }
  T* o = op.o + query * op.o_stride + head * op.head_dim;
  for (int64_t d = 0; d < op.head_dim; d += kLanes) {
    VecF value = splat(0.0f);
    for (int64_t p = 0; p < count; ++p)
      value += load(parts + p * stride + kPartHead + d) * parts[p * stride + 2];
    store_some(o + d, value * (1.0f / sum), lanes_from(d, op.head_dim));
  }
  if (op.lse) op.lse[query * op.heads + head] = top + __builtin_logf(sum);
}

int64_t parts_of(Keys seen) {
  return (seen.end - seen.begin + kPartKeys - 1) / kPartKeys;
}

// Calls body(tile, i, keys that query i sees) for each query of a few.
template <typename T, typename Body>
void for_queries(const Attention<T>& op, const Body& body) {
  for (int64_t s = 0; s < op.num_segments; ++s) {
    if (!has_few_queries(op, op.segments[s])) continue;
    const Tile tile = make_tile(op, s, 0);
    for (int64_t i = 0; i < tile.queries; ++i) body(tile, i, visible(tile, i));
  }
}

}  // namespace

template <typename T>
bool attention_of_few(const Attention<T>& op) {
  int64_t queries = 0, parts = 0, keys = 0, segments = 0;
  for (int64_t s = 0; s < op.num_segments; ++s) segments += has_few_queries(op, op.segments[s]);
  for_queries(op, [&](const Tile&, int64_t, Keys seen) {
    ++queries;
    parts += parts_of(seen);
    keys += seen.end - seen.begin;
  });
  const int64_t group = op.heads / op.kv_heads, size = group * part_size(round_up(op.head_dim, 16));
  // Of each query: its parts of the first key head, of the second, ...
  float* sums = thread_scratch(kPartSlot, parts * op.kv_heads * size);
  auto* tasks = reinterpret_cast<FewTask*>(
      thread_scratch(kTaskSlot, parts * op.kv_heads * static_cast<int64_t>(sizeof(FewTask) / sizeof(float))));
  int64_t count = 0;
  for_queries(op, [&](const Tile& tile, int64_t i, Keys seen) {
    for (int64_t kv_head = 0; kv_head < op.kv_heads; ++kv_head) {
      for (int64_t begin = seen.begin; begin < seen.end; begin += kPartKeys) {
        const int64_t end = begin + kPartKeys < seen.end ? begin + kPartKeys : seen.end;
        tasks[count++] = {tile.first_query + i, kv_head, tile.first_key, begin, end};
      }
    }
  });
  ThreadErrors errors;
#pragma omp parallel for schedule(dynamic, \
                                  1) if (count > 1 && keys * op.heads * op.head_dim > kParallelElements)
  for (int64_t task = 0; task < count; ++task)
    errors.run([&] { run_few(op, tasks[task], sums + task * size); });
  errors.rethrow();
  int64_t first = 0;
  for_queries(op, [&](const Tile& tile, int64_t i, Keys seen) {
    if (seen.begin == seen.end) {
      for (Tile one = tile; one.head < op.heads; ++one.head) attend_to_nothing(op, one, i, 1);
      return;
    }
    for (int64_t head = 0; head < op.heads; ++head) {
      const int64_t at = (first + head / group * parts_of(seen)) * size + head % group * (size / group);
      merge_parts(op, tile.first_query + i, head, sums + at, parts_of(seen), size);
    }
    first += op.kv_heads * parts_of(seen);
  });
  return segments < op.num_segments;
}

template bool attention_of_few(const Attention<float>&);
template bool attention_of_few(const Attention<Bfloat16>&);

}  // namespace msplora::kernels::MSPLORA_ISA
