#include "models/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <fmt/format.h>
#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/random.h"
#include "msplora/nn/feed_forward.h"
#include "msplora/nn/functional.h"
#include "msplora/nn/recompute.h"

namespace msplora {
namespace {

using Role = ParameterStore::Role;
using Init = ParameterStore::Init;

at::Tensor take_rms_norm(ParameterStore& store, const std::string& name, int64_t width) {
  return store.take(name + ".weight", {width}, Role::kFloat32, Init::kOne);
}

DecoderLayer make_decoder_layer(const ModelConfig& c, const std::string& path, ParameterStore& store) {
  const int64_t hidden = c.hidden_size, wide = c.intermediate_size;
  const int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const bool qkv_bias = c.attention_bias || c.model_type == "qwen2";
  const std::string attention = path + ".self_attn", mlp = path + ".mlp";
  DecoderLayer layer;
  layer.path = path;
  layer.query = store.linear(attention + ".q_proj", hidden, q, Role::kMatrix, qkv_bias);
  layer.key = store.linear(attention + ".k_proj", hidden, kv, Role::kMatrix, qkv_bias);
  layer.value = store.linear(attention + ".v_proj", hidden, kv, Role::kMatrix, qkv_bias);
  layer.attention_output = store.linear(attention + ".o_proj", q, hidden, Role::kMatrix, c.attention_bias);
  layer.gate = store.linear(mlp + ".gate_proj", hidden, wide, Role::kMatrix, c.mlp_bias);
  layer.up = store.linear(mlp + ".up_proj", hidden, wide, Role::kMatrix, c.mlp_bias);
  layer.down = store.linear(mlp + ".down_proj", wide, hidden, Role::kMatrix, c.mlp_bias);
  layer.input_norm = take_rms_norm(store, path + ".input_layernorm", hidden);
  layer.post_attention_norm = take_rms_norm(store, path + ".post_attention_layernorm", hidden);
  if (c.model_type == "qwen3") {
    layer.query_norm = take_rms_norm(store, attention + ".q_norm", c.head_dim);
    layer.key_norm = take_rms_norm(store, attention + ".k_norm", c.head_dim);
  }
  layer.attention_stream = hash_name(attention + ".dropout");
  return layer;
}

// Hugging Face's linear and llama3 variants of rope_scaling, in float32 as there. llama3 leaves wavelengths
// below original / high_freq_factor, divides those above original / low_freq_factor, and blends between.
std::vector<float> frequencies_of(const ModelConfig& config) {
  std::vector<float> frequencies = rotary_frequencies(config.head_dim, config.rope_theta);
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.rope_type == "default") return frequencies;
  const auto factor = static_cast<float>(scaling.factor), low = static_cast<float>(scaling.low_freq_factor),
             high = static_cast<float>(scaling.high_freq_factor),
             original = static_cast<float>(scaling.original_max_position_embeddings);
  for (float& f : frequencies) {
    const float wavelength = 2 * std::numbers::pi_v<float> / f;
    if (scaling.rope_type == "linear" || wavelength > original / low) {
      f /= factor;
    } else if (wavelength >= original / high) {
      const float smooth = (original / wavelength - low) / (high - low);
      f = (1 - smooth) * f / factor + smooth * f;
    }
  }
  return frequencies;
}

}  // namespace

Decoder::Decoder(const ModelConfig& config, ParameterStore& store, at::ScalarType compute_dtype)
    : config_(config), compute_dtype_(compute_dtype), frequencies_(frequencies_of(config)) {
  if (config.hidden_act != "silu") {
    throw Error(
        ErrorCode::kModel, "config.json: hidden_act",
        fmt::format("expected silu for model_type {}, found `{}`", config.model_type, config.hidden_act));
  }
  word_embeddings_ = store.take("model.embed_tokens.weight", {config.vocab_size, config.hidden_size},
                                Role::kMatrix, Init::kNormal);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    layers_.push_back(make_decoder_layer(config, fmt::format("model.layers.{}", i), store));
    layers_.back().window_left = config.window(i) - 1;
  }
  final_norm_ = take_rms_norm(store, "model.norm", config.hidden_size);
}

