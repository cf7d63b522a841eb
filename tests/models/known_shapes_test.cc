#include "io/test_files.h"

#include <map>
#include <string>
#include "msplora/models/memory_estimate.h"
#include "msplora/models/model_config.h"

namespace msplora {
namespace {

using io_test::error_of;
using ::testing::HasSubstr;

// Encoders are published with their pooler; DeBERTa and ModernBERT have none.
int64_t published_parameters(const std::string& name) {
  const ModelConfig config = known_model_shape(name);
  const Architecture shape =
      describe(config, describe(config).is_causal() ? ModelTask::kCausalLm : ModelTask::kNone);
  const int64_t h = shape.hidden_size(), count = count_base_parameters(shape);
  if (shape.is_causal() || shape.model_type == "deberta-v2" || shape.model_type == "modernbert") return count;
  return count + h * h + h;
}

// The published numbers of parameters of the checkpoints (encoders: the bare model with its pooler).
TEST(ModelShapes, HaveTheirPublishedSizes) {
  const std::map<std::string, int64_t> published = {{"bert-tiny", 4385920},
                                                    {"bert-mini", 11170560},
                                                    {"bert-small", 28763648},
                                                    {"bert-medium", 41373184},
                                                    {"all-minilm-l6-v2", 22713216},
                                                    {"all-minilm-l12-v2", 33360000},
                                                    {"bert-base-uncased", 109482240},
                                                    {"bert-base-cased", 108310272},
                                                    {"bert-large-uncased", 335141888},
                                                    {"roberta-base", 124645632},
                                                    {"roberta-large", 355359744},
                                                    {"distilroberta-base", 82118400},
                                                    {"xlm-roberta-base", 278043648},
                                                    {"xlm-roberta-large", 559890432},
                                                    {"deberta-v3-base", 183831552},
                                                    {"deberta-v3-large", 434012160},
                                                    {"albert-base-v2", 11683584},
                                                    {"albert-xxlarge-v2", 222595584},
                                                    {"modernbert-base", 149014272},
                                                    {"modernbert-large", 394781696},
                                                    {"llama-2-7b", 6738415616},
                                                    {"llama-2-13b", 13015864320},
                                                    {"llama-2-70b", 68976648192},
                                                    {"llama-3-8b", 8030261248},
                                                    {"llama-3-70b", 70553706496},
                                                    {"llama-3.1-8b", 8030261248},
                                                    {"llama-3.2-1b", 1235814400},
                                                    {"llama-3.2-3b", 3212749824},
                                                    {"tinyllama-1.1b", 1100048384},
                                                    {"smollm2-135m", 134515008},
                                                    {"smollm2-360m", 361821120},
                                                    {"smollm2-1.7b", 1711376384},
                                                    {"mistral-7b-v0.1", 7241732096},
                                                    {"qwen2-0.5b", 494032768},
                                                    {"qwen2-1.5b", 1543714304},
                                                    {"qwen2-7b", 7615616512},
                                                    {"qwen3-0.6b", 596049920},
                                                    {"qwen3-8b", 8190735360},
                                                    {"gemma-3-270m", 268098176},
                                                    {"gemma-3-1b", 999885952},
                                                    {"gpt2", 124439808},
                                                    {"gpt2-medium", 354823168},
                                                    {"gpt2-large", 774030080},
                                                    {"gpt2-xl", 1557611200}};
  for (const auto& [name, count] : published) {
    EXPECT_EQ(published_parameters(name), count) << name;
  }
}

TEST(ModelShapes, AreValidConfigs) {
  for (const std::string& name : known_model_shapes()) {
    const ModelConfig shape = known_model_shape(name);
    EXPECT_EQ(model_config_to_json(shape), shape.raw) << name;
    EXPECT_FALSE(default_target_modules(shape.model_type).empty()) << name;
    EXPECT_GT(describe(shape).num_layers(), 0) << name;
  }
}

TEST(ModelShapes, AreFoundByTheNamesPeopleType) {
  EXPECT_EQ(describe(known_model_shape("FacebookAI/roberta-base")).hidden_size(), 768);
  EXPECT_EQ(describe(known_model_shape("Llama-3-8B")).kv_heads(), 8);
  EXPECT_THAT(error_of(ErrorCode::kUsage, [] { known_model_shape("roberta-bse"); }),
              HasSubstr("`roberta-base`?"));
  EXPECT_THAT(error_of(ErrorCode::kUsage, [] { known_model_shape("xyzzyxyzzyxyzzyxyzzy"); }),
              HasSubstr("gpt2-xl"));
}

}  // namespace
}  // namespace msplora
