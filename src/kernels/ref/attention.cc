#include "kernels/ref/reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace msplora::kernels::ref {
namespace {

// One query row of a head: what it is, and of each key that it sees probability, mask factor, the derivative
// of the cap and the bucket of the distance.
struct Row {
  int64_t query = 0, head = 0, kv_head = 0, first_key = 0;
  std::vector<double> p, factor, slope;
  std::vector<int64_t> bucket;
  double lse = 0;

  int64_t keys() const { return static_cast<int64_t>(p.size()); }
};

double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

const double* query_of(const Attention<double>& op, const Row& row) {
  return op.q + row.query * op.q_stride + row.head * op.head_dim;
}
const double* key_of(const Attention<double>& op, const Row& row, int64_t j) {
  return op.k + (row.first_key + j) * op.k_stride + row.kv_head * op.head_dim;
}
const double* value_of(const Attention<double>& op, const Row& row, int64_t j) {
  return op.v + (row.first_key + j) * op.v_stride + row.kv_head * op.head_dim;
}
// Of the relative key or query (or of their gradients) of a bucket.
int64_t relative_at(const Attention<double>& op, const Row& row, int64_t bucket) {
  return (bucket * op.heads + row.head) * op.head_dim;
}

double score(const Attention<double>& op, const Row& row, int64_t j, int64_t bucket) {
  const int64_t d = op.head_dim;
  const double *q = query_of(op, row), *k = key_of(op, row, j);
  double products = dot(q, k, d), bias = 0;
  if (const RelativeTerms<double>* relative = op.relative) {
    const int64_t at = relative_at(op, row, bucket);
    if (relative->key) products += dot(q, relative->key + at, d);
    if (relative->query) products += dot(k, relative->query + at, d);
    if (relative->bias) bias = relative->bias[bucket * op.heads + row.head];
  }
  return op.scale * products + bias;
}

Row attention_row(const Attention<double>& op, const AttentionSegment& segment, int64_t head, int64_t i) {
  const int64_t place = segment.q_place + i - segment.k_place;  // counted from the first key
  const int64_t from = op.window_left < 0 ? 0 : std::max<int64_t>(0, place - op.window_left);
  const int64_t to =
      op.window_right < 0 ? segment.k_count : std::min<int64_t>(segment.k_count, place + op.window_right + 1);
  Row row;
  row.query = segment.q_begin + i;
  row.head = head;
  row.kv_head = head / (op.heads / op.kv_heads);
  row.first_key = segment.k_begin + from;
  double top = -INFINITY, total = 0;
  for (int64_t j = from; j < to; ++j) {
    int64_t bucket = 0;
    if (op.relative) {
      const int64_t reach = op.relative->reach;
      bucket = op.relative->bucket_of[std::clamp(place - j, -reach, reach) + reach];
    }
    double s = score(op, row, j - from, bucket), slope = 1;
    if (op.soft_cap > 0) {
      const double t = std::tanh(s / op.soft_cap);
      s = op.soft_cap * t;
      slope = 1 - t * t;
    }
    row.p.push_back(s);
    row.slope.push_back(slope);
    row.bucket.push_back(bucket);
    top = std::max(top, s);
  }
  for (double& p : row.p) total += (p = std::exp(p - top));
  for (double& p : row.p) p /= total;
  row.lse = row.p.empty() ? -INFINITY : top + std::log(total);
  const DropoutMask mask{attention_mask_key(op.mask.key, segment.k_begin, head), op.mask.p};
  const int64_t padded = (segment.k_count + 15) / 16 * 16;
  for (int64_t j = from; j < to; ++j) row.factor.push_back(mask_factor(mask, i * padded + j));
  return row;
}

template <typename Body>
void for_each_row(const Attention<double>& op, Body body) {
  for (int64_t s = 0; s < op.num_segments; ++s) {
    for (int64_t head = 0; head < op.heads; ++head)
      for (int64_t i = 0; i < op.segments[s].q_count; ++i) body(attention_row(op, op.segments[s], head, i));
  }
}

void clear(double* data, int64_t begin, int64_t rows, int64_t width, int64_t stride) {
  for (int64_t t = begin; t < begin + rows; ++t) std::fill_n(data + t * stride, width, 0.0);
}

void clear_gradients(const AttentionBackward<double>& op) {
  const Attention<double>& f = op.forward;
  const int64_t wide = f.heads * f.head_dim, narrow = f.kv_heads * f.head_dim;
  for (int64_t s = 0; s < f.num_segments; ++s) {
    const AttentionSegment& segment = f.segments[s];
    clear(op.dq, segment.q_begin, segment.q_count, wide, f.q_stride);
    clear(op.dk, segment.k_begin, segment.k_count, narrow, f.k_stride);
    clear(op.dv, segment.k_begin, segment.k_count, narrow, f.v_stride);
  }
  if (f.relative == nullptr) return;
  const int64_t buckets = f.relative->buckets;
  if (op.d_relative_key) std::fill_n(op.d_relative_key, buckets * wide, 0.0);
  if (op.d_relative_query) std::fill_n(op.d_relative_query, buckets * wide, 0.0);
  if (op.d_relative_bias) std::fill_n(op.d_relative_bias, buckets * f.heads, 0.0);
}

// to += factor * from.
void add(double* to, double factor, const double* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

// The gradient ds of the score of key j before its cap.
void add_score_gradient(const AttentionBackward<double>& op, const Row& row, int64_t j, double ds) {
  const Attention<double>& f = op.forward;
  const int64_t d = f.head_dim, bucket = row.bucket[static_cast<size_t>(j)];
  const double *q = query_of(f, row), *k = key_of(f, row, j), scaled = ds * f.scale;
  double* dq = op.dq + (q - f.q);
  double* dk = op.dk + (k - f.k);
  add(dq, scaled, k, d);
  add(dk, scaled, q, d);
  if (f.relative == nullptr) return;
  const int64_t at = relative_at(f, row, bucket);
  if (f.relative->key) {
    add(dq, scaled, f.relative->key + at, d);
    if (op.d_relative_key) add(op.d_relative_key + at, scaled, q, d);
  }
  if (f.relative->query) {
    add(dk, scaled, f.relative->query + at, d);
    if (op.d_relative_query) add(op.d_relative_query + at, scaled, k, d);
  }
  if (op.d_relative_bias) op.d_relative_bias[bucket * f.heads + row.head] += ds;
}

}  // namespace

void attention(const Attention<double>& op) {
  for_each_row(op, [&](const Row& row) {
    double* o = op.o + row.query * op.o_stride + row.head * op.head_dim;
    std::fill_n(o, op.head_dim, 0.0);
    for (int64_t j = 0; j < row.keys(); ++j) {
      const auto at = static_cast<size_t>(j);
      add(o, row.p[at] * row.factor[at], value_of(op, row, j), op.head_dim);
    }
    if (op.lse) op.lse[row.query * op.heads + row.head] = static_cast<float>(row.lse);
  });
}

void attention_backward(const AttentionBackward<double>& op) {
  const Attention<double>& f = op.forward;
  clear_gradients(op);
  for_each_row(f, [&](const Row& row) {
    const double* d_o = op.d_o + row.query * f.o_stride + row.head * f.head_dim;
    std::vector<double> dp;
    double delta = 0;
    for (int64_t j = 0; j < row.keys(); ++j) {
      const auto at = static_cast<size_t>(j);
      dp.push_back(dot(d_o, value_of(f, row, j), f.head_dim) * row.factor[at]);
      delta += dp[at] * row.p[at];
    }
    for (int64_t j = 0; j < row.keys(); ++j) {
      const auto at = static_cast<size_t>(j);
      add_score_gradient(op, row, j, row.p[at] * (dp[at] - delta) * row.slope[at]);
      add(op.dv + (value_of(f, row, j) - f.v), row.p[at] * row.factor[at], d_o, f.head_dim);
    }
  });
}

}  // namespace msplora::kernels::ref
