#include "msplora/models/model_config.h"

#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "golden_cases.h"
#include "io/test_files.h"
#include "models/config_texts.h"
#include "msplora/core/file.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using config_texts::llama;
using config_texts::parse;
using config_texts::refusal;
using io_test::error_of;
using io_test::write_bytes;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

json roberta() {
  return json::parse(R"({
    "architectures": ["RobertaForMaskedLM"], "attention_probs_dropout_prob": 0.2, "bos_token_id": 0,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.15, "hidden_size": 32, "initializer_range": 0.01,
    "intermediate_size": 64, "layer_norm_eps": 1e-05, "max_position_embeddings": 40, "model_type": "roberta",
    "num_attention_heads": 4, "num_hidden_layers": 3, "pad_token_id": 1, "torch_dtype": "float16",
    "type_vocab_size": 1, "vocab_size": 120, "some_future_key": {"kept": [1, 2]}})");
}

// What a file says of the labels of its own head stops only those who want that head.
std::string label_refusal(json source, const std::string& key, const json& value) {
  source[key] = value;
  const ModelConfig config = parse(source);
  EXPECT_TRUE(config.id2label.empty());
  EXPECT_TRUE(config.problem_type.empty());
  const std::string message = error_of(ErrorCode::kConfig, [&] { require_labels(config); });
  EXPECT_THAT(message, StartsWith("config.json: " + key + ": ")) << value;
  return message;
}

TEST(ModelConfig, ReadsAnEncoder) {
  const ModelConfig config = parse(roberta());
  EXPECT_EQ(config.model_type, "roberta");
  EXPECT_THAT(config.architectures, ElementsAre("RobertaForMaskedLM"));
  EXPECT_EQ(config.pad_token_id, 1);
  EXPECT_EQ(config.torch_dtype, "float16");
  EXPECT_EQ(config.num_labels, 2);
  EXPECT_TRUE(config.id2label.empty());

  const Architecture a = describe(config, ModelTask::kSequenceClassification);
  EXPECT_EQ(a.vocab_size(), 120);
  EXPECT_EQ(a.hidden_size(), 32);
  EXPECT_EQ(a.num_layers(), 3);
  EXPECT_EQ(a.heads(), 4);
  EXPECT_EQ(a.kv_heads(), 4);
  EXPECT_EQ(a.intermediate_size(), 64);
  EXPECT_EQ(a.longest, 38);  // positions count from behind the padding token's row
  EXPECT_EQ(a.embeddings.position_rows, 40);
  EXPECT_EQ(a.embeddings.position_offset, 2);
  EXPECT_EQ(a.embeddings.type_rows, 1);
  EXPECT_EQ(a.embeddings.dropout, 0.15);
  EXPECT_EQ(a.embeddings.norm.eps, 1e-5);
  EXPECT_EQ(a.initializer_range, 0.01);
  EXPECT_FALSE(a.is_causal());
  const BlockSpec& block = a.blocks[2];
  EXPECT_EQ(block.path, "roberta.encoder.layer.2");
  EXPECT_EQ(block.attention.shape.head_dim, 8);
  EXPECT_EQ(block.attention.dropout, 0.2);
  EXPECT_EQ(block.attention_branch.dropout, 0.15);
  EXPECT_EQ(block.attention_branch.after_sum.name, "attention.output.LayerNorm");
  EXPECT_FALSE(block.attention_branch.before);
  EXPECT_EQ(block.activation, kernels::Activation::kGelu);
  ASSERT_EQ(a.head.stages.size(), 2u);
  EXPECT_EQ(a.head.stages[0].dropout, 0.15);  // of hidden states, as classifier_dropout is not given
  EXPECT_EQ(a.head.stages[1].linear.out, 2);
  EXPECT_EQ(describe(config, ModelTask::kSequenceClassification, 0.5).head.stages[1].dropout, 0.5);
}

