#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <limits>

#include "nn/composed.h"
#include "nn/dispatch.h"
#include "nn/matmul.h"

namespace msplora::detail::composed {
namespace {

at::Tensor indices(const std::vector<int64_t>& values, const at::Device& device) {
  return at::tensor(values, at::kLong).to(device);
}

/// Where the rows of segments lie when every segment is padded to the longest.
struct Padding {
  int64_t segments = 0, longest = 0;
  at::Tensor from;    // int64 [segments * longest]: rows of the array; its length stands for padding
  at::Tensor counts;  // int64 [segments, 1]
  at::Tensor places;  // int64 [segments, longest] in the sequence
};

/// begin(segment), count(segment) and place(segment) say which rows.
template <typename Begin, typename Count, typename At>
Padding padding_of(const std::vector<AttentionSegment>& all, int64_t rows, const at::Device& device,
                   Begin begin, Count count, At place) {
  Padding padding;
  padding.segments = static_cast<int64_t>(all.size());
  for (const AttentionSegment& segment : all)
    padding.longest = std::max<int64_t>(padding.longest, count(segment));
  std::vector<int64_t> from, counts, places;
  for (const AttentionSegment& segment : all) {
    counts.push_back(count(segment));
    for (int64_t i = 0; i < padding.longest; ++i) {
      from.push_back(i < count(segment) ? begin(segment) + i : rows);
      places.push_back(place(segment) + i);
    }
  }
  padding.from = indices(from, device);
  padding.counts = indices(counts, device).view({-1, 1});
  padding.places = indices(places, device).view({padding.segments, padding.longest});
  return padding;
}

/// [rows, heads * dim] -> [segments, to_heads, longest, dim]; neighbouring heads share one of `heads`.
at::Tensor padded_heads(const at::Tensor& x, const Padding& padding, int64_t heads, int64_t to_heads) {
  const at::Tensor with_zeros = at::cat({x, at::zeros({1, x.size(1)}, x.options())}, 0);
  const at::Tensor wide = with_zeros.index_select(0, padding.from)
                              .view({padding.segments, padding.longest, heads, x.size(1) / heads})
                              .transpose(1, 2);
  return heads == to_heads ? wide : wide.repeat_interleave(to_heads / heads, 1);
}

/// Place of the query - place of the key, int64 [segments, 1, queries, keys].
at::Tensor distances(const Padding& queries, const Padding& keys) {
  return (queries.places.unsqueeze(2) - keys.places.unsqueeze(1)).unsqueeze(1);
}

/// Which keys a query sees, bool, in the shape of the distances. Queries and keys of padding are no exception
/// but for keys, which nobody sees.
at::Tensor seen_keys(const at::Tensor& distance, const Padding& keys, const AttentionShape& shape) {
  const at::Tensor slots = at::arange(keys.longest, keys.counts.options()).view({1, -1});
  at::Tensor seen = slots.lt(keys.counts).view({keys.segments, 1, 1, keys.longest}).expand_as(distance);
  if (shape.window_left >= 0) seen = seen.logical_and(distance.le(shape.window_left));
  if (shape.window_right >= 0) seen = seen.logical_and(distance.ge(-shape.window_right));
  return seen;
}

/// [buckets, heads * dim] -> [heads, dim, buckets].
at::Tensor by_head(const at::Tensor& term, int64_t heads, at::ScalarType dtype) {
  return as(term, dtype).view({term.size(0), heads, -1}).permute({1, 2, 0});
}

/// The terms inside and outside of the scale, each undefined where there is none.
struct RelativeScores {
  at::Tensor products, bias;
};

RelativeScores relative_scores(const at::Tensor& query, const at::Tensor& key, const at::Tensor& distance,
                               const AttentionCall& call) {
  const RelativeAttention& relative = call.relative;
  RelativeScores scores;
  if (!relative.is_defined()) return scores;
  const int64_t heads = call.shape.heads, reach = static_cast<int64_t>(relative.bucket_of.size()) / 2;
  const at::Tensor table = at::tensor(relative.bucket_of, at::kInt).to(query.device(), at::kLong);
  const at::Tensor bucket =
      table.index_select(0, (distance.clamp(-reach, reach) + reach).reshape({-1})).view_as(distance);
  const at::Tensor of_heads = bucket.expand({-1, heads, -1, -1});
  if (relative.key.defined())
    scores.products =
        detail::matmul(query, by_head(relative.key, heads, query.scalar_type())).gather(3, of_heads);
  if (relative.query.defined()) {
    const at::Tensor of_keys = detail::matmul(key, by_head(relative.query, heads, key.scalar_type()))
                                   .gather(3, of_heads.transpose(2, 3))
                                   .transpose(2, 3);
    scores.products = scores.products.defined() ? scores.products + of_keys : of_keys;
  }
  if (relative.bias.defined()) {
    const at::Tensor rows = as(relative.bias, exact_dtype(query)).index_select(0, bucket.reshape({-1}));
    scores.bias =
        rows.view({distance.size(0), distance.size(2), distance.size(3), heads}).permute({0, 3, 1, 2});
  }
  return scores;
}

}  // namespace

at::Tensor attention(const AttentionInput& input, const AttentionCall& call) {
  const AttentionShape& shape = call.shape;
  const int64_t wide = shape.heads * shape.head_dim, narrow = shape.kv_heads * shape.head_dim;
  const auto part = [&](const AttentionInput::Place& place, int64_t width) {
    return input.arrays[place.array].narrow(1, place.column, width);
  };
  const at::Tensor q = part(input.q, wide), k = part(input.k, narrow), v = part(input.v, narrow);
  using Segment = AttentionSegment;
  const Padding queries = padding_of(
      call.segments, q.size(0), q.device(), [](const Segment& s) { return s.q_begin; },
      [](const Segment& s) { return s.q_count; }, [](const Segment& s) { return s.q_place; });
  const Padding keys = padding_of(
      call.segments, k.size(0), q.device(), [](const Segment& s) { return s.k_begin; },
      [](const Segment& s) { return s.k_count; }, [](const Segment& s) { return s.k_place; });
  const at::Tensor query = padded_heads(q, queries, shape.heads, shape.heads),
                   key = padded_heads(k, keys, shape.kv_heads, shape.heads),
                   value = padded_heads(v, keys, shape.kv_heads, shape.heads);
  const at::Tensor distance = distances(queries, keys), seen = seen_keys(distance, keys, shape);
  const RelativeScores relative = relative_scores(query, key, distance, call);
  at::Tensor products = detail::matmul(query, key.transpose(2, 3));
  if (relative.products.defined()) products = products + relative.products;
  at::Tensor scores = products.to(exact_dtype(q)) * shape.used_scale();
  if (relative.bias.defined()) scores = scores + relative.bias;
  if (shape.soft_cap > 0) scores = at::tanh(scores / shape.soft_cap) * shape.soft_cap;
  // A row without any key would be NaN: it takes them all, and its weights are cleared.
  const at::Tensor has_key = seen.any(3, /*keepdim=*/true);
  constexpr double kHidden = -std::numeric_limits<double>::infinity();
  scores = scores.masked_fill(seen.logical_not().logical_and(has_key), kHidden);
  const at::Tensor probabilities = at::softmax(scores, -1).masked_fill(has_key.logical_not(), 0.0);
  const at::Tensor weights = dropout(probabilities.to(q.scalar_type()), call.mask);
  const at::Tensor padded = detail::matmul(weights, value).transpose(1, 2).reshape({-1, wide});
  // One row more takes what is padding.
  const at::Tensor rows =
      at::zeros({q.size(0) + 1, wide}, padded.options()).index_copy(0, queries.from, padded);
  return rows.narrow(0, 0, q.size(0));
}

}  // namespace msplora::detail::composed
