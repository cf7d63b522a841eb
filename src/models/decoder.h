#pragma once

#include <string>
#include <vector>

#include "models/model_parts.h"
#include "models/parameter_store.h"
#include "msplora/nn/decoder_functional.h"
#include "msplora/nn/joint_linear.h"

namespace msplora {

/// One pre-norm block of a Llama-like decoder: x += o(attention(norm(x))), x += down(silu(gate(norm(x))) *
/// up(norm(x))).
struct DecoderLayer {
  std::string path;  // "model.layers.3"
  Linear query, key, value, attention_output, gate, up, down;
  JointLinear query_key_value, key_value, gate_up;
  at::Tensor input_norm, post_attention_norm;
  at::Tensor query_norm, key_norm;  // of each head (Qwen3); undefined elsewhere
  int64_t window_left = -1;         // tokens that attention looks back; -1: all
  uint64_t attention_stream;        // of the dropout mask
};

/// Embeddings and blocks of Llama, Mistral, Qwen2 and Qwen3: input ids -> hidden states behind the last norm.
///
/// Between blocks the residual stream is kept as the sum of two tensors: the norm that reads it next adds
/// them, so that neither pass forms a sum on its own.
class Decoder {
 public:
  Decoder(const ModelConfig& config, ParameterStore& store, at::ScalarType compute_dtype);
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  /// [N, hidden_size]: the rows that input.output_rows names, or all.
  at::Tensor forward(const PackedInput& input, const ForwardContext& context) const;
  /// Hidden states of the last token of every sequence, [B, hidden_size]: what a classifier reads. The last
  /// block computes queries, feed-forward and norms for those rows alone.
  at::Tensor forward_last_tokens(const PackedInput& input, const ForwardContext& context) const;

  void append_sites(std::vector<Site>& sites);
  void append_parameters(std::vector<NamedTensor>& parameters) const;
  const at::Tensor& word_embeddings() const { return word_embeddings_; }

 private:
  /// The residual stream: x, or x + pending.
  struct Stream {
    at::Tensor x, pending;
  };
  /// What all blocks share in one pass.
  struct Batch {
    PackedInput input;
    ForwardContext context;
    at::Tensor positions;
    RotaryTable rotary;  // up to the longest sequence
  };

  Batch begin(const PackedInput& input, const ForwardContext& context) const;
  Stream run_layer(const DecoderLayer& layer, const Stream& stream, const at::Tensor& rows,
                   const Batch& batch) const;
  at::Tensor attend(const DecoderLayer& layer, const at::Tensor& x, const at::Tensor& rows,
                    const Batch& batch) const;
  /// Queries or keys [N, heads * head_dim] of the rows given (undefined: all), normed if so, and turned.
  at::Tensor turn(const at::Tensor& projected, const at::Tensor& norm, int64_t heads, const at::Tensor& rows,
                  const Batch& batch) const;
  NormedSum norm(const Stream& stream, const at::Tensor& gamma) const;
  Stream run_blocks(const Batch& batch, const at::Tensor& last_rows) const;

  ModelConfig config_;
  at::ScalarType compute_dtype_;
  at::Tensor word_embeddings_, final_norm_;
  std::vector<float> frequencies_;  // of the rotary pairs
  std::vector<DecoderLayer> layers_;
};

}  // namespace msplora
