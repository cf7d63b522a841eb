#include "models/transformer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <string>
#include <utility>
#include <vector>

#include "models/input_checks.h"
#include "models/model_parts.h"
#include "models/registry.h"
#include "msplora/core/error.h"
#include "msplora/core/random.h"
#include "nn/labels.h"

namespace msplora {
namespace {

using Role = ParameterStore::Role;
using Init = ParameterStore::Init;

// "attention.output" of "attention.output.dense".
std::string parent_of(const std::string& path) {
  return path.substr(0, path.rfind('.'));
}

}  // namespace

const Linear* Transformer::Block::find(LinearRole role) const {
  for (size_t i = 0; i < spec.linears.size(); ++i) {
    if (spec.linears[i].role == role) return &linears[i];
  }
  return nullptr;
}

std::vector<const Linear*> Transformer::Block::gates() const {
  if (const Linear* both = find(LinearRole::kGateUp)) return {both};
  if (const Linear* gate = find(LinearRole::kGate)) return {gate, find(LinearRole::kUp)};
  return {};
}

Transformer::Branch Transformer::make_branch(const BranchSpec& spec, const Block& block, LinearRole last,
                                             ParameterStore& store) const {
  const std::string prefix = block.spec.path + ".";
  const int64_t width = architecture().hidden_size();
  Branch branch;
  branch.before = Norm(spec.before, prefix, width, store);
  branch.on_output = Norm(spec.on_output, prefix, width, store);
  branch.after_sum = Norm(spec.after_sum, prefix, width, store);
  branch.dropout = spec.dropout;
  branch.dropout_stream = hash_name(parent_of(block.at(last).name()) + ".dropout");
  return branch;
}

Transformer::Block Transformer::make_block(size_t index, ParameterStore& store) const {
  const BlockSpec& spec = architecture().blocks[index];
  const AttentionSpec& attention = spec.attention;
  const std::string prefix = spec.path + ".";
  Block block;
  block.index = index;
  block.spec = spec;
  for (const LinearSpec& linear : spec.linears)
    block.linears.push_back(store.linear(prefix + linear.name, linear));
  const AttentionShape& shape = attention.shape;
  const bool is_wide = attention.norms_all_heads;
  block.q_norm = Norm(attention.q_norm, prefix, shape.head_dim * (is_wide ? shape.heads : 1), store);
  block.k_norm = Norm(attention.k_norm, prefix, shape.head_dim * (is_wide ? shape.kv_heads : 1), store);
  block.attention = make_branch(spec.attention_branch, block, LinearRole::kAttentionOutput, store);
  block.feed_forward = make_branch(spec.feed_forward_branch, block, LinearRole::kDown, store);
  block.attention_stream = hash_name(parent_of(block.linears.front().name()) + ".dropout");
  return block;
}

Transformer::Transformer(const ModelConfig& config, Architecture resolved, const ModelLoadOptions& options,
                         ParameterStore& store)
    : Model(config, std::move(resolved), options.compute_dtype, options.device) {
  const Architecture& a = architecture();
  const EmbeddingSpec& e = a.embeddings;
  const auto table = [&](const std::string& name, int64_t rows) {
    return store.take(e.path + "." + name + ".weight", {rows, e.width}, Role::kMatrix, Init::kNormal);
  };
  const LinearSpec words = word_table(a).value();
  words_ = Linear(words.name, store.weight(words.name + ".weight", words.in, words.out, Role::kMatrix), {});
  if (e.position_rows > 0) position_embeddings_ = table(e.positions, e.position_rows);
  if (e.type_rows > 0) token_type_embeddings_ = table(e.types, e.type_rows);
  embedding_norm_ =
      Norm(e.norm, e.path + ".", e.projects_first && e.projection ? e.projection->out : e.width, store);
  if (e.projection) embedding_projection_ = store.linear(e.projection->name, *e.projection);
  if (a.relative) {
    relative_rows_ =
        store.take(a.relative.table, {a.relative.rows, a.hidden_size()}, Role::kExact, Init::kNormal);
    relative_norm_ = Norm(a.relative.norm, "", a.hidden_size(), store);
  }
  if (const ConvolutionSpec& c = a.convolution) {
    const int64_t d = a.hidden_size();
    convolution_weight_ = store.take(c.name + ".weight", {d, d, c.kernel}, Role::kExact, Init::kNormal);
    convolution_bias_ = store.take(c.name + ".bias", {d}, Role::kExact, Init::kZero);
    convolution_norm_ = Norm(c.norm, "", d, store);
  }
  for (size_t i = 0; i < a.blocks.size(); ++i) blocks_.push_back(make_block(i, store));
  final_norm_ = Norm(a.final_norm, "", a.hidden_size(), store);
  head_ = Head(a, words_.weight, options.random_init, store);
}

at::Tensor Transformer::forward(const PackedInput& input, const ForwardContext& context) {
  return head_.forward(run(begin(input, context)), context);
}

at::Tensor Transformer::loss_sum(const PackedInput& input, const at::Tensor& labels,
                                 const ForwardContext& context) {
  if (!head_.is_language_model()) {
    throw Error(ErrorCode::kUsage, "loss_sum",
                fmt::format("is for language models, and this {} is loaded for {}", architecture().model_type,
                            task_name(task())),
                "give what forward() returns to cross_entropy_sum or squared_error_sum");
  }
  const Pass pass = begin(input, context);
  detail::check_label_count(labels, output_row_count(input));
  return head_.loss_sum(run(pass), labels, context);
}

at::Tensor Transformer::decode(const PackedInput& input, KeyValueCache& cache,
                               std::span<const KeyValueCache::Sequence> sequences) {
  if (task() != ModelTask::kCausalLm) {
    throw Error(ErrorCode::kUsage, architecture().model_type, "is no causal language model here",
                "load it for causal language modelling to have it write");
  }
  const c10::NoGradGuard no_grad;
  check_input(input, architecture());
  KeyValueCache::Extension extension(cache, sequences, input.cu_seqlens);
  const Pass pass = begin(input, extension);
  at::Tensor logits;
  if (input.output_rows.defined() && input.output_rows.numel() == 0) {
    run_blocks(pass, {});
    logits = at::empty({0, architecture().vocab_size()}, at::TensorOptions(at::kFloat).device(device()));
  } else {
    logits = head_.forward(run(pass), {});
  }
  extension.commit();
  return logits;
}

std::vector<Site> Transformer::sites() {
  std::vector<Site> sites;
  sites.push_back(make_site(words_, -1, *word_table(architecture())));
  if (embedding_projection_)
    sites.push_back(make_site(*embedding_projection_, -1, *architecture().embeddings.projection));
  for (size_t i = 0; i < blocks_.size(); ++i) {
    Block& block = blocks_[i];
    for (size_t k = 0; k < block.linears.size(); ++k)
      sites.push_back(make_site(block.linears[k], static_cast<int64_t>(i), block.spec.linears[k]));
  }
  head_.append_sites(sites);
  return sites;
}

void Transformer::untie() {
  HeadSpec& head = mutable_architecture().head;
  if (!head.is_tied) return;
  ModelConfig untied = config();
  untied.raw["tie_word_embeddings"] = false;
  if (describe(untied, task()).head.is_tied) {
    throw Error(
        ErrorCode::kModel, head.decoder,
        fmt::format("is the table of words in every model of type {}, so that its files have no place "
                    "for a matrix of its own",
                    untied.model_type),
        "use the adapter without merging it");
  }
  head_.untie();
  head.is_tied = false;
  mutable_config() = std::move(untied);
}

std::vector<Parameter> Transformer::parameters() {
  const EmbeddingSpec& e = architecture().embeddings;
  std::vector<Parameter> parameters;
  const auto append = [&](const std::string& name, const at::Tensor& table) {
    if (table.defined()) parameters.push_back({e.path + "." + name + ".weight", table});
  };
  parameters.push_back({words_.name() + ".weight", words_.weight});
  append(e.positions, position_embeddings_);
  append(e.types, token_type_embeddings_);
  embedding_norm_.append_parameters(parameters);
  if (embedding_projection_) append_linear(*embedding_projection_, parameters);
  if (relative_rows_.defined()) parameters.push_back({architecture().relative.table, relative_rows_});
  relative_norm_.append_parameters(parameters);
  if (convolution_weight_.defined()) {
    parameters.push_back({architecture().convolution.name + ".weight", convolution_weight_});
    parameters.push_back({architecture().convolution.name + ".bias", convolution_bias_});
  }
  convolution_norm_.append_parameters(parameters);
  for (const Block& block : blocks_) {
    bool is_behind_attention = false;
    for (size_t i = 0; i < block.linears.size(); ++i) {
      append_linear(block.linears[i], parameters);
      if (is_behind_attention || block.spec.linears[i].role != LinearRole::kAttentionOutput) continue;
      is_behind_attention = true;
      block.q_norm.append_parameters(parameters);
      block.k_norm.append_parameters(parameters);
      block.attention.after_sum.append_parameters(parameters);
    }
    for (const Norm* norm :
         {&block.feed_forward.after_sum, &block.attention.before, &block.attention.on_output,
          &block.feed_forward.before, &block.feed_forward.on_output})
      norm->append_parameters(parameters);
  }
  final_norm_.append_parameters(parameters);
  head_.append_parameters(parameters);
  return parameters;
}

}  // namespace msplora
