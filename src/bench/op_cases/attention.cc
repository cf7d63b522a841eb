#include <fmt/format.h>
#include <algorithm>
#include <cmath>
#include "bench/op_case.h"
#include "msplora/nn/functional.h"

namespace msplora::bench {
namespace {

using kernels::Queries;

struct AttentionSizes {
  std::vector<int32_t> bounds;
  int64_t heads, kv_heads, head_dim;
  double p = 0.0;
  int64_t left = -1, right = -1;
  Queries queries = Queries::kAll;

  int64_t query_rows() const {
    return queries == Queries::kAll ? bounds.back() : static_cast<int64_t>(bounds.size()) - 1;
  }
  std::string what() const {
    return fmt::format("{} of {} heads of {}, lengths to {}, dropout {}, window {} {}{}", heads, kv_heads,
                       head_dim, bounds.back(), p, left, right,
                       queries == Queries::kAll ? "" : ", one query");
  }
};

/// Which of q, k and v are one array.
enum class Joint { kNone, kKeyValue, kAll };

template <typename T>
void build_attention(OpFrame<T>& f, const AttentionSizes& c, Joint joint) {
  using Pair = typename OpFrame<T>::template Pair<T>;
  const int64_t tokens = c.bounds.back(), wide = c.heads * c.head_dim, narrow = c.kv_heads * c.head_dim;
  Pair q{}, key{}, v{};
  int64_t q_stride = wide, kv_stride = narrow;
  const auto part = [](const Pair& whole, int64_t column) {
    return Pair{whole.value + column, whole.gradient + column};
  };
  if (joint == Joint::kAll) {
    q_stride = kv_stride = wide + 2 * narrow;
    q = f.input("qkv", {tokens, q_stride});
    key = part(q, wide);
    v = part(q, wide + narrow);
  } else {
    q = f.input("q", {c.query_rows(), wide});
    if (joint == Joint::kKeyValue) kv_stride = 2 * narrow;
    key = f.input("k", {tokens, kv_stride});
    v = joint == Joint::kKeyValue ? part(key, narrow) : f.input("v", {tokens, narrow});
  }
  const auto o = f.output("o", {c.query_rows(), wide});
  float* const lse = f.saved_floats("lse", {c.query_rows(), c.heads});
  const AttentionShape shape{c.heads, c.kv_heads, c.head_dim, c.left, c.right, c.queries};
  const kernels::DropoutMask mask{31, c.p};
  const auto op = [=] {
    kernels::SegmentAttention<T> a;
    a.cu_seqlens = c.bounds.data();
    a.segments = static_cast<int64_t>(c.bounds.size()) - 1;
    a.heads = c.heads, a.kv_heads = c.kv_heads, a.head_dim = c.head_dim;
    a.q_stride = q_stride, a.k_stride = a.v_stride = kv_stride, a.o_stride = wide;
    a.scale = shape.used_scale();
    a.window_left = c.left, a.window_right = c.right;
    a.queries = c.queries;
    a.mask = mask;
    a.q = q.value, a.k = key.value, a.v = v.value, a.o = o.value, a.lse = lse;
    return a;
  };
  double pairs = 0, rows = static_cast<double>(2 * c.query_rows() * wide + 2 * tokens * narrow);
  for (size_t s = 1; s < c.bounds.size(); ++s)
    pairs += std::pow(static_cast<double>(c.bounds[s] - c.bounds[s - 1]), 2);
  const double products = pairs * static_cast<double>(wide), scores = pairs * static_cast<double>(c.heads);
  const double masks = mask.active() ? kMaskOperations : 0;
  f.forward({4 * products + (kExpOperations + 4 + masks) * scores, rows * sizeof(T)},
            [=](const auto& k) { k.segment_attention(op()); });
  f.backward({10 * products + (kExpOperations + 6 + masks) * scores, 2 * rows * sizeof(T)},
             [=](const auto& k) {
               k.segment_attention_backward({op(), o.gradient, q.gradient, key.gradient, v.gradient});
             });
  if (mask.active()) return;  // the composition draws other numbers
  f.function = [=](const auto& in) -> std::vector<at::Tensor> {
    if (joint == Joint::kAll) return {segment_attention(in[0], c.bounds, shape, mask)};
    if (joint == Joint::kKeyValue) return {segment_attention(in[0], in[1], c.bounds, shape, mask)};
    return {segment_attention(in[0], in[1], in[2], c.bounds, shape, mask)};
  };
}

// Windows to both sides, of one token, beyond the segment, no multiple of a tile, with whole tiles out of
// sight on either side; with masks that are drawn for the columns in sight alone (long segments) and for all.
const std::vector<AttentionSizes> kAttention = {{{0, 1, 3}, 1, 1, 8},
                                                {{0, 3, 7}, 2, 2, 3, 0.2},
                                                {{0, 3, 3, 7}, 2, 1, 3, 0.0, 1, 2},
                                                {{0, 5, 22, 31}, 4, 4, 8},
                                                {{0, 33, 34, 130}, 2, 2, 64, 0.1},
                                                {{0, 7, 80}, 4, 2, 24, 0.0, -1, 0},
                                                {{0, 65, 100}, 6, 2, 16, 0.2, -1, 0},
                                                {{0, 17}, 3, 1, 5},
                                                {{0, 40, 41}, 2, 1, 32, 0.1, -1, -1, Queries::kFirst},
                                                {{0, 9, 70}, 2, 2, 6, 0.0, -1, 0, Queries::kLast},
                                                {{0, 7, 80}, 4, 2, 24, 0.0, 0, 0},
                                                {{0, 7, 80}, 4, 2, 24, 0.0, 5, 0},
                                                {{0, 3, 103, 104}, 2, 1, 16, 0.0, 500, 0},
                                                {{0, 33, 34, 230}, 2, 2, 32, 0.0, 19, 0},
                                                {{0, 33, 34, 230}, 2, 2, 32, 0.2, 19, 0},
                                                {{0, 150}, 6, 2, 16, 0.1, 100, 0},
                                                {{0, 129, 200}, 2, 2, 64, 0.0, 63, 0},
                                                {{0, 5, 150}, 2, 2, 8, 0.0, 4, 4},
                                                {{0, 170, 171}, 3, 1, 10, 0.1, 21, 38},
                                                {{0, 100}, 2, 1, 16, 0.0, -1, 5},
                                                {{0, 120}, 2, 1, 16, 0.0, 7, -1},
                                                {{0, 90}, 2, 2, 16, 0.0, 0, -1},
                                                {{0, 77, 99}, 3, 1, 5, 0.0, 16, 0},
                                                {{0, 90, 91, 99}, 4, 2, 16, 0.0, 6, 0, Queries::kLast},
                                                {{0, 90, 91, 99}, 4, 2, 16, 0.2, 40, 3, Queries::kLast},
                                                {{0, 90, 91, 99}, 4, 2, 16, 0.1, 3, 20, Queries::kFirst}};

}  // namespace

OpCases segment_attention_cases() {
  OpCases cases;
  for (const AttentionSizes& c : kAttention) {
    cases.small.emplace_back(c.what(), [c](auto& f) { build_attention(f, c, Joint::kNone); });
    const Joint joint = c.queries == Queries::kAll ? Joint::kAll : Joint::kKeyValue;
    cases.small.emplace_back(c.what() + ", joint", [c, joint](auto& f) { build_attention(f, c, joint); });
  }
  cases.of_model = [](const OpSizes& s) {
    AttentionSizes c{{}, s.model.heads(), s.model.heads(), s.width() / s.model.heads(), s.dropout};
    for (int64_t b = 0; b <= s.batch; ++b) c.bounds.push_back(static_cast<int32_t>(b * s.length));
    return std::vector<OpCase>{{"attention", [c](auto& f) { build_attention(f, c, Joint::kNone); }}};
  };
  cases.float_tolerance = 1e-5;
  cases.bfloat16_tolerance = 3e-2;
  return cases;
}

}  // namespace msplora::bench
