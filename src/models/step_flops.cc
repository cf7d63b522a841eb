#include "msplora/models/step_flops.h"

#include <algorithm>
#include <limits>
#include <string>
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
    case LinearRole::kPositionKey:
    case LinearRole::kPositionQuery:
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
    case LinearRole::kOutput:
    case LinearRole::kWords:
      return 0;
  }
  return 0;
}

bool is_behind_blocks(LinearRole role) {
  return role == LinearRole::kHead || role == LinearRole::kOutput;
}

// A layer as a pass meets it: `run` is the block's place in the pass, or -1 outside the blocks.
struct Met {
  size_t linear;
  int64_t run;
};

std::vector<Met> layers_of_pass(const std::vector<PlacedLinear>& linears, const Architecture& architecture) {
  std::vector<size_t> first(architecture.blocks.size(), 0), count(architecture.blocks.size(), 0);
  std::vector<Met> met, behind;
  for (size_t i = 0; i < linears.size(); ++i) {
    if (linears[i].layer < 0) {
      (is_behind_blocks(linears[i].spec.role) ? behind : met).push_back({i, -1});
    } else if (count[static_cast<size_t>(linears[i].layer)]++ == 0) {
      first[static_cast<size_t>(linears[i].layer)] = i;
    }
  }
  for (size_t run = 0; run < architecture.num_runs(); ++run) {
    const size_t block = architecture.block_of_run(run);
    for (size_t k = 0; k < count[block]; ++k) met.push_back({first[block] + k, static_cast<int64_t>(run)});
  }
  met.insert(met.end(), behind.begin(), behind.end());
  return met;
}

// Where gradients end: everything before (run, stage) needs none.
struct Frontier {
  int64_t run = std::numeric_limits<int64_t>::max();
  int stage = 0;

  /// Whether the input of a layer at this place depends on something trained.
  bool reaches_input(int64_t run_of_site, int stage_of_site) const {
    return run_of_site > run || (run_of_site == run && stage_of_site > stage);
  }
  bool reaches_attention(int64_t at) const { return at > run || (at == run && stage == 0); }
};

Frontier frontier_of(const std::vector<PlacedLinear>& linears, const std::vector<Met>& pass,
                     const StepQuestion& question) {
  if (question.trains_embeddings) return {-2, 0};  // before the projection, whose run is -1
  Frontier first;
  for (const auto& [i, run] : pass) {
    if (i >= question.sites.size()) continue;
    const SiteWork& work = question.sites[i];
    if (is_behind_blocks(linears[i].spec.role) || (!work.has_adapter && !work.trains_weight)) continue;
    if (linears[i].spec.role == LinearRole::kWords) return {-2, 0};
    const int stage = stage_of(linears[i].spec.role);
    if (run < first.run || (run == first.run && stage < first.stage)) first = {run, stage};
  }
  return first;
}

// Rows of relative positions that pass a layer beside the tokens, or in their place.
double relative_rows(const Architecture& architecture, const LinearSpec& linear, const BlockSpec& block) {
  const RelativeSpec& relative = architecture.relative;
  const bool is_shared =
      block.find(LinearRole::kPositionKey) == nullptr && block.find(LinearRole::kPositionQuery) == nullptr;
  const bool passes = linear.role == LinearRole::kPositionKey || linear.role == LinearRole::kPositionQuery ||
                      (is_shared && linear.role == LinearRole::kKey && relative.has_keys) ||
                      (is_shared && linear.role == LinearRole::kQuery && relative.has_queries);
  return relative && passes ? static_cast<double>(relative.rows) : 0.0;
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

// Pairs of query and key in one block, over all sequences; only one query of each, at an end that sees all
// that its window lets it, asks where `narrow`.
double attention_pairs(const std::vector<int64_t>& lengths, const AttentionShape& shape, bool narrow) {
  double pairs = 0;
  for (const int64_t length : lengths) {
    const auto n = static_cast<double>(length);
    double all = n, most = 0;
    for (const int64_t window : {shape.window_left, shape.window_right}) {
      const double reach = window < 0 ? n - 1 : std::min(n - 1, static_cast<double>(window));
      all += reach * (reach + 1) / 2 + (n - 1 - reach) * reach;
      most = std::max(most, reach);
    }
    pairs += narrow ? most + 1 : all;
  }
  return pairs;
}

// Whether gradients of the parameter pass the first block: embeddings and what is made of them.
bool is_below_blocks(const Architecture& architecture, const std::string& parameter) {
  const EmbeddingSpec& e = architecture.embeddings;
  std::vector<std::string> places = {architecture.relative.table, architecture.relative.norm.name,
                                     architecture.convolution.name, architecture.convolution.norm.name};
  for (const std::string& name : {e.words, e.positions, e.types, e.norm.name}) {
    if (!name.empty()) places.push_back(e.path + "." + name);
  }
  return std::any_of(places.begin(), places.end(), [&](const std::string& place) {
    return !place.empty() && (parameter == place || parameter.starts_with(place + "."));
  });
}

}  // namespace

