#include "msplora/models/model_config.h"

#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "golden_cases.h"
#include "io/test_files.h"
#include "msplora/core/file.h"

namespace msplora {
namespace {

using io_test::error_of;
using io_test::TemporaryDirectory;
using io_test::write_bytes;
using nlohmann::json;
using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

json roberta() {
  return json::parse(R"({
    "architectures": ["RobertaForMaskedLM"], "attention_probs_dropout_prob": 0.2, "bos_token_id": 0,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.15, "hidden_size": 32, "initializer_range": 0.01,
    "intermediate_size": 64, "layer_norm_eps": 1e-05, "max_position_embeddings": 40, "model_type": "roberta",
    "num_attention_heads": 4, "num_hidden_layers": 3, "pad_token_id": 1, "torch_dtype": "float16",
    "type_vocab_size": 1, "vocab_size": 120, "some_future_key": {"kept": [1, 2]}})");
}

json llama() {
  return json::parse(R"({
    "model_type": "llama", "vocab_size": 120, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 88, "max_position_embeddings": 64, "rope_theta": 500000.0,
    "rms_norm_eps": 1e-05, "torch_dtype": "bfloat16", "pad_token_id": null})");
}

ModelConfig parse(const json& source) {
  return parse_model_config(source, "config.json");
}

