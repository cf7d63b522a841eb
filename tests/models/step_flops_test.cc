#include "msplora/models/step_flops.h"

#include <gtest/gtest.h>
#include <stdexcept>
#include <string>
#include <vector>

#include "models/small_config.h"
#include "msplora/models/model.h"

namespace msplora {
namespace {

// Two blocks of width 4 with a feed-forward width of 8; sequences of 3 and 1 tokens.
struct SmallEncoder {
  Architecture architecture;
  std::vector<Site> sites;
  StepQuestion question;

  SmallEncoder() {
    architecture = describe(model_test::small_config("roberta", {{"vocab_size", 10},
                                                                 {"hidden_size", 4},
                                                                 {"num_hidden_layers", 2},
                                                                 {"num_attention_heads", 2},
                                                                 {"intermediate_size", 8},
                                                                 {"max_position_embeddings", 8}}));
    sites = sites_of_shape(architecture);
    question.lengths = {3, 1};
    question.sites.resize(sites.size());
    question.reads_one_row = false;
  }
  SiteWork& work(const std::string& path_end) {
    for (size_t i = 0; i < sites.size(); ++i)
      if (sites[i].path.ends_with(path_end)) return question.sites[i];
    throw std::runtime_error("no site " + path_end);
  }
  StepFlops count() const { return count_step_flops(architecture, question); }
};

// 2 * tokens * in * out of the layers of one block: q, k, v, attention output, up, down.
constexpr double kSquare = 2 * 4 * 4 * 4, kWide = 2 * 4 * 4 * 8;
constexpr double kBlock = 4 * kSquare + 2 * kWide;
constexpr double kAttention = 4 * (3 * 3 + 1 * 1) * 4;  // two products of all pairs, width 4

TEST(StepFlops, ForwardAloneWhenNothingIsTrained) {
  const StepFlops flops = SmallEncoder().count();
  EXPECT_DOUBLE_EQ(flops.linear_forward, 2 * kBlock);
  EXPECT_DOUBLE_EQ(flops.attention_forward, 2 * kAttention);
  EXPECT_DOUBLE_EQ(flops.total(), 2 * (kBlock + kAttention));
}

TEST(StepFlops, GradientsStopBelowTheFirstAdapter) {
  SmallEncoder m;
  m.work("layer.1.attention.self.value") = {3, true, false};
  const StepFlops flops = m.count();
  // Block 1: attention output, up and down pass the gradient on; its own input needs none.
  EXPECT_DOUBLE_EQ(flops.linear_backward, kSquare + 2 * kWide);
  EXPECT_DOUBLE_EQ(flops.attention_backward, 2 * kAttention);
  // Forward 2 products; backward two for `up`, one for `down`, none for the input.
  EXPECT_DOUBLE_EQ(flops.low_rank, 2 * 4 * 3 * 4 * (2 + 3));

  SmallEncoder deep;
  deep.work("layer.0.output.dense") = {3, true, false};
  const StepFlops from_block_0 = deep.count();
  EXPECT_DOUBLE_EQ(from_block_0.linear_backward, kBlock);
  EXPECT_DOUBLE_EQ(from_block_0.attention_backward, 2 * kAttention);
}

// ALBERT of two layers that share a block, behind a projection of the embeddings.
TEST(StepFlops, ABlockThatRunsTwiceCountsTwice) {
  SmallEncoder m;
  m.architecture = describe(model_test::small_config("albert", {{"vocab_size", 10},
                                                                {"hidden_size", 4},
                                                                {"embedding_size", 4},
                                                                {"num_hidden_groups", 1},
                                                                {"num_hidden_layers", 2},
                                                                {"num_attention_heads", 2},
                                                                {"intermediate_size", 8},
                                                                {"max_position_embeddings", 8}}));
  m.sites = sites_of_shape(m.architecture);
  m.question.sites.assign(m.sites.size(), {});
  EXPECT_DOUBLE_EQ(m.count().linear_forward, kSquare + 2 * kBlock);
  EXPECT_DOUBLE_EQ(m.count().attention_forward, 2 * kAttention);
  // The first run's input needs no gradient, that of the second does.
  m.work("attention.value") = {3, true, false};
  EXPECT_DOUBLE_EQ(m.count().linear_backward, kSquare + 2 * kWide + kBlock);
  EXPECT_DOUBLE_EQ(m.count().attention_backward, 4 * kAttention);
  EXPECT_DOUBLE_EQ(m.count().low_rank, 2 * 4 * 3 * 4 * (2 + 3 + 2 + 4));
}

// A local layer sees its window on both sides.
TEST(StepFlops, WindowsToBothSides) {
  SmallEncoder m;
  for (BlockSpec& block : m.architecture.blocks)
    block.attention.shape.window_left = block.attention.shape.window_right = 1;
  EXPECT_DOUBLE_EQ(m.count().attention_forward, 2 * 4 * (2 + 3 + 2 + 1) * 4);
}

TEST(StepFlops, ClassificationNeedsOneRowOfTheLastBlock) {
  SmallEncoder m;
  m.question.reads_one_row = true;
  const StepFlops flops = m.count();
  const double narrow = 2.0 / 4;  // two sequences instead of four tokens
  EXPECT_DOUBLE_EQ(flops.linear_forward, kBlock + 2 * kSquare + narrow * (2 * kSquare + 2 * kWide));
  EXPECT_DOUBLE_EQ(flops.attention_forward, kAttention + 4 * 4 * 4);
}

TEST(StepFlops, FullTrainingFormsEveryGradient) {
  SmallEncoder m;
  m.question.trains_embeddings = true;
  for (SiteWork& work : m.question.sites) work.trains_weight = true;
  const StepFlops flops = m.count();
  EXPECT_DOUBLE_EQ(flops.linear_backward, 2 * 2 * kBlock);
  EXPECT_DOUBLE_EQ(flops.attention_backward, 2 * 2 * kAttention);
}

// What is trained of the model itself, by name. The whole way back of two blocks: every input.
TEST(StepFlops, TrainedParametersDecideHowFarGradientsGo) {
  SmallEncoder biases;
  note_trained(biases.architecture,
               {"roberta.embeddings.LayerNorm.bias", "roberta.encoder.layer.0.attention.self.query.bias"},
               biases.question);
  EXPECT_DOUBLE_EQ(biases.count().linear_backward, 2 * kBlock);
  EXPECT_DOUBLE_EQ(biases.count().attention_backward, 2 * 2 * kAttention);
  EXPECT_DOUBLE_EQ(biases.count().low_rank, 0.0);

  SmallEncoder last;  // nothing below block 1's value needs a gradient
  note_trained(last.architecture, {"roberta.encoder.layer.1.attention.self.value.bias"}, last.question);
  EXPECT_DOUBLE_EQ(last.count().linear_backward, kSquare + 2 * kWide);
  EXPECT_DOUBLE_EQ(last.count().attention_backward, 2 * kAttention);

  SmallEncoder norm;
  note_trained(norm.architecture, {"roberta.encoder.layer.1.output.LayerNorm.weight"}, norm.question);
  EXPECT_DOUBLE_EQ(norm.count().linear_backward, kSquare + 2 * kWide);

  SmallEncoder weight;
  note_trained(weight.architecture, {"roberta.encoder.layer.1.output.dense.weight"}, weight.question);
  EXPECT_DOUBLE_EQ(weight.count().linear_backward, kWide);
}

TEST(StepFlops, RecomputationRepeatsTheBlocksWithGradients) {
  SmallEncoder m;
  m.question.checkpoint_activations = true;
  m.work("layer.1.attention.self.query") = {1, true, false};
  EXPECT_DOUBLE_EQ(m.count().recomputation, kBlock + kAttention + 2 * 4 * 1 * 8);
}

// Two blocks, of which the second looks back over two tokens; sequences of 5 and 1 tokens.
TEST(StepFlops, WindowsLimitThePairsOfABlock) {
  // Heads times head_dim is not hidden_size.
  const ModelConfig config =
      model_test::small_config("qwen2", {{"vocab_size", 10},
                                         {"hidden_size", 6},
                                         {"num_hidden_layers", 2},
                                         {"num_attention_heads", 2},
                                         {"num_key_value_heads", 1},
                                         {"head_dim", 4},
                                         {"intermediate_size", 8},
                                         {"max_position_embeddings", 8},
                                         {"use_sliding_window", true},
                                         {"sliding_window", 2},
                                         {"layer_types", {"full_attention", "sliding_attention"}}});
  Architecture architecture = describe(config, ModelTask::kSequenceClassification);
  StepQuestion question;
  question.lengths = {5, 1};
  question.reads_one_row = false;
  const double whole = (1 + 2 + 3 + 4 + 5) + 1, sliding = (1 + 2 + 2 + 2 + 2) + 1;
  // A query of width 8 meets a key and a value: two products of two operations.
  EXPECT_DOUBLE_EQ(count_step_flops(architecture, question).attention_forward, 4 * 8 * (whole + sliding));
  question.reads_one_row = true;  // the last tokens of both see 2 and 1
  EXPECT_DOUBLE_EQ(count_step_flops(architecture, question).attention_forward, 4 * 8 * (whole + 3));
  std::swap(architecture.blocks[0], architecture.blocks[1]);
  EXPECT_DOUBLE_EQ(count_step_flops(architecture, question).attention_forward, 4 * 8 * (sliding + 6));
}

// Width 4 and 10 words; three tokens are predicted. The output layer alone is adapted, then a layer below
// too.
TEST(StepFlops, TheOutputLayerOfALanguageModel) {
  SmallEncoder m;
  const ModelConfig config = model_test::small_config("llama", {{"vocab_size", 10},
                                                                {"hidden_size", 4},
                                                                {"num_hidden_layers", 2},
                                                                {"num_attention_heads", 2},
                                                                {"intermediate_size", 8},
                                                                {"max_position_embeddings", 8}});
  m.architecture = describe(config, ModelTask::kCausalLm);
  m.sites = sites_of_shape(m.architecture);
  m.question.sites.assign(m.sites.size(), {});
  const double blocks = m.count().linear_forward;
  m.question.predicted_tokens = 3;
  const double head = 2 * 3 * 4 * 10;
  EXPECT_DOUBLE_EQ(m.count().linear_forward, blocks + head);
  m.work("lm_head") = {2, true, false};
  EXPECT_DOUBLE_EQ(m.count().linear_backward, 0.0);
  EXPECT_DOUBLE_EQ(m.count().low_rank, 2 * 3 * 2 * (4 + 10) + 2 * 3 * 2 * (4 + 2 * 10));
  EXPECT_DOUBLE_EQ(m.count().recomputation, 0.0);
  m.work("layers.1.mlp.down_proj") = {1, true, false};
  EXPECT_DOUBLE_EQ(m.count().linear_backward, head);
}

// 84.9 M weights in 12 blocks and 4096 tokens: 0.696 TF forward (docs/performance.md).
TEST(StepFlops, RobertaBase) {
  const Architecture architecture = describe(known_model_shape("roberta-base"));
  StepQuestion question;
  question.lengths.assign(32, 128);
  question.reads_one_row = false;
  const StepFlops flops = count_step_flops(architecture, question);
  EXPECT_NEAR(flops.linear_forward * 1e-12, 0.696, 0.0005);
  EXPECT_NEAR(flops.attention_forward * 1e-12, 0.0193, 0.00005);
}

}  // namespace
}  // namespace msplora
