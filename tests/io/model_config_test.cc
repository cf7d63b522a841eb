#include "msplora/io/model_config.h"

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/test_files.h"
#include "msplora/core/file.h"

namespace msplora {
namespace {

using io_test::error_of;
using io_test::TemporaryDirectory;
using io_test::write_bytes;
using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
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
  const std::string message = error_of(ErrorCode::kConfig, [&] { require_labels(config, "config.json"); });
  EXPECT_THAT(message, StartsWith("config.json: " + key + ": ")) << value;
  return message;
}

std::string refusal(json source, const std::string& key, const json& value) {
  source[key] = value;
  const std::string message = refusal(source);
  EXPECT_THAT(message, StartsWith("config.json: " + key + ": ")) << value;
  return message;
}

TEST(ModelConfig, ReadsAnEncoder) {
  const ModelConfig config = parse(roberta());
  EXPECT_EQ(config.model_type, "roberta");
  EXPECT_THAT(config.architectures, ElementsAre("RobertaForMaskedLM"));
  EXPECT_EQ(config.vocab_size, 120);
  EXPECT_EQ(config.hidden_size, 32);
  EXPECT_EQ(config.num_hidden_layers, 3);
  EXPECT_EQ(config.num_attention_heads, 4);
  EXPECT_EQ(config.num_key_value_heads, 4);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.intermediate_size, 64);
  EXPECT_EQ(config.max_position_embeddings, 40);
  EXPECT_EQ(config.type_vocab_size, 1);
  EXPECT_EQ(config.pad_token_id, 1);
  EXPECT_EQ(config.layer_norm_eps, 1e-5);
  EXPECT_EQ(config.hidden_act, "gelu");
  EXPECT_EQ(config.hidden_dropout_prob, 0.15);
  EXPECT_EQ(config.attention_probs_dropout_prob, 0.2);
  EXPECT_FALSE(config.classifier_dropout.has_value());
  EXPECT_EQ(config.initializer_range, 0.01);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.torch_dtype, "float16");
  EXPECT_EQ(config.num_labels, 2);
  EXPECT_TRUE(config.id2label.empty());
}

TEST(ModelConfig, TakesTheDefaultsOfHuggingFace) {
  const json sizes = json::parse(R"({"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 4, "max_position_embeddings": 16, "model_type": "bert"})");
  const ModelConfig bert = parse(sizes);
  EXPECT_EQ(bert.type_vocab_size, 2);
  EXPECT_EQ(bert.pad_token_id, 0);
  EXPECT_EQ(model_config_to_json(bert), sizes);
  EXPECT_EQ(bert.layer_norm_eps, 1e-12);
  EXPECT_EQ(bert.hidden_dropout_prob, 0.1);
  EXPECT_EQ(bert.torch_dtype, "float32");
  json deberta_json = sizes;
  deberta_json["model_type"] = "deberta-v2";
  deberta_json["cls_dropout"] = 0.3;
  const ModelConfig deberta = parse(deberta_json);
  EXPECT_EQ(deberta.type_vocab_size, 0);
  EXPECT_EQ(deberta.layer_norm_eps, 1e-7);
  EXPECT_EQ(deberta.classifier_dropout, 0.3);
}

TEST(ModelConfig, ReadsDecoders) {
  const ModelConfig grouped = parse(llama());
  EXPECT_EQ(grouped.num_key_value_heads, 2);
  EXPECT_EQ(grouped.head_dim, 12);
  EXPECT_EQ(grouped.rope_theta, 500000.0);
  EXPECT_EQ(grouped.rms_norm_eps, 1e-5);
  EXPECT_EQ(grouped.hidden_act, "silu");
  EXPECT_FALSE(grouped.tie_word_embeddings);
  EXPECT_FALSE(grouped.pad_token_id.has_value());
  json source = llama();
  source["pad_token_id"] = -1;
  source.erase("num_key_value_heads");
  source["head_dim"] = 20;
  source["attention_dropout"] = 0.25;
  source["tie_word_embeddings"] = true;
  const ModelConfig wide = parse(source);
  EXPECT_FALSE(wide.pad_token_id.has_value());
  EXPECT_EQ(wide.num_key_value_heads, 4);
  EXPECT_EQ(wide.head_dim, 20);
  EXPECT_EQ(wide.attention_probs_dropout_prob, 0.25);
  EXPECT_TRUE(wide.tie_word_embeddings);
  source["model_type"] = "mistral";
  EXPECT_THAT(refusal(source), AllOf(HasSubstr("num_key_value_heads"), HasSubstr("missing")));
  source["num_key_value_heads"] = nullptr;
  EXPECT_EQ(parse(source).num_key_value_heads, 4);
  source["model_type"] = "qwen3";
  source.erase("head_dim");
  EXPECT_EQ(parse(source).head_dim, 128);
}