std::string refusal(const json& source) {
  return error_of(ErrorCode::kConfig, [&] { parse(source); });
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

std::string refusal(json source, const std::string& key, const json& value) {
  source[key] = value;
  const std::string message = refusal(source);
  EXPECT_THAT(message, StartsWith("config.json: " + key + ": ")) << value;
  return message;
}

// Of each layer: tokens that attention looks back over, the token itself included; 0: all.
std::vector<int64_t> windows_of(const json& source) {
  std::vector<int64_t> windows;
  for (const BlockSpec& block : describe(parse(source)).blocks)
    windows.push_back(block.attention.shape.window_left + 1);
  return windows;
}

const LinearSpec& linear_of(const Architecture& architecture, LinearRole role) {
  return *architecture.blocks.front().find(role);
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

TEST(ModelConfig, ReadsDecoders) {
  EXPECT_FALSE(parse(llama()).pad_token_id.has_value());
  const Architecture grouped = describe(parse(llama()), ModelTask::kCausalLm);
  EXPECT_EQ(grouped.kv_heads(), 2);
  EXPECT_EQ(linear_of(grouped, LinearRole::kKey).out, 24);
  EXPECT_EQ(linear_of(grouped, LinearRole::kAttentionOutput).in, 48);
  EXPECT_DOUBLE_EQ(grouped.rotaries[0].frequencies[1], std::pow(500000.0, -2.0 / 12));
  EXPECT_EQ(grouped.final_norm.eps, 1e-5);
  EXPECT_EQ(grouped.blocks[0].activation, kernels::Activation::kSilu);
  EXPECT_TRUE(grouped.is_causal());
  EXPECT_FALSE(grouped.head.is_tied);
  json source = llama();
  source["pad_token_id"] = -1;
  source.erase("num_key_value_heads");
  source["head_dim"] = 20;
  source["attention_dropout"] = 0.25;
  source["tie_word_embeddings"] = true;
  EXPECT_FALSE(parse(source).pad_token_id.has_value());
  const Architecture wide = describe(parse(source), ModelTask::kCausalLm);
  EXPECT_EQ(wide.kv_heads(), 4);
  EXPECT_EQ(linear_of(wide, LinearRole::kQuery).out, 80);
  EXPECT_EQ(wide.blocks[0].attention.dropout, 0.25);
  EXPECT_TRUE(wide.head.is_tied);
  source["model_type"] = "mistral";
  EXPECT_THAT(refusal(source), AllOf(HasSubstr("num_key_value_heads"), HasSubstr("missing")));
  source["num_key_value_heads"] = nullptr;
  EXPECT_EQ(describe(parse(source)).kv_heads(), 4);
  source["model_type"] = "qwen3";
  source.erase("head_dim");
  EXPECT_EQ(describe(parse(source)).blocks[0].attention.shape.head_dim, 128);
}

// The frequency of the second pair, which names theta; heads are 12 wide.
double theta_of(const json& source) {
  return std::pow(describe(parse(source)).rotaries.at(0).frequencies.at(1), -6.0);
}

TEST(ModelConfig, ReadsTheNewerSpellings) {
  json source = llama();
  source.erase("torch_dtype");
  source.erase("rope_theta");
  source["dtype"] = "float16";
  source["rope_parameters"] = {{"rope_theta", 250000.0}, {"rope_type", "default"}};
  ModelConfig config = parse(source);
  EXPECT_EQ(config.torch_dtype, "float16");
  EXPECT_NEAR(theta_of(source), 250000.0, 1e-3);
  EXPECT_EQ(model_config_to_json(config), source);
  config.torch_dtype = "bfloat16";
  EXPECT_EQ(model_config_to_json(config)["dtype"], "bfloat16");
}

// What transformers 5.24 makes of the same files.
TEST(ModelConfig, OfTwoSpellingsTheOneOfTransformersCounts) {
  const auto said = [](const json& source, double theta) {
    testing::internal::CaptureStderr();
    const ModelConfig config = parse(source);
    const std::string text = testing::internal::GetCapturedStderr();
    if (!source.contains("dtype")) {
      EXPECT_EQ(model_config_to_json(config), source);
    }
    if (theta > 0) {
      EXPECT_NEAR(theta_of(source), theta, 1e-6 * theta) << source;
    }
    return text;
  };
  json source = llama();
  source["rope_theta"] = 10000.0;
  source["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  EXPECT_THAT(said(source, 500000.0),
              AllOf(HasSubstr("rope_parameters.rope_theta is 500000"), HasSubstr("rope_theta is 10000")));
  source["rope_theta"] = 500000.0;
  EXPECT_EQ(said(source, 500000.0), "");
  source["rope_parameters"].erase("rope_theta");
  EXPECT_EQ(said(source, 500000.0), "");
  source["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.0}};
  source["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 300000.0}};
  EXPECT_THAT(said(source, 0), HasSubstr("rope_scaling counts"));
  EXPECT_DOUBLE_EQ(describe(parse(source)).rotaries[0].frequencies[0], 1.0 / 2.0);
  source["rope_scaling"]["rope_theta"] = 70000.0;
  EXPECT_THAT(said(source, 0), HasSubstr("rope_scaling.rope_theta is 70000"));
  EXPECT_DOUBLE_EQ(describe(parse(source)).rotaries[0].frequencies[1], std::pow(70000.0, -1.0 / 6) / 2.0);
  source = llama();
  source["rope_scaling"] = {{"rope_type", "default"}, {"type", "linear"}, {"factor", 3.0}};
  EXPECT_THAT(said(source, 0), HasSubstr("rope_scaling.rope_type counts"));
  source = llama();
  source["torch_dtype"] = "float32";
  source["dtype"] = "bfloat16";
  EXPECT_THAT(said(source, 500000.0), HasSubstr("dtype is \"bfloat16\""));
  ModelConfig config = parse(source);
  EXPECT_EQ(config.torch_dtype, "bfloat16");
  config.torch_dtype = "float16";
  const json written = model_config_to_json(config);
  EXPECT_EQ(written["dtype"], "float16");
  EXPECT_EQ(written["torch_dtype"], "float16");
}

TEST(ModelConfig, ReadsHowFarDecodersReach) {
  const auto frequencies = [](const json& source) {
    return describe(parse(source)).rotaries.at(0).frequencies;
  };
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    json newer = llama();
    newer[key] = llama3;
    EXPECT_EQ(model_config_to_json(parse(newer)), newer);
    const std::vector<double> plain = frequencies(llama()), scaled = frequencies(newer);
    EXPECT_EQ(scaled.front(), plain.front());             // short waves stay
    EXPECT_DOUBLE_EQ(scaled.back(), plain.back() / 8.0);  // long ones are stretched
  }
  json source = llama();
  source["rope_scaling"] = {{"type", "linear"}, {"factor", 2.5}};
  EXPECT_DOUBLE_EQ(frequencies(source)[0], 1.0 / 2.5);
  source["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 2.0}};
  EXPECT_THAT(refusal(source),
              HasSubstr("rope_scaling.rope_type: expected default, linear or llama3, found \"yarn\""));
  source["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 2.0}, {"low_freq_factor", 4.0}};
  EXPECT_THAT(refusal(source),
              AllOf(HasSubstr("high_freq_factor"), HasSubstr("original_max_position_embeddings")));
}

// The numbers are those of transformers 5.24: configuration_mistral.py, configuration_qwen2.py.
TEST(ModelConfig, ReadsWhichLayersSlide) {
  json source = llama();
  source["num_hidden_layers"] = 4;
  source["sliding_window"] = 16;
  EXPECT_THAT(windows_of(source), Each(0));  // Llama has none, whatever its file says
  json mistral = source;
  mistral["model_type"] = "mistral";
  EXPECT_THAT(windows_of(mistral), ElementsAre(16, 16, 16, 16));
  mistral["sliding_window"] = nullptr;
  EXPECT_THAT(windows_of(mistral), Each(0));
  mistral.erase("sliding_window");
  EXPECT_THAT(windows_of(mistral), ElementsAre(4096, 4096, 4096, 4096));

  for (const char* model_type : {"qwen2", "qwen3"}) {
    json qwen = source;
    qwen["model_type"] = model_type;
    EXPECT_THAT(windows_of(qwen), Each(0));  // use_sliding_window is false
    qwen["use_sliding_window"] = true;
    EXPECT_THAT(windows_of(qwen), Each(0));  // max_window_layers is 28
    qwen["max_window_layers"] = 0;
    EXPECT_THAT(windows_of(qwen), ElementsAre(16, 16, 16, 16));
    qwen["max_window_layers"] = 3;
    EXPECT_THAT(windows_of(qwen), ElementsAre(0, 0, 0, 16));
    EXPECT_EQ(model_config_to_json(parse(qwen)), qwen);
    qwen["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
    EXPECT_THAT(windows_of(qwen), ElementsAre(16, 0, 16, 0));
    EXPECT_EQ(model_config_to_json(parse(qwen)), qwen);
    qwen["sliding_window"] = nullptr;
    EXPECT_THAT(refusal(qwen), HasSubstr("layer_types[0]: expected full_attention"));
    qwen["sliding_window"] = 16, qwen["use_sliding_window"] = false;
    EXPECT_THAT(refusal(qwen), HasSubstr("use_sliding_window: true"));
  }
}

TEST(ModelConfig, RefusesWindowsThatSayNothing) {
  json source = llama();
  source["model_type"] = "mistral";
  for (const json& wrong : {json(0), json(-4), json("all"), json(2.5)})
    EXPECT_THAT(refusal(source, "sliding_window", wrong), HasSubstr("a positive integer or null"));
  source["sliding_window"] = 8;
  EXPECT_THAT(refusal(source, "layer_types", {"sliding_attention"}), HasSubstr("a list of 2 names"));
  source["layer_types"] = {"sliding_attention", "chunked_attention"};
  EXPECT_THAT(refusal(source), HasSubstr("layer_types[1]"));
  source["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_THAT(refusal(source), HasSubstr("every layer of this model slides"));
  source["layer_types"] = {"sliding_attention", "sliding_attention"};
  EXPECT_THAT(windows_of(source), ElementsAre(8, 8));
  source = llama();
  source["model_type"] = "qwen2", source["use_sliding_window"] = true;
  refusal(source, "max_window_layers", -1);
}

TEST(ModelConfig, ReadsBiasesOfDecoders) {
  json source = llama();
  source["attention_bias"] = source["mlp_bias"] = true;
  const Architecture biased = describe(parse(source));
  EXPECT_TRUE(linear_of(biased, LinearRole::kAttentionOutput).has_bias);
  EXPECT_TRUE(linear_of(biased, LinearRole::kDown).has_bias);
  source["model_type"] = "mistral";
  EXPECT_FALSE(linear_of(describe(parse(source)), LinearRole::kQuery).has_bias);
  source["model_type"] = "qwen2";
  EXPECT_TRUE(linear_of(describe(parse(source)), LinearRole::kQuery).has_bias);
  EXPECT_FALSE(linear_of(describe(parse(source)), LinearRole::kAttentionOutput).has_bias);
}

TEST(ModelConfig, ReadsGpt2) {
  const json source =
      json::parse(R"({"model_type": "gpt2", "vocab_size": 50, "n_embd": 12, "n_layer": 2, "n_head": 3,
    "n_positions": 64, "n_ctx": 64, "n_inner": null, "activation_function": "gelu_new", "resid_pdrop": 0.2,
    "embd_pdrop": 0.2, "attn_pdrop": 0.3, "layer_norm_epsilon": 1e-06})");
  const Architecture a = describe(parse(source), ModelTask::kCausalLm);
  EXPECT_EQ(a.hidden_size(), 12);
  EXPECT_EQ(a.num_layers(), 2);
  EXPECT_EQ(a.blocks[0].attention.shape.head_dim, 4);
  EXPECT_EQ(a.intermediate_size(), 48);
  EXPECT_EQ(a.longest, 64);
  EXPECT_EQ(a.blocks[0].activation, kernels::Activation::kGeluTanh);
  EXPECT_EQ(a.blocks[0].attention_branch.dropout, 0.2);
  EXPECT_EQ(a.blocks[0].attention.dropout, 0.3);
  EXPECT_EQ(a.final_norm.eps, 1e-6);
  EXPECT_TRUE(a.head.is_tied);
  EXPECT_EQ(model_config_to_json(parse(source)), source);
  json with_inner = source;
  with_inner["n_inner"] = 20;
  EXPECT_EQ(describe(parse(with_inner)).intermediate_size(), 20);
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