NormedSum Decoder::norm(const Stream& stream, const at::Tensor& gamma) const {
  return stream.pending.defined() ? residual_rms_norm(stream.pending, stream.x, gamma, config_.rms_norm_eps)
                                  : residual_rms_norm(stream.x, {}, gamma, config_.rms_norm_eps);
}

at::Tensor Decoder::turn(const at::Tensor& projected, const at::Tensor& norm, int64_t heads,
                         const at::Tensor& rows, const Batch& batch) const {
  const at::Tensor positions = rows_or_all(batch.positions, rows);
  if (!norm.defined()) return msplora::rotary_(projected, positions, heads, config_.head_dim, batch.rotary);
  // One head a row.
  const NormedSum normed =
      residual_rms_norm(projected.reshape({-1, config_.head_dim}), {}, norm, config_.rms_norm_eps);
  return msplora::rotary_(normed.normed, positions.repeat_interleave(heads), 1, config_.head_dim,
                          batch.rotary)
      .view({-1, heads * config_.head_dim});
}

at::Tensor Decoder::attend(const DecoderLayer& layer, const at::Tensor& x, const at::Tensor& rows,
                           const Batch& batch) const {
  const ForwardContext& context = batch.context;
  const AttentionShape shape{config_.num_attention_heads,
                             config_.num_key_value_heads,
                             config_.head_dim,
                             layer.window_left,
                             /*window_right=*/0,
                             rows.defined() ? kernels::Queries::kLast : kernels::Queries::kAll};
  const kernels::DropoutMask mask =
      dropout_mask(context, config_.attention_probs_dropout_prob, layer.attention_stream);
  const std::vector<int32_t>& bounds = batch.input.cu_seqlens;
  const bool is_joint = !layer.query_norm.defined();
  if (is_joint && rows.defined()) {
    if (const auto kv = layer.key_value.forward(x, {&layer.key, &layer.value}, context)) {
      const at::Tensor query = layer.query.forward(rows_or_all(kv->x, rows), context);
      return segment_attention(
          turn(query, {}, shape.heads, rows, batch),
          msplora::rotary_(kv->y, batch.positions, shape.kv_heads, shape.head_dim, batch.rotary), bounds,
          shape, mask);
    }
  } else if (is_joint) {
    if (const auto qkv =
            layer.query_key_value.forward(x, {&layer.query, &layer.key, &layer.value}, context)) {
      const int64_t turned = shape.heads + shape.kv_heads;
      return segment_attention(
          msplora::rotary_(qkv->y, batch.positions, turned, shape.head_dim, batch.rotary), bounds, shape,
          mask);
    }
  }
  const at::Tensor query = layer.query.forward(rows_or_all(x, rows), context),
                   key = layer.key.forward(x, context);
  return segment_attention(turn(query, layer.query_norm, shape.heads, rows, batch),
                           turn(key, layer.key_norm, shape.kv_heads, {}, batch),
                           layer.value.forward(x, context), bounds, shape, mask);
}

Decoder::Stream Decoder::run_layer(const DecoderLayer& layer, const Stream& stream, const at::Tensor& rows,
                                   const Batch& batch) const {
  const NormedSum before = norm(stream, layer.input_norm);
  const at::Tensor attended =
      layer.attention_output.forward(attend(layer, before.normed, rows, batch), batch.context);
  const NormedSum middle = norm({rows_or_all(before.sum, rows), attended}, layer.post_attention_norm);
  const WithInput inner =
      gated_feed_forward(middle.normed, layer.gate_up, layer.gate, layer.up, layer.down, batch.context);
  return {middle.sum, inner.y};
}