TEST(ModelConfig, TakesTheDefaultsOfHuggingFace) {
  const json sizes = json::parse(R"({"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 4, "max_position_embeddings": 16, "model_type": "bert"})");
  const ModelConfig config = parse(sizes);
  EXPECT_EQ(config.pad_token_id, 0);
  EXPECT_EQ(config.torch_dtype, "float32");
  EXPECT_EQ(model_config_to_json(config), sizes);
  const Architecture bert = describe(config);
  EXPECT_EQ(bert.embeddings.type_rows, 2);
  EXPECT_EQ(bert.embeddings.norm.eps, 1e-12);
  EXPECT_EQ(bert.embeddings.dropout, 0.1);
  json deberta_json = sizes;
  deberta_json["model_type"] = "deberta-v2";
  deberta_json["cls_dropout"] = 0.3;
  const Architecture deberta = describe(parse(deberta_json), ModelTask::kSequenceClassification);
  EXPECT_EQ(deberta.embeddings.type_rows, 0);
  EXPECT_EQ(deberta.embeddings.norm.eps, 1e-7);
  EXPECT_EQ(deberta.head.stages[1].dropout, 0.3);
}

json small_encoder(const std::string& type) {
  return {{"model_type", type},
          {"vocab_size", 9},
          {"hidden_size", 12},
          {"num_hidden_layers", 6},
          {"num_attention_heads", 3},
          {"intermediate_size", 4},
          {"max_position_embeddings", 600}};
}

// The buckets are those of the paper's code for 256 buckets and 512 positions; distances are query - key.
TEST(ModelConfig, ReadsRelativePositions) {
  json source = small_encoder("deberta-v2");
  source.update({{"relative_attention", true},
                 {"position_buckets", 256},
                 {"max_relative_positions", 512},
                 {"pos_att_type", "p2c|c2p"},
                 {"share_att_key", false},
                 {"norm_rel_ebd", "layer_norm"}});
  const Architecture a = describe(parse(source));
  EXPECT_EQ(a.relative.rows, 512);
  EXPECT_TRUE(a.relative.norm);
  ASSERT_EQ(a.relative.bucket_of.size(), 2U * 599 + 1);
  const auto row = [&](int64_t distance) {
    return a.relative.bucket_of[static_cast<size_t>(distance + 599)] - 256;
  };
  const std::map<int64_t, int64_t> buckets = {
      {0, 0},     {127, 127}, {128, 128},   {129, 129},   {131, 131},   {150, 143},  {200, 169},
      {256, 192}, {300, 207}, {400, 233},   {500, 254},   {510, 255},   {511, 255},  {512, 255},
      {599, 255}, {-1, -1},   {-150, -143}, {-511, -255}, {-512, -256}, {-599, -256}};
  for (const auto& [distance, bucket] : buckets) EXPECT_EQ(row(distance), bucket) << distance;
  // Three kinds of products, each with layers of its own.
  EXPECT_DOUBLE_EQ(a.blocks[0].attention.shape.scale, 1 / std::sqrt(4.0 * 3));
  EXPECT_NE(a.blocks[0].find(LinearRole::kPositionKey), nullptr);
  EXPECT_EQ(a.blocks[5].find(LinearRole::kPositionQuery)->name, "attention.self.pos_query_proj");
  source["share_att_key"] = true;
  source["pos_att_type"] = json::array({"c2p"});
  source["position_buckets"] = -1;
  source["max_relative_positions"] = -1;
  const Architecture b = describe(parse(source));
  EXPECT_EQ(b.relative.rows, 1200);
  EXPECT_FALSE(b.relative.has_queries);
  EXPECT_EQ(b.blocks[0].find(LinearRole::kPositionKey), nullptr);
  EXPECT_DOUBLE_EQ(b.blocks[0].attention.shape.scale, 1 / std::sqrt(4.0 * 2));
  refusal(source, "pos_att_type", "c2c");
  refusal(source, "position_buckets", 2);
  refusal(source, "conv_kernel_size", 4);
}

