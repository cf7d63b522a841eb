#include "msplora/models/step_flops.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace msplora {
namespace {

// Position inside a block: layers of a later stage read what earlier stages made.
int stage_of(LinearRole role) {
  switch (role) {
    case LinearRole::kQuery:
    case LinearRole::kKey:
    case LinearRole::kValue:
    case LinearRole::kQkv:
      return 0;
    case LinearRole::kAttentionOutput:
      return 1;
    case LinearRole::kGate:
    case LinearRole::kUp:
    case LinearRole::kGateUp:
      return 2;
    case LinearRole::kDown:
      return 3;
    case LinearRole::kEmbedding:
    case LinearRole::kHead:
      return 0;
  }
  return 0;
}

// Where gradients end: everything before (block, stage) needs none.
struct Frontier {
  int64_t block = std::numeric_limits<int64_t>::max();
  int stage = 0;

  /// Whether the input of a layer at this place depends on something trained.
  bool reaches_input(int64_t block_of_site, int stage_of_site) const {
    return block_of_site > block || (block_of_site == block && stage_of_site > stage);
  }
  bool reaches_attention(int64_t at) const { return at > block || (at == block && stage == 0); }
};

Frontier frontier_of(const std::vector<PlacedLinear>& linears, const StepQuestion& question) {
  if (question.trains_embeddings) return {-2, 0};  // before the projection, whose layer is -1
  Frontier first;
  for (size_t i = 0; i < linears.size() && i < question.sites.size(); ++i) {
    const SiteWork& work = question.sites[i];
    const int64_t layer = linears[i].layer;
    if (linears[i].spec.role == LinearRole::kHead || (!work.has_adapter && !work.trains_weight)) continue;
    const int stage = stage_of(linears[i].spec.role);
    if (layer < first.block || (layer == first.block && stage < first.stage)) first = {layer, stage};
  }
  return first;
}

struct Sizes {
  double tokens = 0, sequences = 0;
};

Sizes sizes_of(const StepQuestion& question) {
  Sizes sizes;
  sizes.sequences = static_cast<double>(question.lengths.size());
  for (const int64_t length : question.lengths) sizes.tokens += static_cast<double>(length);
  return sizes;
}

// Pairs of query and key in one block, over all sequences; only the last query of each asks where `narrow`.
// A window of w tokens counts the token itself; 0: all tokens before.
double attention_pairs(const std::vector<int64_t>& lengths, bool causal, int64_t window, bool narrow) {
  double pairs = 0;
  for (const int64_t length : lengths) {
    const auto n = static_cast<double>(length);
    const double reach = causal && window > 0 ? std::min(n, static_cast<double>(window)) : n;
    if (narrow) {
      pairs += reach;
    } else {
      pairs += causal ? reach * (reach + 1) / 2 + (n - reach) * reach : n * n;
    }
  }
  return pairs;
}

}  // namespace

StepFlops count_step_flops(const Architecture& architecture, const StepQuestion& question) {
  const std::vector<PlacedLinear> linears = linears_of(architecture);
  const Sizes sizes = sizes_of(question);
  const Frontier frontier = frontier_of(linears, question);
  const int64_t last = architecture.num_layers() - 1;
  StepFlops flops;
  bool trains_head_before = false;  // a layer of the head that has been passed
  for (size_t i = 0; i < linears.size(); ++i) {
    const PlacedLinear& linear = linears[i];
    const SiteWork work = i < question.sites.size() ? question.sites[i] : SiteWork{};
    const bool is_head = linear.spec.role == LinearRole::kHead;
    const int stage = is_head ? 0 : stage_of(linear.spec.role);
    const bool asks_one_row = stage > 0 || linear.spec.role == LinearRole::kQuery;
    const bool is_narrow = question.reads_one_row && (is_head || (linear.layer == last && asks_one_row));
    const double rows = is_narrow ? sizes.sequences : sizes.tokens;
    const double in = static_cast<double>(linear.spec.in), out = static_cast<double>(linear.spec.out);
    const double product = 2 * rows * in * out, rank = static_cast<double>(work.rank);
    const bool input_gradient =
        is_head ? frontier.block <= last || trains_head_before : frontier.reaches_input(linear.layer, stage);
    trains_head_before |= is_head && (work.has_adapter || work.trains_weight);
    flops.linear_forward += product;
    if (input_gradient) flops.linear_backward += product;
    if (work.trains_weight) flops.linear_backward += product;
    flops.low_rank += 2 * rows * rank * (in + out);
    if (work.has_adapter) flops.low_rank += 2 * rows * rank * ((input_gradient ? 2 : 1) * in + 2 * out);
    const bool is_repeated = question.checkpoint_activations && !is_head && linear.layer >= frontier.block;
    if (is_repeated) flops.recomputation += product + 2 * rows * rank * (in + out);
  }
  const double head = 2 * static_cast<double>(question.predicted_tokens) *
                      static_cast<double>(architecture.hidden_size()) *
                      static_cast<double>(architecture.vocab_size());
  flops.linear_forward += head;
  if (frontier.block <= last) flops.linear_backward += head;
  for (int64_t block = 0; block <= last; ++block) {
    const AttentionShape& shape = architecture.blocks[static_cast<size_t>(block)].attention.shape;
    const double pairs = attention_pairs(question.lengths, shape.window_right == 0, shape.window_left + 1,
                                         question.reads_one_row && block == last);
    const double forward = 4 * static_cast<double>(shape.heads * shape.head_dim) * pairs;
    flops.attention_forward += forward;
    if (frontier.reaches_attention(block)) flops.attention_backward += 2 * forward;
    if (question.checkpoint_activations && block >= frontier.block) flops.recomputation += forward;
  }
  return flops;
}

}  // namespace msplora
