#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include "bench/op_case.h"
#include "msplora/nn/attention.h"

namespace msplora::bench {
namespace {

using Segments = std::vector<AttentionSegment>;

struct AttentionSizes {
  Segments segments;
  int64_t heads, kv_heads, head_dim;
  double p = 0.0;
  int64_t left = -1, right = -1;
  double cap = 0.0;
  int64_t reach = -1;           // of relative terms; -1: none
  bool has_own_bucket = false;  // each distance; else three share one, the smallest distances the last one
  bool has_key = true, has_query = true, has_bias = true;
  bool is_shared = false;  // segments have keys in common: no gradients

  int64_t queries() const {
    return rows([](const AttentionSegment& s) { return s.q_begin + s.q_count; });
  }
  int64_t keys() const {
    return rows([](const AttentionSegment& s) { return s.k_begin + s.k_count; });
  }
  int64_t buckets() const { return has_own_bucket ? 2 * reach + 1 : 2 * reach / 3 + 1; }
  std::vector<int32_t> bucket_of() const {
    std::vector<int32_t> buckets_of;
    for (int64_t d = 0; d <= 2 * reach; ++d)
      buckets_of.push_back(static_cast<int32_t>(has_own_bucket ? d : buckets() - 1 - d / 3));
    return buckets_of;
  }
  std::string what() const {
    std::string text = fmt::format("{} of {} heads of {}, {} segments, {} queries of {} keys", heads,
                                   kv_heads, head_dim, segments.size(), queries(), keys());
    if (p > 0) text += fmt::format(", dropout {}", p);
    if (left >= 0 || right >= 0) text += fmt::format(", window {} {}", left, right);
    if (cap > 0) text += fmt::format(", cap {}", cap);
    if (reach >= 0)
      text += fmt::format(", relative{}{}{} up to {}{}", has_key ? " key" : "", has_query ? " query" : "",
                          has_bias ? " bias" : "", reach, has_own_bucket ? " one by one" : "");
    return text;
  }

