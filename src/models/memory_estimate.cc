#include "msplora/models/memory_estimate.h"

#include <algorithm>

#include "msplora/nn/linear_cross_entropy.h"

namespace msplora {
namespace {

int64_t count_norm(const NormSpec& norm, int64_t width) {
  return norm.kind == NormKind::kNone ? 0 : norm.kind == NormKind::kLayer ? 2 * width : width;
}

int64_t count_linear(const LinearSpec& linear) {
  return linear.in * linear.out + (linear.has_bias ? linear.out : 0);
}

int64_t count_block(const BlockSpec& block) {
  const int64_t d = block.hidden_size(), head = block.attention.shape.head_dim;
  const AttentionShape& shape = block.attention.shape;
  const bool is_wide = block.attention.norms_all_heads;
  int64_t count = count_norm(block.attention.q_norm, is_wide ? shape.heads * head : head) +
                  count_norm(block.attention.k_norm, is_wide ? shape.kv_heads * head : head);
  for (const LinearSpec& linear : block.linears) count += count_linear(linear);
  for (const BranchSpec* branch : {&block.attention_branch, &block.feed_forward_branch}) {
    count +=
        count_norm(branch->before, d) + count_norm(branch->on_output, d) + count_norm(branch->after_sum, d);
  }
  return count;
}

// Values that a block keeps for its backward pass, for each token.
int64_t kept_values(const BlockSpec& block) {
  const AttentionShape& shape = block.attention.shape;
  const int64_t d = block.hidden_size();
  const bool is_gated =
      block.find(LinearRole::kGate) != nullptr || block.find(LinearRole::kGateUp) != nullptr;
  return 2 * d + 2 * shape.kv_heads * shape.head_dim + 2 * d + (is_gated ? 4 : 2) * block.intermediate_size();
}

}  // namespace

int64_t count_base_parameters(const Architecture& architecture) {
  const EmbeddingSpec& e = architecture.embeddings;
  int64_t count = (e.rows + e.position_rows + e.type_rows) * e.width + count_norm(e.norm, e.width);
  if (e.projection) count += count_linear(*e.projection);
  for (const BlockSpec& block : architecture.blocks) count += count_block(block);
  count += count_norm(architecture.final_norm, architecture.hidden_size());
  const HeadSpec& head = architecture.head;
  if (!head.decoder.empty() && !head.is_tied) count += e.rows * e.width;
  return count;
}

MemoryEstimate estimate_memory(const Architecture& architecture, const MemoryQuestion& question) {
  const int64_t b = question.bytes_per_weight, d = architecture.hidden_size();
  MemoryEstimate estimate;
  estimate.model_parameters = count_base_parameters(architecture);
  estimate.weights = estimate.model_parameters * b;
  estimate.trainable = 16 * question.trainable_parameters;
  int64_t of_blocks = 0, largest = 0;
  for (const BlockSpec& block : architecture.blocks) {
    const int64_t kept = kept_values(block) + question.adapted_inputs;
    of_blocks += kept;
    largest = std::max(largest, kept);
  }
  if (question.checkpoint_activations) of_blocks = architecture.num_layers() * d + largest;
  estimate.activations = question.tokens_per_batch * b * (of_blocks + 2 * d);
  if (question.is_causal_lm) {
    const int64_t vocab = architecture.vocab_size();
    const int64_t rows = default_logit_rows(question.tokens_per_batch, d, vocab);
    estimate.activations += b * vocab * std::min(rows, question.tokens_per_batch);
  }
  return estimate;
}

}  // namespace msplora
