#include "msplora/eval/memory_estimate.h"

#include <gtest/gtest.h>

#include <vector>

#include "msplora/models/model.h"

namespace msplora {
namespace {

TEST(MemoryEstimate, CheckpointingKeepsTheInputsOfBlocksAndOneBlock) {
  const ModelConfig config = known_model_shape("roberta-base");
  const std::vector<Site> sites = sites_of_shape(config, ModelTask::kMaskedLm);
  MemoryQuestion question;
  question.tokens_per_batch = 1000;
  // A block keeps 6 x 768 for attention and norms and 2 x 3072 for the feed-forward.
  const int64_t block = 6 * 768 + 2 * 3072, embedding = 2 * 768;
  EXPECT_EQ(estimate_memory(config, sites, question).activations, 4 * 1000 * (12 * block + embedding));
  question.checkpoint_activations = true;
  EXPECT_EQ(estimate_memory(config, sites, question).activations, 4 * 1000 * (12 * 768 + block + embedding));
}

}  // namespace
}  // namespace msplora
