#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/input_checks.h"
#include "models/model_parts.h"
#include "models/transformer.h"
#include "msplora/core/error.h"
#include "msplora/core/random.h"
#include "msplora/nn/attention.h"
#include "msplora/nn/feed_forward.h"
#include "msplora/nn/functional.h"
#include "msplora/nn/recompute.h"

namespace msplora {
namespace {

// For each token the rows of the tokens around it, int64 [T, kernel]; one behind the last row beyond the ends
// of its text.
at::Tensor rows_around(const PackedInput& input, int64_t kernel) {
  at::Tensor rows = at::empty({input.tokens(), kernel}, at::kLong);
  int64_t* row = rows.data_ptr<int64_t>();
  for (size_t text = 0; text + 1 < input.cu_seqlens.size(); ++text) {
    const int64_t begin = input.cu_seqlens[text], end = input.cu_seqlens[text + 1];
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t place = t - kernel / 2; place <= t + kernel / 2; ++place)
        *row++ = place >= begin && place < end ? place : input.tokens();
    }
  }
  return rows;
}

// The rows that a head reads; undefined: all.
at::Tensor pooled_rows(Pool pool, const PackedInput& input) {
  switch (pool) {
    case Pool::kFirst:
      return first_token_rows(input);
    case Pool::kLast:
      return last_token_rows(input);
    case Pool::kMean:
    case Pool::kEach:
      return {};
  }
  return {};
}

}  // namespace

at::Tensor Transformer::segment_ids(const PackedInput& input) const {
  return architecture().embeddings.type_rows == 1 ? at::Tensor() : input.token_type_ids;
}

Embedding Transformer::words_of(const at::Tensor& ids) const {
  const auto& frozen = words_.weight->frozen();
  if (!frozen) return {words_.weight->tensor(), ids};
  return {frozen->gather(ids), at::arange(ids.size(0), ids.options())};
}

at::Tensor Transformer::embed(const Pass& pass) const {
  const EmbeddingSpec& e = architecture().embeddings;
  const PackedInput& input = pass.input;
  const ForwardContext& context = pass.context;
  std::vector<Embedding> parts = {words_of(input.input_ids)};
  if (position_embeddings_.defined())
    parts.push_back({position_embeddings_, pass.positions.to(at::kCPU, at::kLong) + e.position_offset});
  if (token_type_embeddings_.defined()) parts.push_back({token_type_embeddings_, segment_ids(input)});
  at::Tensor x = embedding_sum(parts, compute_dtype());
  if (words_.update)
    x = (x + looked_up_terms(*words_.update, input.input_ids)).to(compute_dtype());  // rounded once
  // Hugging Face rounds the factor to the type of the activations.
  if (e.scale != 1.0) x = x * at::full({}, e.scale, x.options());
  if (embedding_projection_ && e.projects_first) x = embedding_projection_->forward(x, context);
  x = embedding_norm_(x);
  x = dropout(x, dropout_mask(context, e.dropout, hash_name("embeddings.dropout")));
  return embedding_projection_ && !e.projects_first ? embedding_projection_->forward(x, context) : x;
}

Transformer::Pass Transformer::begin(const PackedInput& input, const ForwardContext& context) const {
  check_input(input, architecture());
  Pass pass;
  pass.input = input;
  pass.context = context;
  pass.segments = packed_segments(input.cu_seqlens);
  pass.pooled_segments = architecture().head.pool == Pool::kLast ? last_token_segments(input.cu_seqlens)
                                                                 : first_token_segments(input.cu_seqlens);
  pass.positions = segment_positions(input.cu_seqlens).to(device());
  if (relative_rows_.defined()) pass.relative = relative_norm_(relative_rows_.to(compute_dtype()));
  int64_t longest = 1;
  for (size_t b = 1; b < input.cu_seqlens.size(); ++b)
    longest = std::max<int64_t>(longest, input.cu_seqlens[b] - input.cu_seqlens[b - 1]);
  pass.rotaries = rotary_tables(architecture(), longest, compute_dtype(), device());
  if (const int64_t most = architecture().short_length(); most > 0 && longest > most) {
    pass.long_rows = rows_of_long_texts(pass.positions, input.cu_seqlens, longest, [&](size_t text) {
      return input.cu_seqlens[text + 1] - input.cu_seqlens[text] > most;
    });
  }
  return pass;
}

