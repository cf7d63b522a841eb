#include "msplora/models/memory_estimate.h"

#include <algorithm>
#include <vector>

#include "msplora/nn/linear_cross_entropy.h"

namespace msplora {
namespace {

bool is_gated(const std::vector<Site>& sites) {
  for (const Site& site : sites) {
    if (site.module == "gate_proj") return true;
  }
  return false;
}

}  // namespace

int64_t count_base_parameters(const ModelConfig& config, const std::vector<Site>& sites) {
  const bool gated = is_gated(sites);  // the Llama family: RMS norms without bias, rotary positions
  int64_t count = config.vocab_size * config.hidden_size;
  for (const Site& site : sites) {
    if (site.layer < 0) continue;
    count += site.in_features * site.out_features;
    if (!gated) count += site.out_features;
  }
  const int64_t norm = gated ? config.hidden_size : 2 * config.hidden_size;
  count += 2 * norm * config.num_hidden_layers + norm;
  if (gated) {
    if (!config.tie_word_embeddings) count += config.vocab_size * config.hidden_size;
  } else {
    count += (config.max_position_embeddings + config.type_vocab_size) * config.hidden_size;
  }
  return count;
}

MemoryEstimate estimate_memory(const ModelConfig& config, const std::vector<Site>& sites,
                               const MemoryQuestion& question) {
  const int64_t b = question.bytes_per_weight;
  const int64_t d = config.hidden_size;
  const int64_t head_dim = config.head_dim > 0 ? config.head_dim : d / config.num_attention_heads;
  const int64_t kv_heads =
      config.num_key_value_heads > 0 ? config.num_key_value_heads : config.num_attention_heads;
  const int64_t feed_forward = (is_gated(sites) ? 4 : 2) * config.intermediate_size;
  const int64_t per_layer = 2 * d + 2 * kv_heads * head_dim + 2 * d + feed_forward + question.adapted_inputs;

  MemoryEstimate estimate;
  estimate.model_parameters = count_base_parameters(config, sites);
  estimate.weights = estimate.model_parameters * b;
  estimate.trainable = 16 * question.trainable_parameters;
  const int64_t of_blocks = question.checkpoint_activations ? config.num_hidden_layers * d + per_layer
                                                            : config.num_hidden_layers * per_layer;
  estimate.activations = question.tokens_per_batch * b * (of_blocks + 2 * d);
  if (question.is_causal_lm) {
    const int64_t rows = default_logit_rows(question.tokens_per_batch, d, config.vocab_size);
    estimate.activations += b * config.vocab_size * std::min(rows, question.tokens_per_batch);
  }
  return estimate;
}

}  // namespace msplora
