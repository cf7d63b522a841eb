#include "msplora/nn/attention.h"

#include <fmt/format.h>
#include <torch/csrc/autograd/custom_function.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/profile.h"
#include "msplora/kernels/gemm.h"
#include "nn/autograd.h"
#include "nn/composed.h"
#include "nn/dispatch.h"

namespace msplora {
namespace {

using detail::data;
using kernels::Kernel;
using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;
using Place = AttentionInput::Place;

constexpr size_t kMostArrays = 3;

/// What a call is beside its tensors.
struct AttentionPlan : torch::CustomClassHolder {
  AttentionCall call;  // without the tensors of relative terms
  Place q, k, v;
  int64_t buckets = 0;          // 0: no relative terms
  bool covers_queries = false;  // all rows are of some segment
  bool covers_keys = false;
  bool covers_columns = false;  // all columns of the arrays are queries, keys or values
};

std::vector<AttentionSegment> segments_of(const std::vector<int32_t>& cu_seqlens, bool is_one, bool is_last) {
  std::vector<AttentionSegment> segments;
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
    const int32_t begin = cu_seqlens[s], count = cu_seqlens[s + 1] - begin;
    if (is_one) {
      const int32_t place = is_last ? std::max(count - 1, 0) : 0;
      segments.push_back({static_cast<int32_t>(s), 1, begin, count, place, 0});
    } else {
      segments.push_back({begin, count, begin, count, 0, 0});
    }
  }
  return segments;
}

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorCode::kUsage, "attention", what);
}

struct Range {
  int64_t begin, count;
};

/// Rows of an array of which segments take ranges.
struct Coverage {
  int64_t covered = 0;
  bool overlaps = false;
};
Coverage coverage_of(std::vector<Range> ranges, int64_t rows, const char* what) {
  const auto by_begin = [](const Range& a, const Range& b) { return a.begin < b.begin; };
  if (!std::is_sorted(ranges.begin(), ranges.end(), by_begin))
    std::sort(ranges.begin(), ranges.end(), by_begin);
  Coverage coverage;
  int64_t end = 0;
  for (const Range& range : ranges) {
    if (range.begin < 0 || range.count < 0 || range.begin + range.count > rows) {
      refuse(fmt::format("a segment has {} {} from row {} on, of {} rows", range.count, what, range.begin,
                         rows));
    }
    coverage.overlaps = coverage.overlaps || (range.count > 0 && range.begin < end);
    end = std::max(end, range.begin + range.count);
    coverage.covered += range.count;
  }
  return coverage;
}

const at::Tensor& array_of(const AttentionInput& input, const Place& place, int64_t width, const char* what) {
  if (place.array >= input.arrays.size() || input.arrays[place.array].dim() != 2 || place.column < 0 ||
      place.column + width > input.arrays[place.array].size(1)) {
    refuse(fmt::format("{} need {} columns from {} on of array {}", what, width, place.column, place.array));
  }
  return input.arrays[place.array];
}

void check_relative(const AttentionCall& call) {
  const RelativeAttention& relative = call.relative;
  const AttentionShape& shape = call.shape;
  int64_t buckets = -1;
  const auto check = [&](const at::Tensor& term, int64_t width, const char* what) {
    if (!term.defined()) return;
    if (buckets < 0) buckets = term.size(0);
    if (term.dim() != 2 || term.size(0) != buckets || term.size(1) != width)
      refuse(fmt::format("relative {} of {} buckets need a width of {}", what, buckets, width));
  };
  check(relative.key, shape.heads * shape.head_dim, "keys");
  check(relative.query, shape.heads * shape.head_dim, "queries");
  check(relative.bias, shape.heads, "biases");
  const auto is_wrong = [&](int32_t bucket) { return bucket < 0 || bucket >= buckets; };
  if (relative.is_defined() && (relative.bucket_of.size() % 2 != 1 ||
                                std::any_of(relative.bucket_of.begin(), relative.bucket_of.end(), is_wrong)))
    refuse(fmt::format("relative terms need buckets below {} for as many distances to either side", buckets));
}

bool any_requires_grad(const AttentionInput& input) {
  return std::any_of(input.arrays.begin(), input.arrays.end(),
                     [](const at::Tensor& array) { return array.requires_grad(); });
}

/// Whether every column of the arrays is of queries, keys or values. Refuses columns that are of several of
/// them where gradients are wanted. The places lie within the arrays.
bool covers_columns(const AttentionInput& input, int64_t wide, int64_t narrow) {
  bool covers_all = true;
  for (size_t i = 0; i < input.arrays.size(); ++i) {
    if (input.arrays[i].dim() != 2) refuse(fmt::format("array {} has no rows and columns", i));
    std::vector<Range> ranges;
    for (const auto& [place, width] :
         {std::pair{input.q, wide}, std::pair{input.k, narrow}, std::pair{input.v, narrow}})
      if (place.array == i) ranges.push_back({place.column, width});
    const int64_t columns = input.arrays[i].size(1);
    const Coverage coverage = coverage_of(std::move(ranges), columns, "columns");
    if (coverage.overlaps && any_requires_grad(input))
      refuse("queries, keys and values have a column in common, which has no gradient");
    covers_all = covers_all && coverage.covered == columns;
  }
  return covers_all;
}

