#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "msplora/kernels/kernels.h"
#include "msplora/nn/attention.h"
#include "msplora/nn/linear.h"

/// What a transformer is made of, as data. A family (src/models/families) resolves config.json into one
/// Architecture; loading, the forward pass, sites, shapes, FLOPs, memory and default targets follow from it.
/// Names are those of Hugging Face's checkpoints.
namespace msplora {

/// What a model computes on top of its last hidden states.
enum class ModelTask { kNone, kSequenceClassification, kMaskedLm, kCausalLm };

struct LinearSpec {
  LinearRole role = LinearRole::kQuery;
  std::string name;  // below the block's path
  int64_t in = 0, out = 0;
  bool has_bias = true;
  bool is_transposed = false;  // files hold [in, out] (GPT-2's Conv1D)
};

/// kLayer: (x - mean) / sqrt(variance + eps) * w + b. kRms: x / sqrt(mean(x²) + eps) * w.
/// kRmsPlusOne: the same with 1 + w (Gemma).
enum class NormKind { kNone, kLayer, kRms, kRmsPlusOne };
struct NormSpec {
  NormKind kind = NormKind::kNone;
  std::string name;  // of the module that holds its weight (and bias: kLayer)
  double eps = 0.0;
  bool has_bias = true;  // kLayer; without one b is 0 and no parameter

  explicit operator bool() const { return kind != NormKind::kNone; }
};

/// One half of a block: x = after_sum(x + dropout(on_output(f(before(x))))), where a norm that is not there
/// is the identity. Encoders of BERT's kind norm after the sum, decoders of Llama's kind before f.
struct BranchSpec {
  NormSpec before, on_output, after_sum;
  double dropout = 0.0;
};

struct AttentionSpec {
  AttentionShape shape;  // heads, window, scale; window_right 0: causal
  double dropout = 0.0;  // of probabilities
  int rotary = -1;       // index into Architecture::rotaries; -1: none
  NormSpec q_norm, k_norm;
  bool norms_all_heads = false;  // in one, instead of each
};

struct BlockSpec {
  std::string path;                 // "roberta.encoder.layer.3"
  std::vector<LinearSpec> linears;  // in order of execution
  AttentionSpec attention;
  BranchSpec attention_branch, feed_forward_branch;
  kernels::Activation activation = kernels::Activation::kGelu;  // of the feed-forward part
  double inner_dropout = 0.0;                                   // of the values between its layers

  /// Null when the block has no layer of this role.
  const LinearSpec* find(LinearRole role) const;
  int64_t hidden_size() const { return linears.front().in; }
  int64_t intermediate_size() const;  // width between the layers of the feed-forward part
};

/// The angles of rotary positions: pair i of a head turns by frequencies[i] from one token to the next.
/// Twice as many elements of a head as there are frequencies are turned.
struct RotarySpec {
  std::vector<double> frequencies;
  double attention_factor = 1.0;  // multiplies cosines and sines
  /// Of texts longer than original_length, from their first token on (LongRoPE); empty: the same for all.
  std::vector<double> long_frequencies;

  /// The rule that these follow from, for files that say it again: its rope_type and the numbers in it.
  std::string rule = "default";
  double theta = 10000.0;
  double factor = 1.0;          // that the rule stretches by; 1 where it knows none
  int64_t original_length = 0;  // tokens that the model was trained for before; 0 where the rule knows none

  /// Of a text of so many tokens.
  const std::vector<double>& of_length(int64_t tokens) const {
    return !long_frequencies.empty() && tokens > original_length ? long_frequencies : frequencies;
  }
};

/// Terms of the scores by relative positions (DeBERTa): a table with a row for each bucket of distances,
/// which is normed once and dropped out anew in every block. From it a block makes keys, which its queries
/// meet, and queries, which its keys meet: with its layers kPositionKey and kPositionQuery where it has them,
/// else with kKey and kQuery.
struct RelativeSpec {
  std::string table;  // full name; "": there are no such terms
  int64_t rows = 0;
  NormSpec norm;  // full path as its name
  double dropout = 0.0;
  std::vector<int32_t> bucket_of;  // rows of the distances -reach to reach, query - key
  bool has_keys = false, has_queries = false;

  explicit operator bool() const { return !table.empty(); }
};

/// What is added to the output of the first block (DeBERTa v2):
/// x = norm(x + activation(dropout(Σ_k W_k e[i + k - kernel / 2] + b))) with the embeddings e of the text
/// around token i, which are 0 beyond its ends.
struct ConvolutionSpec {
  std::string name;    // full path of weight [width, width, kernel] and bias
  int64_t kernel = 0;  // odd; 0: there is none
  double dropout = 0.0;
  kernels::Activation activation = kernels::Activation::kTanh;
  NormSpec norm;  // full path as its name