TEST(ModelConfig, ReadsTheNewerSpellings) {
  json source = llama();
  source.erase("torch_dtype");
  source.erase("rope_theta");
  source["dtype"] = "float16";
  source["rope_parameters"] = {{"rope_theta", 250000.0}, {"rope_type", "default"}};
  ModelConfig config = parse(source);
  EXPECT_EQ(config.torch_dtype, "float16");
  EXPECT_EQ(config.rope_theta, 250000.0);
  EXPECT_EQ(model_config_to_json(config), source);
  config.rope_theta = 1e6;
  config.torch_dtype = "bfloat16";
  const json written = model_config_to_json(config);
  EXPECT_EQ(written["rope_parameters"]["rope_theta"], 1e6);
  EXPECT_EQ(written["dtype"], "bfloat16");
  EXPECT_FALSE(written.contains("rope_theta"));
}

TEST(ModelConfig, ReadsHowFarDecodersReach) {
  json source = llama();
  EXPECT_EQ(parse(source).rope_scaling.rope_type, "default");
  source["rope_scaling"] = {{"type", "linear"}, {"factor", 2.5}};
  EXPECT_EQ(parse(source).rope_scaling.rope_type, "linear");
  EXPECT_EQ(parse(source).rope_scaling.factor, 2.5);
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    json newer = llama();
    newer[key] = llama3;
    const ModelConfig config = parse(newer);
    EXPECT_EQ(config.rope_scaling.rope_type, "llama3");
    EXPECT_EQ(config.rope_scaling.original_max_position_embeddings, 8192);
    EXPECT_EQ(model_config_to_json(config), newer);
  }
  source["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 2.0}};
  EXPECT_THAT(error_of(ErrorCode::kConfig, [&] { parse(source); }),
              HasSubstr("rope_scaling.rope_type: expected default, linear or llama3, found \"yarn\""));
  source["rope_scaling"] = {{"rope_type", "llama3"}, {"factor", 2.0}, {"low_freq_factor", 4.0}};
  EXPECT_THAT(error_of(ErrorCode::kConfig, [&] { parse(source); }),
              AllOf(HasSubstr("high_freq_factor"), HasSubstr("original_max_position_embeddings")));
}