c10::intrusive_ptr<AttentionPlan> plan_of(const AttentionInput& input, const AttentionCall& call) {
  const AttentionShape& shape = call.shape;
  const int64_t wide = shape.heads * shape.head_dim, narrow = shape.kv_heads * shape.head_dim;
  if (input.arrays.empty() || input.arrays.size() > kMostArrays) refuse("one to three arrays are needed");
  const int64_t queries = array_of(input, input.q, wide, "queries").size(0),
                keys = array_of(input, input.k, narrow, "keys").size(0);
  if (array_of(input, input.v, narrow, "values").size(0) != keys) refuse("keys and values differ in rows");
  check_relative(call);
  std::vector<Range> of_queries, of_keys;
  for (const AttentionSegment& segment : call.segments) {
    of_queries.push_back({segment.q_begin, segment.q_count});
    of_keys.push_back({segment.k_begin, segment.k_count});
  }
  const Coverage q = coverage_of(std::move(of_queries), queries, "queries"),
                 k = coverage_of(std::move(of_keys), keys, "keys");
  if (q.overlaps) refuse("two segments have a query in common");
  if (k.overlaps && any_requires_grad(input))
    refuse("two segments have a key in common, which has no gradient");
  auto plan = c10::make_intrusive<AttentionPlan>();
  plan->call.segments = call.segments;
  plan->call.shape = shape;
  plan->call.mask = call.mask;
  plan->call.relative.bucket_of = call.relative.bucket_of;
  plan->q = input.q, plan->k = input.k, plan->v = input.v;
  for (const at::Tensor& term : {call.relative.key, call.relative.query, call.relative.bias})
    if (term.defined()) plan->buckets = term.size(0);
  plan->covers_queries = q.covered == queries;
  plan->covers_keys = k.covered == keys;
  plan->covers_columns = covers_columns(input, wide, narrow);
  return plan;
}

/// The tensors of a call: arrays, relative key, query and bias; undefined where there is none.
struct Tensors {
  std::array<at::Tensor, kMostArrays> arrays;
  at::Tensor key, query, bias;

  template <typename T>
  T* at(const Place& place) const {
    return data<T>(arrays[place.array]) + place.column;
  }
  int64_t stride(const Place& place) const { return arrays[place.array].size(1); }
};

template <typename T>
struct KernelCall {
  kernels::RelativeTerms<T> relative;
  kernels::Attention<T> op;
};

/// Fills `to`, whose address the operation keeps.
template <typename T>
void set_call(KernelCall<T>& to, const AttentionPlan& plan, const Tensors& in, const at::Tensor& o,
              const at::Tensor& lse) {
  const AttentionShape& shape = plan.call.shape;
  kernels::Attention<T>& op = to.op;
  op.segments = plan.call.segments.data();
  op.num_segments = static_cast<int64_t>(plan.call.segments.size());
  op.heads = shape.heads;
  op.kv_heads = shape.kv_heads;
  op.head_dim = shape.head_dim;
  op.q_stride = in.stride(plan.q);
  op.k_stride = in.stride(plan.k);
  op.v_stride = in.stride(plan.v);
  op.o_stride = o.size(1);
  op.scale = shape.used_scale();
  op.soft_cap = shape.soft_cap;
  op.window_left = shape.window_left;
  op.window_right = shape.window_right;
  op.mask = plan.call.mask;
  op.precision = kernels::matmul_precision(kernels::active_isa());
  op.q = in.at<T>(plan.q);
  op.k = in.at<T>(plan.k);
  op.v = in.at<T>(plan.v);
  op.o = data<T>(o);
  op.lse = data<float>(lse);
  if (plan.buckets == 0) return;
  const std::vector<int32_t>& bucket_of = plan.call.relative.bucket_of;
  to.relative = {plan.buckets,      static_cast<int64_t>(bucket_of.size()) / 2,
                 bucket_of.data(),  data<T>(in.key),
                 data<T>(in.query), data<kernels::Exact<T>>(in.bias)};
  op.relative = &to.relative;
}