Transformer::Pass Transformer::begin(const PackedInput& input, KeyValueCache::Extension& extension) const {
  for (int64_t i = 0; i < input.sequences(); ++i) {
    const int64_t length = extension.start(i) + input.cu_seqlens[i + 1] - input.cu_seqlens[i];
    if (length <= architecture().longest) continue;
    throw Error(ErrorCode::kData, fmt::format("text {} of the batch", i),
                fmt::format("would have {} tokens, the model takes {}", length, architecture().longest));
  }
  Pass pass;
  pass.input = input;
  pass.positions = extension.positions();
  pass.rotaries = extension.rotary_tables();
  pass.long_rows = extension.long_rows();
  pass.extension = &extension;
  return pass;
}

NormedSum Transformer::enter(const Branch& branch, const Stream& stream) const {
  return stream.pending.defined() ? branch.before.of_sum(stream.pending, stream.x)
                                  : branch.before.of_sum(stream.x, {});
}

Transformer::Stream Transformer::leave(const Branch& branch, const at::Tensor& y, const at::Tensor& residual,
                                       const Pass& pass) const {
  const kernels::DropoutMask mask = dropout_mask(pass.context, branch.dropout, branch.dropout_stream);
  const at::Tensor normed = branch.on_output(y);
  if (branch.after_sum) return {branch.after_sum.of_dropped_sum(normed, residual, mask), {}};
  return {residual, dropout(normed, mask)};
}

at::Tensor Transformer::turn(const Block& block, const at::Tensor& projected, const Norm& norm, int64_t heads,
                             const at::Tensor& rows, const Pass& pass) const {
  const AttentionSpec& attention = block.spec.attention;
  const int64_t head_dim = attention.shape.head_dim;
  const bool norms_each_head = norm && !attention.norms_all_heads;
  const at::Tensor x = norm(norms_each_head ? projected.reshape({-1, head_dim}) : projected);
  if (attention.rotary < 0) return x.view_as(projected);
  const RotaryTable& table = pass.rotaries[static_cast<size_t>(attention.rotary)];
  const bool has_long =
      !architecture().rotaries[static_cast<size_t>(attention.rotary)].long_frequencies.empty();
  const at::Tensor positions =
      rows_or_all(has_long && pass.long_rows.defined() ? pass.long_rows : pass.positions, rows);
  if (!norms_each_head) return rotary_(x, positions, heads, head_dim, table);
  return rotary_(x, positions.repeat_interleave(heads), 1, head_dim, table).view_as(projected);
}

at::Tensor Transformer::attention_of(const Block& block, const AttentionInput& input, AttentionCall call,
                                     const Pass& pass) const {
  if (pass.extension == nullptr) return attention(input, call);
  call.segments = pass.extension->segments(block.index);
  return attention(pass.extension->append(block.index, input, call.shape), call);
}

WithInput Transformer::attend(const Block& block, const at::Tensor& x, const at::Tensor& rows,
                              const Pass& pass) const {
  const ForwardContext& context = pass.context;
  const AttentionShape& shape = block.spec.attention.shape;
  const AttentionCall call{rows.defined() ? pass.pooled_segments : pass.segments, shape,
                           dropout_mask(context, block.spec.attention.dropout, block.attention_stream),
                           relative_terms(block, pass)};
  if (block.find(LinearRole::kQkv) != nullptr) return attend_fused(block, x, rows, pass, call);
  const Linear &query = block.at(LinearRole::kQuery), &key = block.at(LinearRole::kKey),
               &value = block.at(LinearRole::kValue);
  const bool is_joint = !block.q_norm;  // norms of heads need queries and keys apart
  if (is_joint && rows.defined()) {
    if (const auto kv = block.key_value.forward(x, {&key, &value}, context)) {
      const at::Tensor queried = rows_or_all(kv->x, rows);
      const at::Tensor q = turn(block, query.forward(queried, context), {}, shape.heads, rows, pass);
      const at::Tensor key_value = turn(block, kv->y, {}, shape.kv_heads, {}, pass);
      return {attention_of(block, AttentionInput::beside(q, key_value, shape), call, pass), queried};
    }
  } else if (is_joint) {
    if (const auto qkv = block.query_key_value.forward(x, {&query, &key, &value}, context)) {
      const int64_t turned = shape.heads + shape.kv_heads;
      const AttentionInput input = AttentionInput::joint(turn(block, qkv->y, {}, turned, {}, pass), shape);
      return {attention_of(block, input, call, pass), qkv->x};
    }
  }
  const at::Tensor queried = rows_or_all(x, rows);
  const at::Tensor q = query.forward(queried, context), k = key.forward(x, context);
  const AttentionInput input = AttentionInput::apart(turn(block, q, block.q_norm, shape.heads, rows, pass),
                                                     turn(block, k, block.k_norm, shape.kv_heads, {}, pass),
                                                     value.forward(x, context));
  return {attention_of(block, input, call, pass), queried};
}