// The numbers are those of transformers 5.24: configuration_mistral.py, configuration_qwen2.py.
TEST(ModelConfig, ReadsWhichLayersSlide) {
  json source = llama();
  source["num_hidden_layers"] = 4;
  source["sliding_window"] = 16;
  EXPECT_THAT(parse(source).windows, IsEmpty());  // Llama has none, whatever its file says
  EXPECT_EQ(parse(source).window(3), 0);
  json mistral = source;
  mistral["model_type"] = "mistral";
  EXPECT_THAT(parse(mistral).windows, ElementsAre(16, 16, 16, 16));
  mistral["sliding_window"] = nullptr;
  EXPECT_THAT(parse(mistral).windows, IsEmpty());
  mistral.erase("sliding_window");
  EXPECT_THAT(parse(mistral).windows, ElementsAre(4096, 4096, 4096, 4096));

  for (const char* model_type : {"qwen2", "qwen3"}) {
    json qwen = source;
    qwen["model_type"] = model_type;
    EXPECT_THAT(parse(qwen).windows, IsEmpty());  // use_sliding_window is false
    qwen["use_sliding_window"] = true;
    EXPECT_THAT(parse(qwen).windows, IsEmpty());  // max_window_layers is 28
    qwen["max_window_layers"] = 0;
    EXPECT_THAT(parse(qwen).windows, ElementsAre(16, 16, 16, 16));
    qwen["max_window_layers"] = 3;
    EXPECT_THAT(parse(qwen).windows, ElementsAre(0, 0, 0, 16));
    EXPECT_EQ(parse(qwen).window(3), 16);
    EXPECT_EQ(model_config_to_json(parse(qwen)), qwen);
    qwen["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention", "full_attention"};
    EXPECT_THAT(parse(qwen).windows, ElementsAre(16, 0, 16, 0));
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
  EXPECT_THAT(refusal(source), HasSubstr("every layer of Mistral slides"));
  source["layer_types"] = {"sliding_attention", "sliding_attention"};
  EXPECT_THAT(parse(source).windows, ElementsAre(8, 8));
  source = llama();
  source["model_type"] = "qwen2", source["use_sliding_window"] = true;
  refusal(source, "max_window_layers", -1);
}

// Of a model that no file described, as create_model makes it.
TEST(ModelConfig, WritesWindowsThatAreReadAgain) {
  for (const auto& [model_type, windows] :
       std::multimap<std::string, std::vector<int64_t>>{{"mistral", {}},
                                                        {"mistral", {6, 6}},
                                                        {"mistral", {4096, 4096}},
                                                        {"qwen2", {}},
                                                        {"qwen2", {0, 7}},
                                                        {"qwen3", {7, 0}}}) {
    json source = llama();
    source["model_type"] = model_type;
    ModelConfig config = parse(source);
    config.raw = json::object();
    config.windows = windows;
    EXPECT_EQ(parse(model_config_to_json(config)).windows, windows) << model_type;
  }
  ModelConfig config = parse(llama());
  config.model_type = "mistral";
  config.raw = json::object();
  for (const std::vector<int64_t>& windows : {std::vector<int64_t>{6, 5}, {6, 0}, {6}}) {
    config.windows = windows;
    error_of(ErrorCode::kUsage, [&] { model_config_to_json(config); });
  }
}

TEST(ModelConfig, ReadsBiasesOfDecoders) {
  json source = llama();
  source["attention_bias"] = source["mlp_bias"] = true;
  EXPECT_TRUE(parse(source).attention_bias);
  EXPECT_TRUE(parse(source).mlp_bias);
  source["model_type"] = "mistral";
  EXPECT_FALSE(parse(source).attention_bias);
}

TEST(ModelConfig, ReadsGpt2) {
  const json source =
      json::parse(R"({"model_type": "gpt2", "vocab_size": 50, "n_embd": 12, "n_layer": 2, "n_head": 3,
    "n_positions": 64, "n_ctx": 64, "n_inner": null, "activation_function": "gelu_new", "resid_pdrop": 0.2,
    "embd_pdrop": 0.2, "attn_pdrop": 0.3, "layer_norm_epsilon": 1e-06})");
  const ModelConfig config = parse(source);
  EXPECT_EQ(config.hidden_size, 12);
  EXPECT_EQ(config.num_hidden_layers, 2);
  EXPECT_EQ(config.head_dim, 4);
  EXPECT_EQ(config.intermediate_size, 48);
  EXPECT_EQ(config.max_position_embeddings, 64);
  EXPECT_EQ(config.hidden_act, "gelu_new");
  EXPECT_EQ(config.hidden_dropout_prob, 0.2);
  EXPECT_EQ(config.attention_probs_dropout_prob, 0.3);
  EXPECT_EQ(config.layer_norm_eps, 1e-6);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(model_config_to_json(config), source);
  json with_inner = source;
  with_inner["n_inner"] = 20;
  EXPECT_EQ(parse(with_inner).intermediate_size, 20);
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
  config.classifier_dropout = 0.5;
  config.torch_dtype = "float32";
  config.vocab_size = 121;
  json expected = roberta();
  expected["architectures"] = {"RobertaForSequenceClassification"};
  expected["id2label"] = {{"0", "no"}, {"1", "maybe"}, {"2", "yes"}};
  expected["label2id"] = {{"no", 0}, {"maybe", 1}, {"yes", 2}};
  expected["problem_type"] = "single_label_classification";
  expected["classifier_dropout"] = 0.5;
  expected["torch_dtype"] = "float32";
  expected["vocab_size"] = 121;
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

TEST(ModelConfig, WritesACompleteFileWithoutOne) {
  ModelConfig config = parse(roberta());
  config.raw = json::object();
  const json written = model_config_to_json(config);
  for (const char* key :
       {"hidden_dropout_prob", "hidden_act", "tie_word_embeddings", "torch_dtype", "layer_norm_eps"}) {
    EXPECT_TRUE(written.contains(key)) << key;
  }
  EXPECT_EQ(parse(written).initializer_range, 0.01);
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
  EXPECT_NO_THROW(require_labels(parse(source), "config.json"));
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
  EXPECT_EQ(load_model_config(directory.path()).vocab_size, 120);
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

TEST(ModelConfig, ReadsTheFixtures) {
  const auto roots = io_test::fixture_roots();
  if (roots.empty()) GTEST_SKIP() << "MSPLORA_FIXTURES is not set";
  int found = 0;
  for (const auto& root : roots) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
      if (entry.path().filename() != "config.json") continue;
      const std::filesystem::path directory = entry.path().parent_path();
      const ModelConfig config = load_model_config(directory);
      EXPECT_EQ(model_config_to_json(config), json::parse(read_file(entry.path()))) << directory;
      if (directory.filename() == "roberta-L12") {
        EXPECT_EQ(config.num_hidden_layers, 12);
        EXPECT_EQ(config.num_labels, 3);
        EXPECT_EQ(config.id2label.at(2), "LABEL_2");
        EXPECT_EQ(config.pad_token_id, 1);
      } else if (directory.filename() == "llama-L6") {
        EXPECT_EQ(config.num_hidden_layers, 6);
        EXPECT_EQ(config.head_dim, 8);
        EXPECT_FALSE(config.tie_word_embeddings);
        EXPECT_FALSE(config.pad_token_id.has_value());
      }
      ++found;
    }
  }
  EXPECT_GT(found, 0);
}

}  // namespace
}  // namespace msplora
