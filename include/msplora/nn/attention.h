#pragma once

#include <ATen/core/Tensor.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "msplora/kernels/kernels.h"

/// Attention, under the rules of functional.h.
namespace msplora {

/// Heads, what a token sees, and what its scores are, as in kernels::Attention.
struct AttentionShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t window_left = -1;
  int64_t window_right = -1;  // 0: causal
  double scale = 0.0;         // of scores; 0: 1 / sqrt(head_dim)
  double soft_cap = 0.0;      // scores become cap tanh(score / cap); 0: none

  double used_scale() const { return scale > 0 ? scale : 1.0 / std::sqrt(static_cast<double>(head_dim)); }
};

/// Which rows attend to which, and where they stand in their sequence.
using AttentionSegment = kernels::AttentionSegment;
/// The sequences of a packed batch: every token asks and is asked.
std::vector<AttentionSegment> packed_segments(const std::vector<int32_t>& cu_seqlens);
/// Their first or last tokens alone ask, in one row for each sequence.
std::vector<AttentionSegment> first_token_segments(const std::vector<int32_t>& cu_seqlens);
std::vector<AttentionSegment> last_token_segments(const std::vector<int32_t>& cu_seqlens);

/// Queries [rows, heads * head_dim], keys and values [rows, kv_heads * head_dim] as columns of up to three
/// arrays: what a joint product leaves in one array is read there and gets one gradient.
struct AttentionInput {
  struct Place {
    size_t array = 0;
    int64_t column = 0;
  };
  std::vector<at::Tensor> arrays;
  Place q, k, v;

  static AttentionInput apart(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);
  /// Keys and values side by side.
  static AttentionInput beside(const at::Tensor& q, const at::Tensor& kv, const AttentionShape& shape);
  /// All three side by side.
  static AttentionInput joint(const at::Tensor& qkv, const AttentionShape& shape);
};

/// What scores get by distance (kernels::RelativeTerms); undefined tensors: no such term.
struct RelativeAttention {
  std::vector<int32_t>
      bucket_of;          // of the distances -reach to reach, query - key; farther ones count as these
  at::Tensor key, query;  // [buckets, heads * head_dim]: met by queries, by keys
  at::Tensor bias;        // [buckets, heads]

  bool is_defined() const { return key.defined() || query.defined() || bias.defined(); }
};

struct AttentionCall {
  std::vector<AttentionSegment> segments;
  AttentionShape shape;
  kernels::DropoutMask mask;
  RelativeAttention relative;
};

/// [rows of the queries, heads * head_dim]; 0 in rows of no segment. Gradients flow to all tensors. Throws
/// Error{kUsage} for segments that reach beyond their arrays or share queries (where gradients are wanted:
/// keys, too, and columns of arrays), and for arrays and relative terms that do not fit the shape.
at::Tensor attention(const AttentionInput& input, const AttentionCall& call);

}  // namespace msplora
