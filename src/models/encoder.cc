#include "models/encoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>
#include <algorithm>
#include <string>
#include <vector>

#include "msplora/core/random.h"
#include "msplora/nn/feed_forward.h"
#include "msplora/nn/recompute.h"

namespace msplora {
namespace {

using Role = ParameterStore::Role;
using Init = ParameterStore::Init;

EncoderLayer make_layer(const ModelConfig& config, const std::string& path, ParameterStore& store) {
  const int64_t hidden = config.hidden_size, wide = config.intermediate_size;
  EncoderLayer layer;
  layer.query = store.linear(path + ".attention.self.query", hidden, hidden);
  layer.key = store.linear(path + ".attention.self.key", hidden, hidden);
  layer.value = store.linear(path + ".attention.self.value", hidden, hidden);
  layer.attention_output = store.linear(path + ".attention.output.dense", hidden, hidden);
  layer.attention_norm = take_norm(store, path + ".attention.output.LayerNorm", hidden);
  layer.intermediate = store.linear(path + ".intermediate.dense", hidden, wide);
  layer.output = store.linear(path + ".output.dense", wide, hidden);
  layer.output_norm = take_norm(store, path + ".output.LayerNorm", hidden);
  layer.attention_stream = hash_name(path + ".attention.self.dropout");
  layer.attention_output_stream = hash_name(path + ".attention.output.dropout");
  layer.output_stream = hash_name(path + ".output.dropout");
  return layer;
}

}  // namespace

LayerNorm take_norm(ParameterStore& store, const std::string& name, int64_t width, Role role) {
  return {name, store.take(name + ".weight", {width}, role, Init::kOne),
          store.take(name + ".bias", {width}, role, Init::kZero)};
}

void append_norm(const LayerNorm& norm, std::vector<NamedTensor>& parameters) {
  parameters.push_back({norm.name + ".weight", norm.weight});
  parameters.push_back({norm.name + ".bias", norm.bias});
}

double head_dropout(const ModelConfig& config) {
  return config.classifier_dropout.value_or(config.hidden_dropout_prob);
}

Encoder::Encoder(const ModelConfig& config, const EncoderNames& names, ParameterStore& store,
                 at::ScalarType compute_dtype)
    : config_(config),
      names_(names),
      compute_dtype_(compute_dtype),
      activation_(activation_from_name(config.hidden_act)) {
  const std::string embeddings = names.prefix + "embeddings";
  const int64_t hidden = config.hidden_size;
  word_embeddings_ = store.take(embeddings + ".word_embeddings.weight", {config.vocab_size, hidden},
                                Role::kMatrix, Init::kNormal);
  position_embeddings_ = store.take(embeddings + ".position_embeddings.weight",
                                    {config.max_position_embeddings, hidden}, Role::kMatrix, Init::kNormal);
  token_type_embeddings_ = store.take(embeddings + ".token_type_embeddings.weight",
                                      {config.type_vocab_size, hidden}, Role::kMatrix, Init::kNormal);
  embedding_norm_ = take_norm(store, embeddings + ".LayerNorm", hidden);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    layers_.push_back(make_layer(config, fmt::format("{}encoder.layer.{}", names.prefix, i), store));
}

void Encoder::check(const PackedInput& input) const {
  check_lengths(input, config_.max_position_embeddings - names_.position_offset);
  check_ids(input.input_ids, config_.vocab_size, "input_ids");
  check_ids(segment_ids(input), config_.type_vocab_size, "token_type_ids");
}

at::Tensor Encoder::segment_ids(const PackedInput& input) const {
  return config_.type_vocab_size == 1 ? at::Tensor() : input.token_type_ids;
}

at::Tensor Encoder::embed(const PackedInput& input, const ForwardContext& context) const {
  at::Tensor positions = at::empty({input.tokens()}, at::kLong);
  int64_t* position = positions.data_ptr<int64_t>();
  for (int64_t b = 0; b < input.sequences(); ++b) {
    for (int32_t t = input.cu_seqlens[b]; t < input.cu_seqlens[b + 1]; ++t)
      position[t] = t - input.cu_seqlens[b] + names_.position_offset;
  }
  at::Tensor x = embedding_sum({{word_embeddings_, input.input_ids},
                                {position_embeddings_, positions},
                                {token_type_embeddings_, segment_ids(input)}},
                               compute_dtype_);
  x = residual_layer_norm(x, {}, embedding_norm_.weight, embedding_norm_.bias, config_.layer_norm_eps, {});
  return dropout(x, dropout_mask(context, config_.hidden_dropout_prob, hash_name("embeddings.dropout")));
}

WithInput Encoder::attend(const EncoderLayer& layer, const at::Tensor& x, const at::Tensor& rows,
                          const PackedInput& input, const ForwardContext& context) const {
  const AttentionShape shape{config_.num_attention_heads,
                             config_.num_attention_heads,
                             config_.head_dim,
                             -1,
                             -1,
                             rows.defined() ? kernels::Queries::kFirst : kernels::Queries::kAll};
  const kernels::DropoutMask mask =
      dropout_mask(context, config_.attention_probs_dropout_prob, layer.attention_stream);
  if (rows.defined()) {
    if (const auto kv = layer.key_value.forward(x, {&layer.key, &layer.value}, context)) {
      const at::Tensor queried = kv->x.index_select(0, rows);
      const at::Tensor query = layer.query.forward(queried, context);
      return {segment_attention(query, kv->y, input.cu_seqlens, shape, mask), queried};
    }
  } else {
    if (const auto qkv =
            layer.query_key_value.forward(x, {&layer.query, &layer.key, &layer.value}, context)) {
      return {segment_attention(qkv->y, input.cu_seqlens, shape, mask), qkv->x};
    }
  }
  const at::Tensor queried = rows.defined() ? x.index_select(0, rows) : x;
  return {segment_attention(layer.query.forward(queried, context), layer.key.forward(x, context),
                            layer.value.forward(x, context), input.cu_seqlens, shape, mask),
          queried};
}

at::Tensor Encoder::run_layer(const EncoderLayer& layer, const at::Tensor& x, const at::Tensor& rows,
                              const PackedInput& input, const ForwardContext& context) const {
  if (CheckpointActivations::is_on()) {
    return recompute_in_backward(x, [this, &layer, rows, input, context](const at::Tensor& kept) {
      const CheckpointActivations as_usual(false);
      return run_layer(layer, kept, rows, input, context);
    });
  }
  const double hidden_p = config_.hidden_dropout_prob;
  const WithInput attended = attend(layer, x, rows, input, context);
  const at::Tensor middle =
      residual_layer_norm(layer.attention_output.forward(attended.y, context), attended.x,
                          layer.attention_norm.weight, layer.attention_norm.bias, config_.layer_norm_eps,
                          dropout_mask(context, hidden_p, layer.attention_output_stream));
  const WithInput inner = feed_forward(middle, layer.intermediate, layer.output, activation_, context);
  return residual_layer_norm(inner.y, inner.x, layer.output_norm.weight, layer.output_norm.bias,
                             config_.layer_norm_eps, dropout_mask(context, hidden_p, layer.output_stream));
}

at::Tensor Encoder::forward(const PackedInput& input, const ForwardContext& context) const {
  check(input);
  at::Tensor x = embed(input, context);
  if (context.observe_hidden) context.observe_hidden(0, x);
  for (size_t i = 0; i < layers_.size(); ++i) {
    x = run_layer(layers_[i], x, {}, input, context);
    if (context.observe_hidden) context.observe_hidden(static_cast<int64_t>(i) + 1, x);
  }
  return x;
}

at::Tensor Encoder::forward_first_tokens(const PackedInput& input, const ForwardContext& context) const {
  const at::Tensor rows = first_token_rows(input);
  if (context.observe_hidden) return rows_or_all(forward(input, context), rows);
  check(input);
  at::Tensor x = embed(input, context);
  for (size_t i = 0; i + 1 < layers_.size(); ++i) x = run_layer(layers_[i], x, {}, input, context);
  return run_layer(layers_.back(), x, rows.to(x.device()), input, context);
}

void Encoder::append_sites(std::vector<Site>& sites) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    EncoderLayer& layer = layers_[i];
    for (Linear* linear : {&layer.query, &layer.key, &layer.value, &layer.attention_output,
                           &layer.intermediate, &layer.output})
      sites.push_back(make_site(*linear, static_cast<int64_t>(i)));
  }
}

void Encoder::append_parameters(std::vector<NamedTensor>& parameters) const {
  const std::string embeddings = names_.prefix + "embeddings";
  parameters.push_back({embeddings + ".word_embeddings.weight", word_embeddings_});
  parameters.push_back({embeddings + ".position_embeddings.weight", position_embeddings_});
  parameters.push_back({embeddings + ".token_type_embeddings.weight", token_type_embeddings_});
  append_norm(embedding_norm_, parameters);
  for (const EncoderLayer& layer : layers_) {
    for (const Linear* linear : {&layer.query, &layer.key, &layer.value, &layer.attention_output})
      append_linear(*linear, parameters);
    append_norm(layer.attention_norm, parameters);
    append_linear(layer.intermediate, parameters);
    append_linear(layer.output, parameters);
    append_norm(layer.output_norm, parameters);
  }
}

}  // namespace msplora
