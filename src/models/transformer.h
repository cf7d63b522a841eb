#pragma once

#include <optional>
#include <string>
#include <vector>

#include "models/head.h"
#include "models/norm.h"
#include "models/parameter_store.h"
#include "msplora/models/model.h"
#include "msplora/nn/attention.h"
#include "msplora/nn/joint_linear.h"

namespace msplora {

/// The code of all families: what an Architecture says, run over packed batches.
///
/// Between blocks the residual stream is kept as the sum of two tensors where norms come before the layers:
/// the norm that reads it next adds them, so that neither pass forms a sum on its own.
class Transformer : public Model {
 public:
  Transformer(const ModelConfig& config, Architecture architecture, const ModelLoadOptions& options,
              ParameterStore& store);

  at::Tensor forward(const PackedInput& input, const ForwardContext& context) override;
  at::Tensor loss_sum(const PackedInput& input, const at::Tensor& labels,
                      const ForwardContext& context) override;
  at::Tensor decode(const PackedInput& input, KeyValueCache& cache,
                    std::span<const KeyValueCache::Sequence> sequences) override;
  std::vector<Site> sites() override;
  std::vector<Parameter> parameters() override;
  void untie() override;
  std::vector<std::string> head_modules() const override { return head_.modules(); }

 private:
  /// One half of a block, see BranchSpec.
  struct Branch {
    Norm before, on_output, after_sum;
    double dropout = 0.0;
    uint64_t dropout_stream = 0;
  };
  struct Block {
    size_t index = 0;
    BlockSpec spec;
    std::vector<Linear> linears;  // those of the specification
    JointLinear query_key_value, key_value, gate_up;
    Norm q_norm, k_norm;
    Branch attention, feed_forward;
    uint64_t attention_stream = 0;  // of the mask on probabilities

    /// Null when the block has no layer of this role.
    const Linear* find(LinearRole role) const;
    const Linear& at(LinearRole role) const { return *find(role); }
    /// Gate and up, or the layer that gives both; empty where nothing is gated.
    std::vector<const Linear*> gates() const;
  };
  /// The residual stream: x, or x + pending.
  struct Stream {
    at::Tensor x, pending;
  };
  /// What all blocks share in one pass. Tables of angles reach up to the longest sequence.
  struct Pass {
    PackedInput input;
    ForwardContext context;
    std::vector<AttentionSegment> segments, pooled_segments;  // of all tokens; of those that the head reads
    at::Tensor positions;
    std::vector<RotaryTable> rotaries;
    at::Tensor long_rows;  // rows of those with angles for long texts; undefined: positions
    at::Tensor relative;   // the normed rows of relative positions; undefined where there are none
    KeyValueCache::Extension* extension = nullptr;  // where the texts began before this pass
  };

  Block make_block(size_t index, ParameterStore& store) const;
  Branch make_branch(const BranchSpec& spec, const Block& block, LinearRole last,
                     ParameterStore& store) const;

  /// Hidden states of the rows that the head reads, behind the last norm.
  at::Tensor run(const Pass& pass) const;
  Pass begin(const PackedInput& input, const ForwardContext& context) const;
  Pass begin(const PackedInput& input, KeyValueCache::Extension& extension) const;
  /// A model with one segment puts both texts of a pair into it, whatever its tokenizer says.
  at::Tensor segment_ids(const PackedInput& input) const;
  /// The rows of the table of words, and where in them those of `ids` are.
  Embedding words_of(const at::Tensor& ids) const;
  at::Tensor embed(const Pass& pass) const;
  /// `rows` (undefined: all) are those that the last block is computed for.
  Stream run_blocks(const Pass& pass, const at::Tensor& rows) const;
  Stream run_block(const Block& block, const Stream& stream, const at::Tensor& rows, const Pass& pass) const;
  NormedSum enter(const Branch& branch, const Stream& stream) const;
  Stream leave(const Branch& branch, const at::Tensor& y, const at::Tensor& residual, const Pass& pass) const;
  /// Over the tokens of the pass, or all of their texts.
  at::Tensor attention_of(const Block& block, const AttentionInput& input, AttentionCall call,
                          const Pass& pass) const;
  /// Attention over x, before its output layer, and x at `rows` for the residual connection.
  WithInput attend(const Block& block, const at::Tensor& x, const at::Tensor& rows, const Pass& pass) const;
  RelativeAttention relative_terms(const Block& block, const Pass& pass) const;
  /// What the first block gives, with the convolution of the embeddings added; `rows` as for run_blocks().
  at::Tensor add_convolution(const at::Tensor& x, const at::Tensor& embeddings, const at::Tensor& rows,
                             const Pass& pass) const;
  /// The same with queries, keys and values from one layer.
  WithInput attend_fused(const Block& block, const at::Tensor& x, const at::Tensor& rows, const Pass& pass,
                         const AttentionCall& call) const;
  /// Queries or keys [N, heads * head_dim] of the rows given (undefined: all), normed and turned.
  at::Tensor turn(const Block& block, const at::Tensor& projected, const Norm& norm, int64_t heads,
                  const at::Tensor& rows, const Pass& pass) const;
  WithInput feed_forward(const Block& block, const at::Tensor& x, const Pass& pass) const;

  Linear words_;  // looked up, see LinearRole::kWords
  at::Tensor position_embeddings_, token_type_embeddings_;
  Norm embedding_norm_;
  std::optional<Linear> embedding_projection_;
  at::Tensor relative_rows_;
  Norm relative_norm_;
  at::Tensor convolution_weight_, convolution_bias_;
  Norm convolution_norm_;
  std::vector<Block> blocks_;
  Norm final_norm_;
  Head head_;
};

}  // namespace msplora