TEST(ModelConfig, ReadsWhichBlockALayerOfAlbertRuns) {
  json source = small_encoder("albert");
  source.update({{"num_hidden_groups", 2}, {"inner_group_num", 2}});
  const Architecture a = describe(parse(source));
  ASSERT_EQ(a.num_layers(), 4);
  EXPECT_EQ(a.blocks[3].path, "albert.encoder.albert_layer_groups.1.albert_layers.1");
  EXPECT_THAT(a.order, ElementsAre(0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3));
  EXPECT_EQ(a.runs_of(3), 3);
  EXPECT_EQ(a.hidden_size(), 12);
  EXPECT_EQ(a.embeddings.width, 128);
  refusal(source, "num_hidden_groups", 7);
}

TEST(ModelConfig, ReadsWhatLayersOfModernBertSee) {
  json source = small_encoder("modernbert");
  source["num_attention_heads"] = 6;
  const auto windows = [](const json& config) {
    std::vector<int64_t> all;
    for (const BlockSpec& block : describe(parse(config)).blocks) {
      EXPECT_EQ(block.attention.shape.window_left, block.attention.shape.window_right);
      EXPECT_EQ(block.attention.rotary, block.attention.shape.window_left < 0 ? 0 : 1);
      all.push_back(block.attention.shape.window_left);
    }
    return all;
  };
  EXPECT_THAT(windows(source), ElementsAre(-1, 64, 64, -1, 64, 64));
  const Architecture a = describe(parse(source), ModelTask::kSequenceClassification);
  EXPECT_FALSE(a.blocks[0].attention_branch.before);
  EXPECT_TRUE(a.blocks[1].attention_branch.before);
  EXPECT_EQ(a.head.pool, Pool::kFirst);
  EXPECT_EQ(parse(source).pad_token_id, 50283);
  source.update({{"local_attention", 10}, {"global_attn_every_n_layers", 2}, {"classifier_pooling", "mean"}});
  EXPECT_THAT(windows(source), ElementsAre(-1, 5, -1, 5, -1, 5));
  EXPECT_EQ(describe(parse(source), ModelTask::kSequenceClassification).head.pool, Pool::kMean);
  refusal(source, "classifier_pooling", "max");
  refusal(source, "num_attention_heads", 4);  // heads of three elements have no pairs
}

TEST(ModelConfig, LeavesUnknownModelTypesToTheCaller) {
  const json source = {
      {"model_type", "mamba"}, {"hidden_size", "large"}, {"architectures", {"MambaForCausalLM"}}};
  const ModelConfig config = parse(source);
  EXPECT_EQ(config.model_type, "mamba");
  EXPECT_THAT(config.architectures, ElementsAre("MambaForCausalLM"));
  EXPECT_EQ(model_config_to_json(config), source);
}

TEST(ModelConfig, WritesBackWhatItRead) {
  EXPECT_EQ(model_config_to_json(parse(roberta())), roberta());
  EXPECT_EQ(model_config_to_json(parse(llama())), llama());
}

TEST(ModelConfig, WritesChangedFieldsAndKeepsTheRest) {
  ModelConfig config = parse(roberta());
  config.architectures = {"RobertaForSequenceClassification"};
  config.num_labels = 3;
  config.id2label = {{0, "no"}, {1, "maybe"}, {2, "yes"}};
  config.problem_type = "single_label_classification";
  config.torch_dtype = "float32";
  json expected = roberta();
  expected["architectures"] = {"RobertaForSequenceClassification"};
  expected["id2label"] = {{"0", "no"}, {"1", "maybe"}, {"2", "yes"}};
  expected["label2id"] = {{"no", 0}, {"maybe", 1}, {"yes", 2}};
  expected["problem_type"] = "single_label_classification";
  expected["torch_dtype"] = "float32";
  EXPECT_EQ(model_config_to_json(config), expected);

  ModelConfig again = parse(expected);
  EXPECT_EQ(again.id2label, config.id2label);
  EXPECT_EQ(again.num_labels, 3);
  again.id2label.clear();
  again.num_labels = 1;
  again.problem_type.clear();
  const json cleared = model_config_to_json(again);
  EXPECT_EQ(cleared["id2label"], json({{"0", "LABEL_0"}}));
  EXPECT_TRUE(cleared["problem_type"].is_null());
  EXPECT_EQ(parse(cleared).num_labels, 1);
  again.id2label = {{0, "a"}, {1, "b"}};
  error_of(ErrorCode::kUsage, [&] { model_config_to_json(again); });
  again.num_labels = 2;
  again.id2label = {{0, "a"}, {1, "a"}};
  error_of(ErrorCode::kUsage, [&] { model_config_to_json(again); });
}