  explicit operator bool() const { return kernel > 0; }
};

/// Sum of tables chosen by token, position and segment, then a norm, dropout, and where the tables are not
/// as wide as the blocks a projection. An empty name: there is no such table.
struct EmbeddingSpec {
  std::string path;                     // of the module that holds the tables
  std::string words, positions, types;  // names below it
  int64_t rows = 0, width = 0;          // of the table of words
  int64_t position_rows = 0, type_rows = 0;
  int64_t position_offset = 0;  // row of the first token's position
  double scale = 1.0;           // of the sum
  NormSpec norm;
  double dropout = 0.0;
  std::optional<LinearSpec> projection;  // full path as its name
  bool projects_first = false;           // in front of the norm, which then is as wide as the blocks
};

/// Which hidden states a head reads: of the first or the last token of every sequence, their mean, or of each
/// token.
enum class Pool { kFirst, kLast, kMean, kEach };

/// dropout, linear, activation, norm; what is absent is the identity. `modules` hold its parameters and are
/// trained and saved whole beside an adapter, `trained_if_absent`: only where the checkpoint lacks them.
struct HeadStage {
  std::vector<std::string> modules;
  LinearSpec linear;  // full path as its name
  double dropout = 0.0;
  std::optional<kernels::Activation> activation;
  NormSpec norm;
  bool trained_if_absent = false;
};

/// Stages, then for language models the layer that gives the logits.
struct HeadSpec {
  Pool pool = Pool::kEach;
  std::vector<HeadStage> stages;
  std::string decoder;       // path of a language model's output layer; "": none
  bool is_tied = false;      // the decoder's weight is the table of words
  std::string decoder_bias;  // full name of its bias; "": none
  double soft_cap = 0.0;     // logits become cap tanh(logit / cap); 0: none
};

struct Architecture {
  std::string model_type;
  ModelTask task = ModelTask::kNone;
  std::string base_prefix;            // of all names below the head, which older files leave out: "roberta."
  std::vector<std::string> wrappers;  // what stands in front of names, or of them without that prefix, in
                                      // checkpoints of models that this one is a part of: "language_model."
  int64_t longest = 0;                // tokens of a sequence
  double initializer_range = 0.02;
  EmbeddingSpec embeddings;
  RelativeSpec relative;
  ConvolutionSpec convolution;
  std::vector<RotarySpec> rotaries;
  std::vector<BlockSpec> blocks;
  std::vector<size_t> order;  // of the blocks in a pass, which may run several times; empty: each once
  NormSpec final_norm;        // full path as its name
  HeadSpec head;
  std::vector<std::string> ignored;  // prefixes of names in checkpoints that no task uses
  std::vector<std::string> buffers;  // and ends of names of what is no parameter

  int64_t num_layers() const { return static_cast<int64_t>(blocks.size()); }
  /// A text longer than this turns by other angles from its first token on; 0: all turn alike.
  int64_t short_length() const;
  /// Blocks that a pass runs, and which of them is the i-th.
  size_t num_runs() const { return order.empty() ? blocks.size() : order.size(); }
  size_t block_of_run(size_t i) const { return order.empty() ? i : order[i]; }
  /// How often a pass runs the block.
  int64_t runs_of(size_t block) const;
  int64_t vocab_size() const { return embeddings.rows; }
  int64_t hidden_size() const { return blocks.empty() ? 0 : blocks.front().hidden_size(); }
  int64_t intermediate_size() const { return blocks.empty() ? 0 : blocks.front().intermediate_size(); }
  int64_t heads() const { return blocks.empty() ? 0 : blocks.front().attention.shape.heads; }
  int64_t kv_heads() const { return blocks.empty() ? 0 : blocks.front().attention.shape.kv_heads; }
  bool is_causal() const { return !blocks.empty() && blocks.front().attention.shape.window_right == 0; }
};

/// A linear layer with its place: the block's index, or -1 outside the blocks.
struct PlacedLinear {
  std::string path;
  int64_t layer = -1;
  LinearSpec spec;
};
/// Every layer that an adapter may change, in order of execution: the table of words (from one word of `in`
/// to its embedding), the projection of the embeddings, those of the blocks, those of a classifier's head or
/// the output layer of a language model.
std::vector<PlacedLinear> linears_of(const Architecture& architecture);
/// The table of words and the layer that gives a language model's logits; full paths as their names.
std::optional<LinearSpec> word_table(const Architecture& architecture);
std::optional<LinearSpec> output_layer(const Architecture& architecture);

/// The modules of a head that are trained whatever the checkpoint has.
std::vector<std::string> trained_modules(const HeadSpec& head);

/// Another name of a parameter: Hugging Face's models have the matrix under both, files under the second.
struct TiedName {
  std::string name;       // "lm_head.weight"
  std::string parameter;  // "model.embed_tokens.weight"
};
std::vector<TiedName> tied_names(const Architecture& architecture);

}  // namespace msplora
