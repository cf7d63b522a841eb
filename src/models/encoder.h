#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/model_parts.h"
#include "models/parameter_store.h"
#include "msplora/models/model.h"
#include "msplora/nn/functional.h"
#include "msplora/nn/joint_linear.h"

namespace msplora {

struct LayerNorm {
  std::string name;
  at::Tensor weight, bias;
};

/// One block of a post-norm encoder (BERT, RoBERTa): attention and feed-forward, each followed by
/// norm(dropout(output) + input).
struct EncoderLayer {
  Linear query, key, value, attention_output, intermediate, output;
  JointLinear query_key_value, key_value;
  LayerNorm attention_norm, output_norm;
  uint64_t attention_stream, attention_output_stream, output_stream;  // of the dropout masks
};

/// What differs between the members of the family.
struct EncoderNames {
  std::string prefix;           // "roberta." or "bert."
  int64_t position_offset = 0;  // position id of the first token
};

/// Embeddings and blocks shared by BERT and RoBERTa: input ids -> hidden states [T, hidden_size].
class Encoder {
 public:
  Encoder(const ModelConfig& config, const EncoderNames& names, ParameterStore& store,
          at::ScalarType compute_dtype);
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;

  at::Tensor forward(const PackedInput& input, const ForwardContext& context) const;
  /// Hidden states of the first token of every sequence, [B, hidden_size]: what a classifier reads. The last
  /// block computes queries, feed-forward and norms for those rows alone; the result is that of forward().
  at::Tensor forward_first_tokens(const PackedInput& input, const ForwardContext& context) const;

  void append_sites(std::vector<Site>& sites);
  void append_parameters(std::vector<NamedTensor>& parameters) const;
  const at::Tensor& word_embeddings() const { return word_embeddings_; }

 private:
  at::Tensor embed(const PackedInput& input, const ForwardContext& context) const;
  /// Attention over x, before its output layer, and x at `rows` for the residual connection.
  WithInput attend(const EncoderLayer& layer, const at::Tensor& x, const at::Tensor& rows,
                   const PackedInput& input, const ForwardContext& context) const;
  /// `rows` (undefined: all) are the first tokens when the block is computed for them alone.
  at::Tensor run_layer(const EncoderLayer& layer, const at::Tensor& x, const at::Tensor& rows,
                       const PackedInput& input, const ForwardContext& context) const;
  void check(const PackedInput& input) const;
  /// A model with one segment puts both texts of a pair into it, whatever its tokenizer says.
  at::Tensor segment_ids(const PackedInput& input) const;

  ModelConfig config_;
  EncoderNames names_;
  at::ScalarType compute_dtype_;
  kernels::Activation activation_;
  at::Tensor word_embeddings_, position_embeddings_, token_type_embeddings_;
  LayerNorm embedding_norm_;
  std::vector<EncoderLayer> layers_;
};

void append_norm(const LayerNorm& norm, std::vector<NamedTensor>& parameters);
LayerNorm take_norm(ParameterStore& store, const std::string& name, int64_t width,
                    ParameterStore::Role role = ParameterStore::Role::kExact);

/// HF's dropout before a classifier: classifier_dropout, or hidden_dropout_prob when unset.
double head_dropout(const ModelConfig& config);

}  // namespace msplora