TEST(ModelConfig, ListsAllProblemsTogether) {
  json source = roberta();
  source.erase("num_hidden_layers");
  source["num_hiden_layers"] = 3;
  source["hidden_size"] = 30;
  source["hidden_dropout_prob"] = 1.0;
  source["vocab_size"] = "120";
  source["position_embedding_type"] = "relative_key";
  const std::string message = refusal(source);
  EXPECT_THAT(
      message,
      AllOf(HasSubstr("config.json: 5 problems"), HasSubstr("did you mean `num_hiden_layers`?"),
            HasSubstr("expected a divisor of the hidden size 30, found 4"),
            HasSubstr("hidden_dropout_prob: expected a probability of at least 0 and below 1, found 1.0"),
            HasSubstr("vocab_size: expected a positive integer, found \"120\"")));
  EXPECT_THAT(message, HasSubstr("position_embedding_type: expected absolute, found `relative_key`"));
}

TEST(ModelConfig, RefusesWrongValues) {
  for (const json& value : {json(0), json(-1), json(1.5), json(true), json("8"), json(json::array()),
                            json(uint64_t{18446744073709551615u}), json(int64_t{1} << 31)}) {
    refusal(roberta(), "intermediate_size", value);
  }
  refusal(roberta(), "type_vocab_size", -1);
  refusal(roberta(), "layer_norm_eps", 0.0);
  refusal(roberta(), "layer_norm_eps", "1e-5");
  refusal(roberta(), "attention_probs_dropout_prob", -0.1);
  refusal(roberta(), "classifier_dropout", 2);
  refusal(roberta(), "initializer_range", -1);
  refusal(roberta(), "hidden_act", 3);
  EXPECT_THAT(refusal(roberta(), "hidden_act", "swiglu"), HasSubstr("unknown activation `swiglu`"));
  refusal(roberta(), "tie_word_embeddings", "yes");
  EXPECT_THAT(refusal(roberta(), "torch_dtype", "bfloat61"), HasSubstr("did you mean `bfloat16`?"));
  EXPECT_THAT(refusal(roberta(), "pad_token_id", 120), HasSubstr("below vocab_size = 120"));
  refusal(roberta(), "pad_token_id", "1");
  refusal(roberta(), "max_position_embeddings", 2);
  refusal(roberta(), "architectures", "RobertaModel");
  refusal(roberta(), "is_decoder", true);
  refusal(roberta(), "add_cross_attention", true);
  refusal(roberta(), "is_encoder_decoder", true);
  refusal(roberta(), "quantization_config", {{"bits", 4}});
  refusal(roberta(), "pruned_heads", {{"0", {1}}});
  EXPECT_THAT(label_refusal(roberta(), "problem_type", "multi_label_classification"),
              HasSubstr("regression"));
  refusal(llama(), "num_key_value_heads", 3);
  refusal(llama(), "num_attention_heads", 10);
  refusal(llama(), "head_dim", 7);
  refusal(llama(), "rope_theta", 0);
}

