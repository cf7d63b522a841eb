#include "io/test_files.h"

#include <map>
#include <string>
#include "msplora/io/model_config.h"

namespace msplora {
namespace {

using io_test::error_of;
using testing::HasSubstr;

int64_t encoder_parameters(const ModelConfig& c) {
  const int64_t h = c.hidden_size, f = c.intermediate_size;
  const int64_t layer = 4 * (h * h + h) + 2 * h * f + f + h + 4 * h;
  const bool deberta = c.model_type == "deberta-v2";
  // DeBERTa v3: 2 x 256 relative positions with a norm, no absolute ones and no pooler.
  const int64_t rest = deberta ? 512 * h + 2 * h : c.max_position_embeddings * h + h * h + h;
  return (c.vocab_size + c.type_vocab_size) * h + 2 * h + c.num_hidden_layers * layer + rest;
}

int64_t decoder_parameters(const ModelConfig& c) {
  const int64_t h = c.hidden_size, q = c.num_attention_heads * c.head_dim,
                kv = c.num_key_value_heads * c.head_dim;
  int64_t layer = 2 * h * q + 2 * h * kv + 3 * h * c.intermediate_size + 2 * h;
  if (c.model_type == "qwen2") layer += q + 2 * kv;
  if (c.model_type == "qwen3") layer += 2 * c.head_dim;
  return c.vocab_size * h * (c.tie_word_embeddings ? 1 : 2) + c.num_hidden_layers * layer + h;
}

int64_t gpt2_parameters(const ModelConfig& c) {
  const int64_t h = c.hidden_size;
  const int64_t layer =
      3 * h * h + 3 * h + h * h + h + 2 * h * c.intermediate_size + c.intermediate_size + h + 4 * h;
  return (c.vocab_size + c.max_position_embeddings) * h + c.num_hidden_layers * layer + 2 * h;
}

// The published numbers of parameters of the checkpoints (encoders: the bare model with its pooler).
TEST(ModelShapes, HaveTheirPublishedSizes) {
  const std::map<std::string, int64_t> published = {{"bert-base-uncased", 109482240},
                                                    {"bert-base-cased", 108310272},
                                                    {"bert-large-uncased", 335141888},
                                                    {"roberta-base", 124645632},
                                                    {"roberta-large", 355359744},
                                                    {"distilroberta-base", 82118400},
                                                    {"xlm-roberta-base", 278043648},
                                                    {"xlm-roberta-large", 559890432},
                                                    {"deberta-v3-base", 183831552},
                                                    {"deberta-v3-large", 434012160},
                                                    {"llama-2-7b", 6738415616},
                                                    {"llama-2-13b", 13015864320},
                                                    {"llama-2-70b", 68976648192},
                                                    {"llama-3-8b", 8030261248},
                                                    {"llama-3-70b", 70553706496},
                                                    {"llama-3.1-8b", 8030261248},
                                                    {"llama-3.2-1b", 1235814400},
                                                    {"llama-3.2-3b", 3212749824},
                                                    {"tinyllama-1.1b", 1100048384},
                                                    {"mistral-7b-v0.1", 7241732096},
                                                    {"qwen2-0.5b", 494032768},
                                                    {"qwen2-1.5b", 1543714304},
                                                    {"qwen2-7b", 7615616512},
                                                    {"qwen3-0.6b", 596049920},
                                                    {"qwen3-8b", 8190735360},
                                                    {"gpt2", 124439808},
                                                    {"gpt2-medium", 354823168},
                                                    {"gpt2-large", 774030080},
                                                    {"gpt2-xl", 1557611200}};
  for (const auto& [name, count] : published) {
    const ModelConfig config = known_model_shape(name);
    const bool gpt2 = config.model_type == "gpt2";
    const bool encoder = config.model_type.find("bert") != std::string::npos;
    EXPECT_EQ(gpt2      ? gpt2_parameters(config)
              : encoder ? encoder_parameters(config)
                        : decoder_parameters(config),
              count)
        << name;
  }
}

TEST(ModelShapes, AreValidConfigs) {
  for (const std::string& name : known_model_shapes()) {
    const ModelConfig shape = known_model_shape(name);
    const ModelConfig parsed = parse_model_config(shape.raw, name);
    EXPECT_EQ(model_config_to_json(parsed), shape.raw) << name;
    EXPECT_EQ(parsed.head_dim, shape.head_dim) << name;
    EXPECT_EQ(parsed.num_key_value_heads, shape.num_key_value_heads) << name;
    EXPECT_EQ(parsed.hidden_dropout_prob, shape.hidden_dropout_prob) << name;
  }
}

TEST(ModelShapes, AreFoundByTheNamesPeopleType) {
  EXPECT_EQ(known_model_shape("FacebookAI/roberta-base").hidden_size, 768);
  EXPECT_EQ(known_model_shape("Llama-3-8B").num_key_value_heads, 8);
  EXPECT_THAT(error_of(ErrorCode::kUsage, [] { known_model_shape("roberta-bse"); }),
              HasSubstr("`roberta-base`?"));
  EXPECT_THAT(error_of(ErrorCode::kUsage, [] { known_model_shape("xyzzyxyzzyxyzzyxyzzy"); }),
              HasSubstr("gpt2-xl"));
}

}  // namespace
}  // namespace msplora