Decoder::Stream Decoder::run_blocks(const Batch& batch, const at::Tensor& last_rows) const {
  const auto& observe = batch.context.observe_hidden;
  Stream stream{
      at::embedding(word_embeddings_, batch.input.input_ids.to(word_embeddings_.device())).to(compute_dtype_),
      {}};
  if (observe) observe(0, stream.x);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const DecoderLayer& layer = layers_[i];
    const at::Tensor rows = i + 1 == layers_.size() ? last_rows : at::Tensor();
    if (CheckpointActivations::is_on()) {
      std::vector<at::Tensor> in = {stream.x};
      if (stream.pending.defined()) in.push_back(stream.pending);
      const auto again = [this, &layer, rows, batch](const std::vector<at::Tensor>& kept) {
        const Stream out = run_layer(layer, {kept[0], kept.size() > 1 ? kept[1] : at::Tensor()}, rows, batch);
        return std::vector<at::Tensor>{out.x, out.pending};
      };
      const std::vector<at::Tensor> out = recompute_in_backward(in, again);
      stream = {out[0], out[1]};
    } else {
      stream = run_layer(layer, stream, rows, batch);
    }
    if (observe) observe(static_cast<int64_t>(i) + 1, stream.x + stream.pending);
  }
  return stream;
}

Decoder::Batch Decoder::begin(const PackedInput& input, const ForwardContext& context) const {
  check_lengths(input, config_.max_position_embeddings);
  check_ids(input.input_ids, config_.vocab_size, "input_ids");
  int64_t longest = 1;
  for (size_t b = 1; b < input.cu_seqlens.size(); ++b)
    longest = std::max<int64_t>(longest, input.cu_seqlens[b] - input.cu_seqlens[b - 1]);
  const at::Device device = word_embeddings_.device();
  RotaryTable rotary = make_rotary_table(longest, frequencies_);
  rotary.cos = rotary.cos.to(device);
  rotary.sin = rotary.sin.to(device);
  return {input, context, segment_positions(input.cu_seqlens).to(device), rotary};
}

at::Tensor Decoder::forward(const PackedInput& input, const ForwardContext& context) const {
  Stream stream = run_blocks(begin(input, context), {});
  stream = {rows_or_all(stream.x, input.output_rows), rows_or_all(stream.pending, input.output_rows)};
  return norm(stream, final_norm_).normed;
}

at::Tensor Decoder::forward_last_tokens(const PackedInput& input, const ForwardContext& context) const {
  const at::Tensor rows = last_token_rows(input);
  // Observers see whole layers.
  Stream stream = run_blocks(begin(input, context), context.observe_hidden ? at::Tensor() : rows);
  if (context.observe_hidden) stream = {rows_or_all(stream.x, rows), rows_or_all(stream.pending, rows)};
  return norm(stream, final_norm_).normed;
}

void Decoder::append_sites(std::vector<Site>& sites) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    DecoderLayer& layer = layers_[i];
    for (Linear* linear : {&layer.query, &layer.key, &layer.value, &layer.attention_output, &layer.gate,
                           &layer.up, &layer.down})
      sites.push_back(make_site(*linear, static_cast<int64_t>(i)));
  }
}

void Decoder::append_parameters(std::vector<NamedTensor>& parameters) const {
  parameters.push_back({"model.embed_tokens.weight", word_embeddings_});
  for (const DecoderLayer& layer : layers_) {
    for (const Linear* linear : {&layer.query, &layer.key, &layer.value, &layer.attention_output})
      append_linear(*linear, parameters);
    if (layer.query_norm.defined()) {
      parameters.push_back({layer.path + ".self_attn.q_norm.weight", layer.query_norm});
      parameters.push_back({layer.path + ".self_attn.k_norm.weight", layer.key_norm});
    }
    for (const Linear* linear : {&layer.gate, &layer.up, &layer.down}) append_linear(*linear, parameters);
    parameters.push_back({layer.path + ".input_layernorm.weight", layer.input_norm});
    parameters.push_back({layer.path + ".post_attention_layernorm.weight", layer.post_attention_norm});
  }
  parameters.push_back({"model.norm.weight", final_norm_});
}

}  // namespace msplora