 private:
  template <typename End>
  int64_t rows(End end) const {
    int64_t last = 0;
    for (const AttentionSegment& segment : segments) last = std::max<int64_t>(last, end(segment));
    return last;
  }
};

/// Which of q, k and v are one array.
enum class Joint { kNone, kKeyValue, kAll };

template <typename T>
struct AttentionArrays {
  using Pair = typename OpFrame<T>::template Pair<T>;
  Pair q{}, k{}, v{}, o{}, relative_key{}, relative_query{};
  typename OpFrame<T>::template Pair<kernels::Exact<T>> relative_bias{};
  int64_t q_stride = 0, k_stride = 0, v_stride = 0;
  float* lse = nullptr;
};

template <typename T>
AttentionArrays<T> name_arrays(OpFrame<T>& f, const AttentionSizes& c, Joint joint) {
  using Pair = typename AttentionArrays<T>::Pair;
  const int64_t wide = c.heads * c.head_dim, narrow = c.kv_heads * c.head_dim;
  const auto array = [&](const char* name, at::IntArrayRef shape) {
    return c.is_shared ? Pair{f.constant(name, shape), nullptr} : f.input(name, shape);
  };
  const auto part = [](const Pair& whole, int64_t column) {
    return Pair{whole.value + column, whole.gradient ? whole.gradient + column : nullptr};
  };
  AttentionArrays<T> a;
  if (joint == Joint::kAll) {
    a.q_stride = a.k_stride = a.v_stride = wide + 2 * narrow;
    a.q = array("qkv", {c.queries(), a.q_stride});
    a.k = part(a.q, wide);
    a.v = part(a.q, wide + narrow);
  } else {
    a.q_stride = wide;
    a.k_stride = a.v_stride = joint == Joint::kKeyValue ? 2 * narrow : narrow;
    a.q = array("q", {c.queries(), wide});
    a.k = array("k", {c.keys(), a.k_stride});
    a.v = joint == Joint::kKeyValue ? part(a.k, narrow) : array("v", {c.keys(), narrow});
  }
  if (c.reach >= 0) {
    if (c.has_key) a.relative_key = f.input("relative key", {c.buckets(), wide});
    if (c.has_query) a.relative_query = f.input("relative query", {c.buckets(), wide});
    if (c.has_bias) a.relative_bias = f.exact_input("relative bias", {c.buckets(), c.heads});
  }
  a.o = f.output("o", {c.queries(), wide});
  a.lse = f.saved_floats("lse", {c.queries(), c.heads});
  return a;
}

AttentionShape shape_of(const AttentionSizes& c) {
  return {c.heads, c.kv_heads, c.head_dim, c.left, c.right, 0.0, c.cap};
}

/// Calls body(op) with the arguments.
template <typename T, typename Body>
void with_op(const AttentionSizes& c, const AttentionArrays<T>& a, kernels::Precision precision,
             const Body& body) {
  const std::vector<int32_t> bucket_of = c.bucket_of();
  const kernels::RelativeTerms<T> relative{
      c.buckets(),          c.reach, bucket_of.data(), a.relative_key.value, a.relative_query.value,
      a.relative_bias.value};
  kernels::Attention<T> op;
  op.segments = c.segments.data();
  op.num_segments = static_cast<int64_t>(c.segments.size());
  op.heads = c.heads, op.kv_heads = c.kv_heads, op.head_dim = c.head_dim;
  op.q_stride = a.q_stride, op.k_stride = a.k_stride, op.v_stride = a.v_stride,
  op.o_stride = c.heads * c.head_dim;
  op.scale = shape_of(c).used_scale();
  op.soft_cap = c.cap;
  op.window_left = c.left, op.window_right = c.right;
  op.mask = {31, c.p};
  op.precision = precision;
  if (c.reach >= 0) op.relative = &relative;
  op.q = a.q.value, op.k = a.k.value, op.v = a.v.value, op.o = a.o.value, op.lse = a.lse;
  body(op);
}

template <typename T>
void set_costs(OpFrame<T>& f, const AttentionSizes& c) {
  double pairs = 0, terms = 0;  // terms: rows times buckets that occur
  for (const AttentionSegment& s : c.segments) {
    pairs += static_cast<double>(s.q_count) * s.k_count;
    const double buckets = std::min<double>(static_cast<double>(c.buckets()), (s.q_count + s.k_count) / 3.0);
    if (c.reach >= 0) terms += buckets * (s.q_count * c.has_key + s.k_count * c.has_query);
  }
  const auto wide = static_cast<double>(c.heads * c.head_dim);
  const double products = (pairs + terms / 2) * wide, scores = pairs * static_cast<double>(c.heads);
  const double numbers = 2.0 * (static_cast<double>(c.queries()) * wide +
                                static_cast<double>(c.keys() * c.kv_heads * c.head_dim));
  const double each = kExpOperations * (c.cap > 0 ? 2 : 1) + (c.p > 0 ? kMaskOperations : 0);
  f.forward_cost = {(each + 4) * scores, numbers * sizeof(T), 4 * products};
  f.backward_cost = {(each + 6) * scores, 2 * numbers * sizeof(T), 10 * products};
}

template <typename T>
void build_attention(OpFrame<T>& f, const AttentionSizes& c, Joint joint) {
  const AttentionArrays<T> a = name_arrays(f, c, joint);
  const kernels::Precision precision = f.precision;
  f.forward({}, [=](const auto& k) { with_op(c, a, precision, [&](const auto& op) { k.attention(op); }); });
  if (!c.is_shared) {
    f.backward({}, [=](const auto& k) {
      with_op(c, a, precision, [&](const auto& op) {
        k.attention_backward({op, a.o.gradient, a.q.gradient, a.k.gradient, a.v.gradient,
                              a.relative_key.gradient, a.relative_query.gradient, a.relative_bias.gradient});
      });
    });
  }
  set_costs(f, c);
  if (c.p > 0) return;  // the composition draws other numbers
  f.function = [=](const auto& in) -> std::vector<at::Tensor> {
    AttentionCall call{c.segments, shape_of(c), {}, {}};
    const AttentionInput input = joint == Joint::kAll ? AttentionInput::joint(in[0], call.shape)
                                 : joint == Joint::kKeyValue
                                     ? AttentionInput::beside(in[0], in[1], call.shape)
                                     : AttentionInput::apart(in[0], in[1], in[2]);
    size_t at = input.arrays.size();
    if (c.reach >= 0) {
      call.relative.bucket_of = c.bucket_of();
      if (c.has_key) call.relative.key = in[at++];
      if (c.has_query) call.relative.query = in[at++];
      if (c.has_bias) call.relative.bias = in[at++];
    }
    return {attention(input, call)};
  };
}

Segments packed(const std::vector<int32_t>& bounds) {
  return packed_segments(bounds);
}

/// Packed sequences: windows to both sides, of one token, beyond the segment, no multiple of a tile, with
/// whole tiles out of sight on either side; with masks that are drawn for the columns in sight alone (long
/// segments) and for all.
std::vector<AttentionSizes> packed_cases() {
  return {{packed({0, 1, 3}), 1, 1, 8},
          {packed({0, 3, 7}), 2, 2, 3, 0.2},
          {packed({0, 3, 3, 7}), 2, 1, 3, 0.0, 1, 2},
          {packed({0, 5, 22, 31}), 4, 4, 8},
          {packed({0, 33, 34, 130}), 2, 2, 64, 0.1},
          {packed({0, 7, 80}), 4, 2, 24, 0.0, -1, 0},
          {packed({0, 65, 100}), 6, 2, 16, 0.2, -1, 0},
          {packed({0, 17}), 3, 1, 5},
          {packed({0, 7, 80}), 4, 2, 24, 0.0, 0, 0},
          {packed({0, 7, 80}), 4, 2, 24, 0.0, 5, 0},
          {packed({0, 3, 103, 104}), 2, 1, 16, 0.0, 500, 0},
          {packed({0, 33, 34, 230}), 2, 2, 32, 0.0, 19, 0},
          {packed({0, 33, 34, 230}), 2, 2, 32, 0.2, 19, 0},
          {packed({0, 150}), 6, 2, 16, 0.1, 100, 0},
          {packed({0, 129, 200}), 2, 2, 64, 0.0, 63, 0},
          {packed({0, 5, 150}), 2, 2, 8, 0.0, 4, 4},
          {packed({0, 170, 171}), 3, 1, 10, 0.1, 21, 38},
          {packed({0, 100}), 2, 1, 16, 0.0, -1, 5},
          {packed({0, 120}), 2, 1, 16, 0.0, 7, -1},
          {packed({0, 90}), 2, 2, 16, 0.0, 0, -1},
          {packed({0, 77, 99}), 3, 1, 5, 0.0, 16, 0}};
}

/// Queries and keys of their own ranges and places.
std::vector<AttentionSizes> ranged_cases() {
  const Segments cache = {{0, 1, 0, 41, 40, 0}, {1, 1, 41, 7, 6, 0}, {2, 1, 48, 100, 99, 0}};
  const Segments chunk = {{0, 37, 0, 90, 53, 0}, {37, 5, 90, 9, 4, 0}};
  const Segments dropped = {{0, 3, 0, 30, 48, 20}, {3, 40, 30, 64, 100, 76}};  // the first keys are gone
  const Segments blind = {{0, 40, 0, 10, 0, 30}, {40, 70, 10, 20, 0, 60}};  // the first queries see nothing
  const Segments empty = {{0, 3, 0, 0, 0, 0}, {3, 0, 0, 5, 0, 0}, {3, 4, 5, 6, 0, 0}};
  const Segments mixed = {{4, 3, 11, 5, 2, 0}, {0, 4, 0, 11, 7, 0}};  // not in order
  const Segments few = {{0, 1, 0, 600, 599, 0}, {1, 3, 600, 300, 297, 0}, {4, 4, 900, 5, 1, 0}};
  const Segments few_blind = {{0, 2, 0, 10, 0, 30}, {2, 1, 10, 17, 16, 0}, {3, 20, 27, 20, 0, 0}};
  return {{first_token_segments({0, 40, 41}), 2, 1, 32, 0.1},
          {last_token_segments({0, 9, 70}), 2, 2, 6, 0.0, -1, 0},
          {last_token_segments({0, 90, 91, 99}), 4, 2, 16, 0.0, 6, 0},
          {last_token_segments({0, 90, 91, 99}), 4, 2, 16, 0.2, 40, 3},
          {first_token_segments({0, 90, 91, 99}), 4, 2, 16, 0.1, 3, 20},
          {cache, 4, 2, 16, 0.0, -1, 0},
          {cache, 2, 1, 8, 0.0, 15, 0},
          {chunk, 4, 2, 24, 0.0, -1, 0},
          {chunk, 2, 2, 10, 0.1, 20, 0},
          {dropped, 2, 1, 16, 0.0, 25, 0},
          {blind, 2, 2, 16, 0.0, -1, 0},
          {blind, 2, 1, 16, 0.2, 3, 0},
          {empty, 2, 1, 3},
          {mixed, 2, 1, 2, 0.0, 4, 0},
          {few, 9, 3, 64, 0.0, -1, 0},
          {few, 2, 1, 80, 0.0, 290, 0},
          {few, 5, 1, 7, 0.0, -1, 0},
          {few_blind, 4, 2, 24, 0.0, -1, 0}};
}

/// Caps and relative terms, in pairs with the rest.
std::vector<AttentionSizes> term_cases() {
  const Segments small = packed({0, 3, 7}), some = packed({0, 33, 34, 100}), more = packed({0, 150, 171}),
                 cache = {{0, 1, 0, 41, 40, 0}, {1, 5, 41, 12, 7, 0}},
                 few = {{0, 1, 0, 300, 299, 0}, {1, 2, 300, 40, 38, 0}};
  const Segments blind = {{0, 40, 0, 10, 0, 30}}, empty = {{0, 3, 0, 0, 0, 0}, {3, 4, 0, 6, 0, 0}};
  std::vector<AttentionSizes> cases = {
      {small, 2, 1, 3, 0.0, -1, -1, 0.7},      {some, 4, 2, 16, 0.0, -1, 0, 2.0},
      {some, 2, 2, 24, 0.2, 19, 0, 1.0},       {cache, 2, 1, 16, 0.0, 15, 0, 3.0},
      {blind, 2, 1, 16, 0.0, -1, 0, 1.5},      {few, 4, 1, 16, 0.0, -1, 0, 2.0},
      {small, 2, 1, 2, 0.0, -1, -1, 0.0, 4},   {some, 4, 2, 16, 0.0, -1, -1, 0.0, 20},
      {some, 3, 3, 10, 0.1, -1, -1, 0.0, 150}, {some, 2, 2, 16, 0.0, 9, 4, 0.0, 30},
      {some, 4, 2, 8, 0.0, -1, 0, 2.0, 6},     {cache, 2, 1, 16, 0.0, -1, 0, 0.0, 12},
      {blind, 2, 1, 16, 0.0, -1, 0, 0.0, 12},  {empty, 2, 1, 16, 0.0, -1, -1, 0.0, 3},
      {more, 2, 2, 10, 0.0, 40, 60, 0.0, 90}};
  for (const auto& [key, query, bias] :
       {std::tuple{true, false, false}, {false, true, false}, {false, false, true}, {true, true, false}}) {
    AttentionSizes one{some, 4, 2, 12, 0.0, -1, -1, 0.0, 50};
    one.has_key = key, one.has_query = query, one.has_bias = bias;
    cases.push_back(one);
    one.has_own_bucket = true;
    cases.push_back(one);
  }
  // Buckets in a row as far as the limit, which whole blocks of scores are within, beyond and on both sides
  // of.
  for (AttentionSizes one : {AttentionSizes{some, 4, 2, 16, 0.1, -1, -1, 0.0, 40},
                             {some, 2, 2, 8, 0.0, 19, 7, 2.0, 90},
                             {cache, 2, 1, 16, 0.0, -1, 0, 0.0, 12},
                             {blind, 2, 1, 16, 0.0, -1, 0, 0.0, 60},
                             {more, 2, 1, 16, 0.1, -1, -1, 0.0, 300},
                             {small, 2, 1, 2, 0.0, -1, -1, 0.0, 4}}) {
    one.has_own_bucket = true;
    cases.push_back(one);
  }
  return cases;
}

std::vector<OpCase> timed_cases(const OpSizes& s) {
  const int64_t heads = s.model.heads(), head_dim = s.width() / heads;
  std::vector<int32_t> bounds;
  for (int64_t b = 0; b <= s.batch; ++b) bounds.push_back(static_cast<int32_t>(b * s.length));
  const AttentionSizes all{packed(bounds), heads, heads, head_dim, s.dropout};
  AttentionSizes one = all, relative = all;
  one.segments = last_token_segments(bounds);
  one.p = 0.0;
  relative.reach = 255;
  relative.has_own_bucket = true;
  relative.has_bias = false;
  std::vector<OpCase> cases;
  for (const auto& [name, sizes] : {std::pair{"attention", all},
                                    {"attention, one query", one},
                                    {"attention, relative terms", relative}}) {
    cases.emplace_back(name, [sizes = sizes](auto& f) { build_attention(f, sizes, Joint::kNone); });
  }
  return cases;
}

}  // namespace

OpCases attention_cases() {
  OpCases cases;
  const auto add = [&](const AttentionSizes& c, Joint joint) {
    const char* const name = joint == Joint::kAll        ? ", joint"
                             : joint == Joint::kKeyValue ? ", k beside v"
                                                         : "";
    cases.small.emplace_back(c.what() + name, [c, joint](auto& f) { build_attention(f, c, joint); });
  };
  for (const AttentionSizes& c : packed_cases()) add(c, Joint::kNone), add(c, Joint::kAll);
  for (const AttentionSizes& c : ranged_cases()) add(c, Joint::kNone), add(c, Joint::kKeyValue);
  for (const AttentionSizes& c : term_cases()) add(c, Joint::kKeyValue);
  AttentionSizes shared{
      {{0, 4, 0, 33, 29, 0}, {4, 3, 0, 33, 30, 0}, {7, 40, 20, 40, 0, 0}}, 4, 2, 16, 0.0, -1, 0};
  shared.is_shared = true;
  add(shared, Joint::kNone);
  cases.of_model = timed_cases;
  cases.float_tolerance = 1e-5;
  cases.bfloat16_tolerance = 3e-2;
  return cases;
}

}  // namespace msplora::bench