RelativeAttention Transformer::relative_terms(const Block& block, const Pass& pass) const {
  const RelativeSpec& spec = architecture().relative;
  if (!spec) return {};
  // The layers may be those of the tokens, whose masks these rows must not share.
  constexpr uint64_t kOfRelativeRows = uint64_t{1} << 32;
  ForwardContext context = pass.context;
  context.repetition += kOfRelativeRows;
  const at::Tensor rows = dropout(pass.relative, dropout_mask(context, spec.dropout, block.attention_stream));
  const auto made_by = [&](LinearRole own, LinearRole of_tokens) {
    const Linear* layer = block.find(own);
    return (layer != nullptr ? *layer : block.at(of_tokens)).forward(rows, context);
  };
  RelativeAttention terms;
  terms.bucket_of = spec.bucket_of;
  if (spec.has_keys) terms.key = made_by(LinearRole::kPositionKey, LinearRole::kKey);
  if (spec.has_queries) terms.query = made_by(LinearRole::kPositionQuery, LinearRole::kQuery);
  return terms;
}

at::Tensor Transformer::add_convolution(const at::Tensor& x, const at::Tensor& embeddings,
                                        const at::Tensor& rows, const Pass& pass) const {
  const ConvolutionSpec& spec = architecture().convolution;
  const int64_t width = embeddings.size(1), tokens = embeddings.size(0);
  const at::Tensor around = rows_around(pass.input, spec.kernel).to(embeddings.device());
  const at::Tensor with_end = at::cat({embeddings, at::zeros({1, width}, embeddings.options())});
  const at::Tensor taken = with_end.index_select(0, around.view({-1})).view({tokens, spec.kernel * width});
  const at::Tensor weight = convolution_weight_.transpose(1, 2).reshape({width, spec.kernel * width});
  const at::Tensor y = adapted_linear(taken, weight, convolution_bias_, {}, {}, {});
  const kernels::DropoutMask mask =
      dropout_mask(pass.context, spec.dropout, hash_name("convolution.dropout"));
  const at::Tensor added = activation(dropout(y, mask), spec.activation);
  return convolution_norm_.of_dropped_sum(rows_or_all(added, rows), x, {});
}

WithInput Transformer::attend_fused(const Block& block, const at::Tensor& x, const at::Tensor& rows,
                                    const Pass& pass, const AttentionCall& call) const {
  const AttentionShape& shape = call.shape;
  const at::Tensor qkv = block.at(LinearRole::kQkv).forward(x, pass.context);
  if (!rows.defined()) {
    const at::Tensor turned = turn(block, qkv, {}, shape.heads + shape.kv_heads, {}, pass);
    return {attention_of(block, AttentionInput::joint(turned, shape), call, pass), x};
  }
  const int64_t width = shape.heads * shape.head_dim;
  const at::Tensor q = rows_or_all(qkv.narrow(1, 0, width), rows);
  const at::Tensor kv = qkv.narrow(1, width, qkv.size(1) - width).contiguous();
  const AttentionInput input = AttentionInput::beside(turn(block, q, {}, shape.heads, rows, pass),
                                                      turn(block, kv, {}, shape.kv_heads, {}, pass), shape);
  return {attention_of(block, input, call, pass), rows_or_all(x, rows)};
}

WithInput Transformer::feed_forward(const Block& block, const at::Tensor& x, const Pass& pass) const {
  const Linear& down = block.at(LinearRole::kDown);
  const kernels::Activation kind = block.spec.activation;
  const kernels::DropoutMask mask =
      dropout_mask(pass.context, block.spec.inner_dropout, block.feed_forward.dropout_stream + 1);
  const std::vector<const Linear*> gates = block.gates();
  if (!gates.empty() && !mask.active())
    return gated_feed_forward(x, block.gate_up, gates, down, kind, pass.context);
  if (!gates.empty()) {
    const WithInput inner = gated(x, block.gate_up, gates, kind, pass.context);
    return {down.forward(dropout(inner.y, mask), pass.context), inner.x};
  }
  const Linear& up = block.at(LinearRole::kUp);
  if (!mask.active()) return msplora::feed_forward(x, up, down, kind, pass.context);
  const at::Tensor inner = activation(up.forward(x, pass.context), kind);
  return {down.forward(dropout(inner, mask), pass.context), x};
}

