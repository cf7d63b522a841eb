#include "kernels/ref/reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace msplora::kernels::ref {
namespace {

// Probabilities and mask factors of one query row, of the keys from token `first` on.
struct Row {
  int64_t first = 0;
  std::vector<double> p, factor;
  double lse = 0;
};

Row attention_row(const SegmentAttention<double>& op, int64_t segment, int64_t head, int64_t i) {
  const int64_t begin = op.cu_seqlens[segment], length = op.length(segment);
  const int64_t kv = head / (op.heads / op.kv_heads), d = op.head_dim, place = op.query_place(segment) + i;
  const int64_t from = op.window_left < 0 ? 0 : std::max<int64_t>(0, place - op.window_left);
  const int64_t to = op.window_right < 0 ? length : std::min(length, place + op.window_right + 1);
  const int64_t n = to - from;
  const double* q = op.q + (op.query_row(segment) + i) * op.q_stride + head * d;
  Row row{begin + from, std::vector<double>(static_cast<size_t>(n)),
          std::vector<double>(static_cast<size_t>(n), 1.0), 0};
  double top = -INFINITY, total = 0;
  for (int64_t j = 0; j < n; ++j) {
    const double* k = op.k + (row.first + j) * op.k_stride + kv * d;
    double dot = 0;
    for (int64_t c = 0; c < d; ++c) dot += q[c] * k[c];
    row.p[j] = dot * op.scale;
    top = std::max(top, row.p[j]);
  }
  for (double& p : row.p) total += p = std::exp(p - top);
  for (double& p : row.p) p /= total;
  row.lse = top + std::log(total);
  if (op.mask.active()) {
    const DropoutMask mask{attention_mask_key(op.mask.key, begin, head), op.mask.p};
    const int64_t padded = (length + 15) / 16 * 16;
    for (int64_t j = 0; j < n; ++j) row.factor[j] = mask_factor(mask, i * padded + from + j);
  }
  return row;
}

template <typename Body>
void for_each_row(const SegmentAttention<double>& op, Body body) {
  for (int64_t segment = 0; segment < op.segments; ++segment) {
    for (int64_t head = 0; head < op.heads; ++head)
      for (int64_t i = 0; i < op.query_count(segment); ++i)
        body(op.query_row(segment) + i, head, attention_row(op, segment, head, i));
  }
}

void clear(double* data, int64_t tokens, int64_t width, int64_t stride) {
  for (int64_t t = 0; t < tokens; ++t) std::fill(data + t * stride, data + t * stride + width, 0.0);
}

}  // namespace

void segment_attention(const SegmentAttention<double>& op) {
  for_each_row(op, [&](int64_t query, int64_t head, const Row& row) {
    const int64_t kv = head / (op.heads / op.kv_heads);
    double* o = op.o + query * op.o_stride + head * op.head_dim;
    for (int64_t c = 0; c < op.head_dim; ++c) {
      double sum = 0;
      for (size_t j = 0; j < row.p.size(); ++j)
        sum += row.p[j] * row.factor[j] *
               op.v[(row.first + static_cast<int64_t>(j)) * op.v_stride + kv * op.head_dim + c];
      o[c] = sum;
    }
    if (op.lse) op.lse[query * op.heads + head] = static_cast<float>(row.lse);
  });
}

void segment_attention_backward(const SegmentAttentionBackward<double>& op) {
  const SegmentAttention<double>& f = op.forward;
  const int64_t tokens = f.cu_seqlens[f.segments], d = f.head_dim;
  clear(op.dq, f.queries == Queries::kAll ? tokens : f.segments, f.heads * d, f.q_stride);
  clear(op.dk, tokens, f.kv_heads * d, f.k_stride);
  clear(op.dv, tokens, f.kv_heads * d, f.v_stride);
  for_each_row(f, [&](int64_t at, int64_t head, const Row& row) {
    const int64_t kv = head / (f.heads / f.kv_heads);
    const double* d_o = op.d_o + at * f.o_stride + head * d;
    const double* q = f.q + at * f.q_stride + head * d;
    std::vector<double> dp(row.p.size());
    double delta = 0;
    for (size_t j = 0; j < row.p.size(); ++j) {
      const double* v = f.v + (row.first + static_cast<int64_t>(j)) * f.v_stride + kv * d;
      for (int64_t c = 0; c < d; ++c) dp[j] += d_o[c] * v[c];
      dp[j] *= row.factor[j];
      delta += dp[j] * row.p[j];
    }
    for (size_t j = 0; j < row.p.size(); ++j) {
      const int64_t key = row.first + static_cast<int64_t>(j);
      const double ds = row.p[j] * (dp[j] - delta) * f.scale;
      for (int64_t c = 0; c < d; ++c) {
        op.dq[at * f.q_stride + head * d + c] += ds * f.k[key * f.k_stride + kv * d + c];
        op.dk[key * f.k_stride + kv * d + c] += ds * q[c];
        op.dv[key * f.v_stride + kv * d + c] += row.p[j] * row.factor[j] * d_o[c];
      }
    }
  });
}

}  // namespace msplora::kernels::ref
