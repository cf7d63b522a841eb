#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/config_reader.h"
#include "models/families/family.h"
#include "msplora/models/architecture.h"

/// Pieces that several families are put together from.
namespace msplora::detail {

NormSpec layer_norm(std::string name, double eps);
NormSpec rms_norm(std::string name, double eps);

/// What every family begins with: its names and how weights are drawn. `prefix` stands in front of all names
/// below the head: "roberta.".
Architecture start(ConfigReader& config, ModelTask task, std::string prefix);

/// linear(dropout(x)) of a classifier: the module is the layer itself.
HeadStage classifier_stage(std::string name, double dropout, int64_t in, int64_t out, bool has_bias = true);

/// classifier_dropout, or that of hidden states where it is not given.
double classifier_dropout(ConfigReader& config);

/// dropout, `classifier.dense`, activation, dropout, `classifier.out_proj` on the first token.
HeadSpec dense_classifier(ConfigReader& config, int64_t width, kernels::Activation activation);
/// norm(activation(dense(x))) in front of a masked language model's decoder.
HeadStage transform_stage(std::vector<std::string> modules, const std::string& dense, const std::string& norm,
                          int64_t in, int64_t out, double eps, kernels::Activation activation);
/// A decoder that is the table of words, with a bias of its own.
HeadSpec tied_head(HeadStage transform, std::string decoder, std::string bias);

/// Post-norm encoders with learned positions and BERT's keys and names: everything but the head.
Architecture bert_like(ConfigReader& config, ModelTask task, const std::string& prefix);
std::vector<BlockSpec> bert_blocks(ConfigReader& config, const std::string& prefix, double eps,
                                   const std::string& projection_suffix = "");
EmbeddingSpec bert_embeddings(ConfigReader& config, const std::string& prefix, double eps);

/// What decoders of Llama's kind share: table of words, last norm, names. No blocks, rotaries or head.
Architecture decoder_base(ConfigReader& config, ModelTask task, double default_eps);
/// A block with RMS norms before both branches, and rotary positions.
BlockSpec pre_norm_block(double eps);
/// Queries, keys, values, output, gate, up and down.
std::vector<LinearSpec> gated_linears(ConfigReader& config, const AttentionShape& shape, bool qkv_bias,
                                      bool output_bias, bool feed_forward_bias);
/// A copy of the block for every layer. `windows`: tokens that each looks back over, the token itself
/// included, 0: all; empty: no layer slides.
void add_blocks(Architecture& architecture, ConfigReader& config, BlockSpec block,
                const std::vector<int64_t>& windows);
/// The head of the architecture's task: lm_head, without bias and the table of words where config.json says
/// so, or `score` on the last token.
void set_decoder_head(Architecture& architecture, ConfigReader& config, bool tied_by_default);

/// GGUF files of decoders of Llama's kind.
GgufFacts decoder_gguf(std::string architecture);
/// Sets a flag of config.json by whether the file has a tensor.
void set_by_tensor(const GgufFile& file, const char* tensor, const char* key, nlohmann::json& config);

}  // namespace msplora::detail