TEST(ModelConfig, ChecksLabels) {
  json source = roberta();
  source["id2label"] = {{"0", "no"}, {"1", "yes"}, {"2", 7}};
  EXPECT_EQ(parse(source).id2label, (std::map<int64_t, std::string>{{0, "no"}, {1, "yes"}, {2, "7"}}));
  EXPECT_EQ(parse(source).num_labels, 3);
  EXPECT_NO_THROW(require_labels(parse(source)));
  EXPECT_THAT(label_refusal(source, "num_labels", 2), HasSubstr("expected 3"));
  EXPECT_THAT(label_refusal(source, "label2id", {{"no", 0}, {"yes", 2}, {"7", 2}}),
              HasSubstr("expected `yes`: 1"));
  EXPECT_THAT(label_refusal(source, "label2id", {{"no", 0}, {"yes", 1}, {"7", 2}, {"x", 3}}),
              HasSubstr("`x` is not in"));
  label_refusal(source, "label2id", json::array());
  EXPECT_THAT(label_refusal(roberta(), "id2label", {{"1", "a"}, {"2", "b"}}), HasSubstr("ids 0 to 1"));
  EXPECT_THAT(label_refusal(roberta(), "id2label", {{"0", "a"}, {"1", "a"}}), HasSubstr("both called `a`"));
  label_refusal(roberta(), "id2label", {"a", "b"});
  EXPECT_THAT(label_refusal(roberta(), "num_labels", 0), HasSubstr("positive"));
  json count_only = roberta();
  count_only["num_labels"] = 5;
  EXPECT_EQ(parse(count_only).num_labels, 5);
  EXPECT_EQ(model_config_to_json(parse(count_only)), count_only);
}

TEST(ModelConfig, LoadsFromADirectory) {
  TemporaryDirectory directory;
  EXPECT_THAT(error_of(ErrorCode::kIo, [&] { load_model_config(directory.path()); }),
              HasSubstr("config.json"));
  EXPECT_THAT(error_of(ErrorCode::kIo, [&] { load_model_config(directory / "none"); }),
              HasSubstr("does not exist"));
  write_bytes(directory / "config.json", roberta().dump());
  EXPECT_EQ(describe(load_model_config(directory.path())).vocab_size(), 120);
  for (const char* text : {"", "{", "[1]", "{\"a\":1,\"a\":2}"}) {
    write_bytes(directory / "config.json", text);
    EXPECT_THAT(error_of(ErrorCode::kFormat, [&] { load_model_config(directory.path()); }),
                HasSubstr("config.json"));
  }
  write_bytes(directory / "config.json", "{}");
  EXPECT_THAT(error_of(ErrorCode::kConfig, [&] { load_model_config(directory.path()); }),
              HasSubstr("model_type: missing"));
  std::filesystem::remove(directory / "config.json");
  write_bytes(directory / "adapter_config.json", "{}");
  EXPECT_THAT(error_of(ErrorCode::kIo, [&] { load_model_config(directory.path()); }),
              HasSubstr("this is an adapter"));
}

TEST(GoldenParityConfigs, AreReadAndWrittenUnchanged) {
  const std::filesystem::path root = golden_group("parity");
  if (root.empty()) GTEST_SKIP() << "no parity cases";
  int found = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (entry.path().filename() != "config.json") continue;
    const std::filesystem::path directory = entry.path().parent_path();
    const ModelConfig config = load_model_config(directory);
    EXPECT_EQ(model_config_to_json(config), json::parse(read_file(entry.path()))) << directory;
    if (directory.filename() == "roberta-L12") {
      EXPECT_EQ(describe(config).num_layers(), 12);
      EXPECT_EQ(config.num_labels, 3);
      EXPECT_EQ(config.id2label.at(2), "LABEL_2");
      EXPECT_EQ(config.pad_token_id, 1);
    } else if (directory.filename() == "llama-L6") {
      EXPECT_EQ(describe(config).num_layers(), 6);
      EXPECT_EQ(describe(config).blocks[0].attention.shape.head_dim, 6);
      EXPECT_FALSE(config.pad_token_id.has_value());
    }
    ++found;
  }
  EXPECT_GT(found, 0);
}

}  // namespace
}  // namespace msplora