struct AttentionFunction : detail::KernelFunction<AttentionFunction> {
  static constexpr const char* kName = "attention";

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& first, const at::Tensor& second,
                            const at::Tensor& third, const at::Tensor& key, const at::Tensor& query,
                            const at::Tensor& bias, c10::intrusive_ptr<AttentionPlan> plan) {
    const ProfileScope scope("attention forward");
    const auto given = [](const at::Tensor& tensor) { return detail::or_undefined(tensor.contiguous()); };
    const Tensors in{{given(first), given(second), given(third)}, given(key), given(query), given(bias)};
    const AttentionShape& shape = plan->call.shape;
    const at::Tensor& q = in.arrays[plan->q.array];
    const std::vector<int64_t> sizes = {q.size(0), shape.heads * shape.head_dim};
    at::Tensor o = plan->covers_queries ? at::empty(sizes, q.options()) : at::zeros(sizes, q.options());
    at::Tensor lse = at::empty({q.size(0), shape.heads}, q.options().dtype(at::kFloat));
    detail::dispatch(q, "attention", [&](auto t) {
      using T = decltype(t);
      KernelCall<T> call;
      set_call(call, *plan, in, o, lse);
      detail::kernels_of<T>(q).attention(call.op);
    });
    ctx->save_for_backward({in.arrays[0], in.arrays[1], in.arrays[2], in.key, in.query, in.bias, o, lse});
    ctx->saved_data["plan"] = c10::IValue::make_capsule(std::move(plan));
    return o;
  }

  static variable_list gradients(AutogradContext* ctx, variable_list grads) {
    const ProfileScope scope("attention backward");
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor d_o = grads[0].contiguous();
    const auto& plan = static_cast<const AttentionPlan&>(*ctx->saved_data["plan"].toCapsule());
    const bool is_whole = plan.covers_queries && plan.covers_keys && plan.covers_columns;
    const auto like = [&](const at::Tensor& t) {
      return !t.defined() ? at::Tensor() : is_whole ? at::empty_like(t) : at::zeros_like(t);
    };
    const auto like_term = [](const at::Tensor& t) { return t.defined() ? at::empty_like(t) : at::Tensor(); };
    const Tensors in{{saved[0], saved[1], saved[2]}, saved[3], saved[4], saved[5]};
    const Tensors d{{like(saved[0]), like(saved[1]), like(saved[2])},
                    like_term(saved[3]),
                    like_term(saved[4]),
                    like_term(saved[5])};
    detail::dispatch(d_o, "attention", [&](auto t) {
      using T = decltype(t);
      KernelCall<T> call;
      set_call(call, plan, in, saved[6], saved[7]);
      kernels::AttentionBackward<T> op;
      op.forward = call.op;
      op.d_o = data<T>(d_o);
      op.dq = d.at<T>(plan.q);
      op.dk = d.at<T>(plan.k);
      op.dv = d.at<T>(plan.v);
      op.d_relative_key = data<T>(d.key);
      op.d_relative_query = data<T>(d.query);
      op.d_relative_bias = data<kernels::Exact<T>>(d.bias);
      detail::kernels_of<T>(d_o).attention_backward(op);
    });
    return {d.arrays[0], d.arrays[1], d.arrays[2], d.key, d.query, d.bias, Variable()};
  }
};

}  // namespace

std::vector<AttentionSegment> packed_segments(const std::vector<int32_t>& cu_seqlens) {
  return segments_of(cu_seqlens, false, false);
}
std::vector<AttentionSegment> first_token_segments(const std::vector<int32_t>& cu_seqlens) {
  return segments_of(cu_seqlens, true, false);
}
std::vector<AttentionSegment> last_token_segments(const std::vector<int32_t>& cu_seqlens) {
  return segments_of(cu_seqlens, true, true);
}

AttentionInput AttentionInput::apart(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  return {{q, k, v}, {0, 0}, {1, 0}, {2, 0}};
}
AttentionInput AttentionInput::beside(const at::Tensor& q, const at::Tensor& kv,
                                      const AttentionShape& shape) {
  return {{q, kv}, {0, 0}, {1, 0}, {1, shape.kv_heads * shape.head_dim}};
}
AttentionInput AttentionInput::joint(const at::Tensor& qkv, const AttentionShape& shape) {
  const int64_t wide = shape.heads * shape.head_dim, narrow = shape.kv_heads * shape.head_dim;
  return {{qkv}, {0, 0}, {0, wide}, {0, wide + narrow}};
}

at::Tensor attention(const AttentionInput& input, const AttentionCall& call) {
  auto plan = plan_of(input, call);
  const at::Tensor& q = input.arrays[input.q.array];
  if (detail::is_composed(q, {Kernel::attention, Kernel::attention_backward}))
    return detail::composed::attention(input, call);
  const auto array = [&](size_t i) {
    return i < input.arrays.size() ? input.arrays[i] : at::empty({0}, q.options().requires_grad(false));
  };
  const auto term = [&](const at::Tensor& tensor, at::ScalarType dtype) {
    return tensor.defined() ? detail::as(tensor, dtype) : at::empty({0}, q.options().requires_grad(false));
  };
  return detail::apply_function<AttentionFunction>(
      array(0), array(1), array(2), term(call.relative.key, q.scalar_type()),
      term(call.relative.query, q.scalar_type()), term(call.relative.bias, detail::exact_dtype(q)),
      std::move(plan));
}

}  // namespace msplora
