#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

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

// The rows that a head reads; undefined: all.
at::Tensor pooled_rows(Pool pool, const PackedInput& input) {
  switch (pool) {
    case Pool::kFirst:
      return first_token_rows(input);
    case Pool::kLast:
      return last_token_rows(input);
    case Pool::kEach:
      return {};
  }
  return {};
}

}  // namespace

void Transformer::check(const PackedInput& input) const {
  const Architecture& a = architecture();
  check_lengths(input, a.longest);
  check_ids(input.input_ids, a.vocab_size(), "input_ids");
  if (a.embeddings.type_rows > 0) check_ids(segment_ids(input), a.embeddings.type_rows, "token_type_ids");
}

at::Tensor Transformer::segment_ids(const PackedInput& input) const {
  return architecture().embeddings.type_rows == 1 ? at::Tensor() : input.token_type_ids;
}

Embedding Transformer::words_of(const at::Tensor& ids) const {
  const auto& frozen = word_embeddings_->frozen();
  if (!frozen) return {word_embeddings_->tensor(), ids};
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
  // Hugging Face rounds the factor to the type of the activations.
  if (e.scale != 1.0) x = x * at::full({}, e.scale, x.options());
  x = embedding_norm_(x);
  x = dropout(x, dropout_mask(context, e.dropout, hash_name("embeddings.dropout")));
  return embedding_projection_ ? embedding_projection_->forward(x, context) : x;
}

Transformer::Pass Transformer::begin(const PackedInput& input, const ForwardContext& context) const {
  check(input);
  Pass pass;
  pass.input = input;
  pass.context = context;
  pass.segments = packed_segments(input.cu_seqlens);
  pass.pooled_segments = architecture().head.pool == Pool::kLast ? last_token_segments(input.cu_seqlens)
                                                                 : first_token_segments(input.cu_seqlens);
  pass.positions = segment_positions(input.cu_seqlens).to(device());
  int64_t longest = 1;
  for (size_t b = 1; b < input.cu_seqlens.size(); ++b)
    longest = std::max<int64_t>(longest, input.cu_seqlens[b] - input.cu_seqlens[b - 1]);
  pass.rotaries = rotary_tables(architecture(), longest, compute_dtype(), device());
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
  const at::Tensor positions = rows_or_all(pass.positions, rows);
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
  const AttentionCall call{rows.defined() ? pass.pooled_segments : pass.segments,
                           shape,
                           dropout_mask(context, block.spec.attention.dropout, block.attention_stream),
                           {}};
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
  if (const Linear* gate_up = block.find(LinearRole::kGateUp)) {
    const at::Tensor both = gate_up->forward(x, pass.context);
    const int64_t width = both.size(1) / 2;
    const at::Tensor gated = kind == kernels::Activation::kSilu
                                 ? swiglu(both)
                                 : activation(both.narrow(1, 0, width), kind) * both.narrow(1, width, width);
    return {down.forward(gated, pass.context), x};
  }
  const Linear *gate = block.find(LinearRole::kGate), &up = block.at(LinearRole::kUp);
  if (gate == nullptr) return msplora::feed_forward(x, up, down, kind, pass.context);
  if (kind == kernels::Activation::kSilu)
    return gated_feed_forward(x, block.gate_up, *gate, up, down, pass.context);
  const at::Tensor gated = activation(gate->forward(x, pass.context), kind) * up.forward(x, pass.context);
  return {down.forward(gated, pass.context), x};
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

Transformer::Stream Transformer::run_blocks(const Pass& pass, const at::Tensor& last_rows) const {
  const auto& observe = pass.context.observe_hidden;
  Stream stream{embed(pass), {}};
  if (observe) observe(0, stream.x);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    const at::Tensor rows = i + 1 == blocks_.size() ? last_rows : at::Tensor();
    if (CheckpointActivations::is_on()) {
      std::vector<at::Tensor> in = {stream.x};
      if (stream.pending.defined()) in.push_back(stream.pending);
      const auto again = [this, &block, rows, pass](const std::vector<at::Tensor>& kept) {
        const Stream out = run_block(block, {kept[0], kept.size() > 1 ? kept[1] : at::Tensor()}, rows, pass);
        std::vector<at::Tensor> tensors = {out.x};
        if (out.pending.defined()) tensors.push_back(out.pending);
        return tensors;
      };
      const std::vector<at::Tensor> out = recompute_in_backward(in, again);
      stream = {out[0], out.size() > 1 ? out[1] : at::Tensor()};
    } else {
      stream = run_block(block, stream, rows, pass);
    }
    if (observe) {
      observe(static_cast<int64_t>(i) + 1, stream.pending.defined() ? stream.x + stream.pending : stream.x);
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
  return stream.pending.defined() ? final_norm_.of_sum(stream.pending, stream.x).normed
                                  : final_norm_(stream.x);
}

}  // namespace msplora