void note_trained(const Architecture& architecture, const std::vector<std::string>& parameters,
                  StepQuestion& question) {
  const std::vector<PlacedLinear> linears = linears_of(architecture);
  question.sites.resize(linears.size());
  const std::string words = architecture.embeddings.path + "." + architecture.embeddings.words + ".weight";
  for (const std::string& name : parameters) {
    bool is_of_layer = false;
    for (size_t i = 0; i < linears.size(); ++i) {
      const std::string& path = linears[i].path;
      const bool is_tied = linears[i].spec.role == LinearRole::kOutput && architecture.head.is_tied;
      const bool is_weight = name == path + ".weight" || (is_tied && name == words);
      const bool is_bias = name == path + ".bias";
      if (is_weight) question.sites[i].trains_weight = true;
      if (is_bias) question.sites[i].has_adapter = true;
      is_of_layer |= is_weight || is_bias;
    }
    if (is_of_layer) continue;
    if (is_below_blocks(architecture, name)) question.trains_embeddings = true;
    for (size_t i = 0; i < linears.size(); ++i) {
      if (linears[i].layer < 0) continue;
      if (!name.starts_with(architecture.blocks[static_cast<size_t>(linears[i].layer)].path + ".")) continue;
      question.sites[i].has_adapter = true;
      break;
    }
  }
}

StepFlops count_step_flops(const Architecture& architecture, const StepQuestion& question) {
  const std::vector<PlacedLinear> linears = linears_of(architecture);
  const Sizes sizes = sizes_of(question);
  const std::vector<Met> pass = layers_of_pass(linears, architecture);
  const Frontier frontier = frontier_of(linears, pass, question);
  const int64_t last = static_cast<int64_t>(architecture.num_runs()) - 1;
  StepFlops flops;
  bool trains_head_before = false;  // a layer of the head that has been passed
  for (const auto& [i, run] : pass) {
    const PlacedLinear& linear = linears[i];
    const SiteWork work = i < question.sites.size() ? question.sites[i] : SiteWork{};
    const bool is_head = is_behind_blocks(linear.spec.role);
    const int stage = is_head ? 0 : stage_of(linear.spec.role);
    const bool asks_one_row = stage > 0 || linear.spec.role == LinearRole::kQuery;
    const bool is_narrow = question.reads_one_row && (is_head || (run == last && asks_one_row));
    const bool is_of_positions =
        linear.spec.role == LinearRole::kPositionKey || linear.spec.role == LinearRole::kPositionQuery;
    double rows = is_of_positions ? 0.0 : is_narrow ? sizes.sequences : sizes.tokens;
    if (linear.spec.role == LinearRole::kOutput) rows = static_cast<double>(question.predicted_tokens);
    if (linear.layer >= 0)
      rows +=
          relative_rows(architecture, linear.spec, architecture.blocks[static_cast<size_t>(linear.layer)]);
    const double in = static_cast<double>(linear.spec.in), out = static_cast<double>(linear.spec.out);
    const double product = 2 * rows * in * out, rank = static_cast<double>(work.rank);
    if (linear.spec.role == LinearRole::kWords) {  // looked up, as A is: B alone is a product
      flops.low_rank += 2 * rows * rank * out * (work.has_adapter ? 3 : 1);
      continue;
    }
    const bool input_gradient =
        is_head ? frontier.run <= last || trains_head_before : frontier.reaches_input(run, stage);
    trains_head_before |= is_head && (work.has_adapter || work.trains_weight);
    flops.linear_forward += product;
    if (input_gradient) flops.linear_backward += product;
    if (work.trains_weight) flops.linear_backward += product;
    flops.low_rank += 2 * rows * rank * (in + out);
    if (work.has_adapter) flops.low_rank += 2 * rows * rank * ((input_gradient ? 2 : 1) * in + 2 * out);
    const bool is_repeated = question.checkpoint_activations && !is_head && run >= frontier.run;
    if (is_repeated) flops.recomputation += product + 2 * rows * rank * (in + out);
  }
  const int terms = (architecture.relative.has_keys ? 1 : 0) + (architecture.relative.has_queries ? 1 : 0);
  for (int64_t run = 0; run <= last; ++run) {
    const size_t block = architecture.block_of_run(static_cast<size_t>(run));
    const AttentionShape& shape = architecture.blocks[block].attention.shape;
    const double pairs = attention_pairs(question.lengths, shape, question.reads_one_row && run == last);
    const double forward = (4 + 2 * terms) * static_cast<double>(shape.heads * shape.head_dim) * pairs;
    flops.attention_forward += forward;
    if (frontier.reaches_attention(run)) flops.attention_backward += 2 * forward;
    if (question.checkpoint_activations && run >= frontier.run) flops.recomputation += forward;
  }
  return flops;
}

}  // namespace msplora
