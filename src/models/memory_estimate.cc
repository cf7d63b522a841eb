#include "msplora/models/memory_estimate.h"

#include <algorithm>
#include <initializer_list>

#include "msplora/nn/feed_forward.h"
#include "msplora/nn/linear_cross_entropy.h"

namespace msplora {
namespace {

int64_t count_norm(const NormSpec& norm, int64_t width) {
  return norm.kind == NormKind::kNone                     ? 0
         : norm.kind == NormKind::kLayer && norm.has_bias ? 2 * width
                                                          : width;
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

int64_t count_matrices(const BlockSpec& block) {
  int64_t count = 0;
  for (const LinearSpec& linear : block.linears) count += linear.in * linear.out;
  return count;
}

bool is_gated(const BlockSpec& block) {
  return block.find(LinearRole::kGate) != nullptr || block.find(LinearRole::kGateUp) != nullptr;
}

// What a block keeps for its backward pass: bytes for each token.
class KeptOfBlock {
 public:
  KeptOfBlock(const BlockSpec& block, const MemoryQuestion& question)
      : block_(block), question_(question), b_(question.bytes_per_weight), d_(block.hidden_size()) {}

  int64_t bytes() const { return attention() + norms() + feed_forward() + updates(); }

 private:
  // Whether backward reads the input of a layer: for the gradient of its factors or of itself.
  bool reads_input(std::initializer_list<LinearRole> roles) const {
    return question_.trains_base || std::any_of(roles.begin(), roles.end(), [&](LinearRole role) {
             return question_.adapted.contains(role) && block_.find(role) != nullptr;
           });
  }
  int64_t attention() const {
    using enum LinearRole;
    const AttentionShape& shape = block_.attention.shape;
    const int64_t q = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
    int64_t values = q + 2 * kv + q;
    if (block_.attention.q_norm) values += q + kv;
    if (reads_input({kQuery, kKey, kValue, kQkv})) values += d_;
    return values * b_ + 4 * shape.heads;
  }
  int64_t norms() const {
    int64_t norms = 0;
    for (const BranchSpec* branch : {&block_.attention_branch, &block_.feed_forward_branch}) {
      for (const NormSpec* norm : {&branch->before, &branch->on_output, &branch->after_sum})
        norms += *norm ? 1 : 0;
    }
    return norms * d_ * b_;
  }
  int64_t feed_forward() const {
    using enum LinearRole;
    const int64_t f = block_.intermediate_size();
    int64_t values = is_gated(block_) ? 2 * f : f;
    if (reads_input({kGate, kUp, kGateUp})) values += d_;
    if (reads_input({kDown})) values += f;
    return values * b_;
  }
  int64_t updates() const {
    const auto count =
        std::count_if(block_.linears.begin(), block_.linears.end(),
                      [&](const LinearSpec& linear) { return question_.adapted.contains(linear.role); });
    return 4 * question_.rank * static_cast<int64_t>(count);
  }

  const BlockSpec& block_;
  const MemoryQuestion& question_;
  int64_t b_, d_;
};

// Frozen matrices in packed form, vectors in float32.
int64_t weight_bytes(const Architecture& architecture, const MemoryQuestion& question) {
  if (question.trains_base) return 0;
  const EmbeddingSpec& e = architecture.embeddings;
  const bool is_language_model = !architecture.head.decoder.empty();
  int64_t matrices = (e.position_rows + e.type_rows) * e.width, all = 0;
  for (const BlockSpec& block : architecture.blocks) {
    matrices += count_matrices(block);
    all += count_block(block);
  }
  const int64_t vectors = all + (e.position_rows + e.type_rows) * e.width - matrices +
                          architecture.relative.rows * architecture.hidden_size();
  if (is_language_model) matrices += e.rows * e.width;
  const double bytes = question.bytes_in_products > 0 ? question.bytes_in_products
                                                      : static_cast<double>(question.bytes_per_weight);
  return static_cast<int64_t>(static_cast<double>(matrices) * bytes) + 4 * vectors;
}

// What the block that runs backward has beside what was kept: gradients of its input and output, and of the
// feed-forward part for the rows that pass it together.
int64_t transient_bytes(const Architecture& architecture, const MemoryQuestion& question) {
  const int64_t d = architecture.hidden_size(), f = architecture.intermediate_size();
  const int64_t rows = std::min(question.tokens_per_batch, kFeedForwardRows);
  const int64_t wide = is_gated(architecture.blocks.front()) ? 3 * f : f;
  const int64_t of_block = 2 * d * question.tokens_per_batch + wide * rows;
  if (!question.is_causal_lm) return question.bytes_per_weight * of_block;
  const int64_t logits = default_logit_rows(question.tokens_per_batch, d, architecture.vocab_size(),
                                            question.bytes_per_weight == 2 ? at::kBFloat16 : at::kFloat);
  const int64_t of_head =
      d * question.tokens_per_batch + architecture.vocab_size() * std::min(logits, question.tokens_per_batch);
  // Factors of an update of the output layer, scaled and turned for a chunk, and the gradients of one and
  // all.
  const int64_t copies = question.adapted.contains(LinearRole::kOutput) ? 5 : 0;
  const int64_t of_update = 4 * copies * question.rank * architecture.vocab_size();
  return std::max(question.bytes_per_weight * of_block, question.bytes_per_weight * of_head + of_update);
}

}  // namespace

int64_t count_base_parameters(const Architecture& architecture) {
  const EmbeddingSpec& e = architecture.embeddings;
  const int64_t normed = e.projects_first && e.projection ? e.projection->out : e.width;
  int64_t count = (e.rows + e.position_rows + e.type_rows) * e.width + count_norm(e.norm, normed);
  const int64_t d = architecture.hidden_size();
  const ConvolutionSpec& convolution = architecture.convolution;
  if (convolution) count += d * (d * convolution.kernel + 1) + count_norm(convolution.norm, d);
  const RelativeSpec& relative = architecture.relative;
  count += relative.rows * d + count_norm(relative.norm, d);
  if (e.projection) count += count_linear(*e.projection);
  for (const BlockSpec& block : architecture.blocks) count += count_block(block);
  count += count_norm(architecture.final_norm, d);
  const HeadSpec& head = architecture.head;
  if (!head.decoder.empty() && !head.is_tied) count += e.rows * e.width;
  return count;
}

MemoryEstimate estimate_memory(const Architecture& architecture, const MemoryQuestion& question) {
  const int64_t tokens = question.tokens_per_batch, b = question.bytes_per_weight;
  const int64_t d = architecture.hidden_size();
  MemoryEstimate estimate;
  estimate.model_parameters = count_base_parameters(architecture);
  estimate.weights = weight_bytes(architecture, question);
  estimate.trainable = 16 * question.trainable_parameters;
  int64_t of_blocks = 0, largest = 0, inputs = 0;
  for (size_t i = 0; i < architecture.num_runs(); ++i) {
    const BlockSpec& block = architecture.blocks[architecture.block_of_run(i)];
    const int64_t kept = KeptOfBlock(block, question).bytes();
    of_blocks += kept;
    largest = std::max(largest, kept);
    // Blocks with norms before their parts get two terms of a sum that the norm adds up.
    inputs += (block.attention_branch.before && inputs > 0 ? 2 : 1) * d * b;
  }
  if (question.checkpoint_activations) of_blocks = inputs + largest;
  estimate.shared = std::min(4 * question.trainable_parameters, tokens * of_blocks);
  estimate.activations = tokens * (of_blocks + 2 * d * b) + transient_bytes(architecture, question);
  return estimate;
}

}  // namespace msplora