Transformer::Stream Transformer::run_block(const Block& block, const Stream& stream, const at::Tensor& rows,
                                           const Pass& pass) const {
  // Without a norm before it, a layer hands its input on to the residual connection.
  const NormedSum in = enter(block.attention, stream);
  const WithInput attended = attend(block, in.normed, rows, pass);
  const at::Tensor y = block.at(LinearRole::kAttentionOutput).forward(attended.y, pass.context);
  const at::Tensor residual = block.attention.before ? rows_or_all(in.sum, rows) : attended.x;
  const NormedSum middle = enter(block.feed_forward, leave(block.attention, y, residual, pass));
  const WithInput inner = feed_forward(block, middle.normed, pass);
  return leave(block.feed_forward, inner.y, block.feed_forward.before ? middle.sum : inner.x, pass);
}

Transformer::Stream Transformer::run_blocks(const Pass& of_all, const at::Tensor& last_rows) const {
  const auto& observe = of_all.context.observe_hidden;
  Stream stream{embed(of_all), {}};
  if (observe) observe(0, stream.x);
  const at::Tensor embeddings = architecture().convolution ? stream.x : at::Tensor();
  const Architecture& a = architecture();
  const size_t runs = a.num_runs();
  std::optional<Pass> repeated;
  if (!a.order.empty()) repeated = of_all;
  const Pass& pass = repeated ? *repeated : of_all;
  for (size_t i = 0; i < runs; ++i) {
    const size_t index = a.block_of_run(i);
    const Block& block = blocks_[index];
    const at::Tensor rows = i + 1 == runs ? last_rows : at::Tensor();
    if (repeated) repeated->context.repetition = i;
    if (CheckpointActivations::is_on()) {
      std::vector<at::Tensor> in = {stream.x};
      for (const at::Tensor& more : {stream.pending, pass.relative})
        if (more.defined()) in.push_back(more);
      const auto again = [this, &block, rows, pass](const std::vector<at::Tensor>& kept) {
        Pass anew = pass;
        size_t at = 1;
        const at::Tensor pending =
            kept.size() > (pass.relative.defined() ? 2 : 1) ? kept[at++] : at::Tensor();
        if (pass.relative.defined()) anew.relative = kept[at];
        const Stream out = run_block(block, {kept[0], pending}, rows, anew);
        std::vector<at::Tensor> tensors = {out.x};
        if (out.pending.defined()) tensors.push_back(out.pending);
        return tensors;
      };
      const std::vector<at::Tensor> out = recompute_in_backward(in, again);
      stream = {out[0], out.size() > 1 ? out[1] : at::Tensor()};
    } else {
      stream = run_block(block, stream, rows, pass);
    }
    if (i == 0 && embeddings.defined()) stream.x = add_convolution(stream.x, embeddings, rows, pass);
    // Of a block that runs several times, what it ends with.
    const bool is_last_run =
        a.order.empty() || std::find(a.order.begin() + static_cast<std::ptrdiff_t>(i) + 1, a.order.end(),
                                     index) == a.order.end();
    if (observe && is_last_run) {
      observe(static_cast<int64_t>(index) + 1,
              stream.pending.defined() ? stream.x + stream.pending : stream.x);
    }
  }
  return stream;
}

at::Tensor Transformer::run(const Pass& pass) const {
  const PackedInput& input = pass.input;
  const Pool pool = architecture().head.pool;
  const at::Tensor rows = pooled_rows(pool, input);
  // Observers see whole layers.
  const bool is_narrow = rows.defined() && !pass.context.observe_hidden;
  Stream stream = run_blocks(pass, is_narrow ? rows : at::Tensor());
  const at::Tensor chosen = pool == Pool::kEach ? input.output_rows : is_narrow ? at::Tensor() : rows;
  stream = {rows_or_all(stream.x, chosen), rows_or_all(stream.pending, chosen)};
  const at::Tensor hidden =
      stream.pending.defined() ? final_norm_.of_sum(stream.pending, stream.x).normed : final_norm_(stream.x);
  return pool == Pool::kMean ? sequence_means(hidden, input) : hidden;
}

}  // namespace msplora
