#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/models/model_config.h"

namespace msplora {
namespace {

using nlohmann::json;

struct EncoderShape {
  std::string_view name, model_type;
  int64_t vocab, hidden, layers, heads, ffn, positions, types, pad;
};

constexpr EncoderShape kEncoders[] = {
    {"bert-tiny", "bert", 30522, 128, 2, 2, 512, 512, 2, 0},
    {"bert-mini", "bert", 30522, 256, 4, 4, 1024, 512, 2, 0},
    {"bert-small", "bert", 30522, 512, 4, 8, 2048, 512, 2, 0},
    {"bert-medium", "bert", 30522, 512, 8, 8, 2048, 512, 2, 0},
    {"all-minilm-l6-v2", "bert", 30522, 384, 6, 12, 1536, 512, 2, 0},
    {"all-minilm-l12-v2", "bert", 30522, 384, 12, 12, 1536, 512, 2, 0},
    {"bert-base-uncased", "bert", 30522, 768, 12, 12, 3072, 512, 2, 0},
    {"bert-base-cased", "bert", 28996, 768, 12, 12, 3072, 512, 2, 0},
    {"bert-large-uncased", "bert", 30522, 1024, 24, 16, 4096, 512, 2, 0},
    {"bert-large-cased", "bert", 28996, 1024, 24, 16, 4096, 512, 2, 0},
    {"distilroberta-base", "roberta", 50265, 768, 6, 12, 3072, 514, 1, 1},
    {"roberta-base", "roberta", 50265, 768, 12, 12, 3072, 514, 1, 1},
    {"roberta-large", "roberta", 50265, 1024, 24, 16, 4096, 514, 1, 1},
    {"xlm-roberta-base", "xlm-roberta", 250002, 768, 12, 12, 3072, 514, 1, 1},
    {"xlm-roberta-large", "xlm-roberta", 250002, 1024, 24, 16, 4096, 514, 1, 1},
    {"deberta-v3-small", "deberta-v2", 128100, 768, 6, 12, 3072, 512, 0, 0},
    {"deberta-v3-base", "deberta-v2", 128100, 768, 12, 12, 3072, 512, 0, 0},
    {"deberta-v3-large", "deberta-v2", 128100, 1024, 24, 16, 4096, 512, 0, 0},
    {"albert-base-v2", "albert", 30000, 768, 12, 12, 3072, 512, 2, 0},
    {"albert-xxlarge-v2", "albert", 30000, 4096, 12, 64, 16384, 512, 2, 0},
    {"modernbert-base", "modernbert", 50368, 768, 22, 12, 1152, 8192, 0, 50283},
    {"modernbert-large", "modernbert", 50368, 1024, 28, 16, 2624, 8192, 0, 50283},
};

struct DecoderShape {
  std::string_view name, model_type;
  int64_t vocab, hidden, layers, heads, kv_heads, head_dim, ffn, positions;
  double eps, rope_theta;
  bool tied;
  std::string_view dtype;
};

constexpr DecoderShape kDecoders[] = {
    {"llama-160m", "llama", 32000, 768, 12, 12, 12, 64, 3072, 2048, 1e-6, 1e4, false, "float32"},
    {"llama-2-7b", "llama", 32000, 4096, 32, 32, 32, 128, 11008, 4096, 1e-5, 1e4, false, "float16"},
    {"llama-2-13b", "llama", 32000, 5120, 40, 40, 40, 128, 13824, 4096, 1e-5, 1e4, false, "float16"},
    {"llama-2-70b", "llama", 32000, 8192, 80, 64, 8, 128, 28672, 4096, 1e-5, 1e4, false, "float16"},
    {"llama-3-8b", "llama", 128256, 4096, 32, 32, 8, 128, 14336, 8192, 1e-5, 5e5, false, "bfloat16"},
    {"llama-3-70b", "llama", 128256, 8192, 80, 64, 8, 128, 28672, 8192, 1e-5, 5e5, false, "bfloat16"},
    {"llama-3.1-8b", "llama", 128256, 4096, 32, 32, 8, 128, 14336, 131072, 1e-5, 5e5, false, "bfloat16"},
    {"llama-3.2-1b", "llama", 128256, 2048, 16, 32, 8, 64, 8192, 131072, 1e-5, 5e5, true, "bfloat16"},
    {"llama-3.2-3b", "llama", 128256, 3072, 28, 24, 8, 128, 8192, 131072, 1e-5, 5e5, true, "bfloat16"},
    {"tinyllama-1.1b", "llama", 32000, 2048, 22, 32, 4, 64, 5632, 2048, 1e-5, 1e4, false, "bfloat16"},
    {"smollm2-135m", "llama", 49152, 576, 30, 9, 3, 64, 1536, 8192, 1e-5, 1e5, true, "bfloat16"},
    {"smollm2-360m", "llama", 49152, 960, 32, 15, 5, 64, 2560, 8192, 1e-5, 1e5, true, "bfloat16"},
    {"smollm2-1.7b", "llama", 49152, 2048, 24, 32, 32, 64, 8192, 8192, 1e-5, 1.3e5, true, "bfloat16"},
    {"mistral-7b-v0.1", "mistral", 32000, 4096, 32, 32, 8, 128, 14336, 32768, 1e-5, 1e4, false, "bfloat16"},
    {"qwen2-0.5b", "qwen2", 151936, 896, 24, 14, 2, 64, 4864, 131072, 1e-6, 1e6, true, "bfloat16"},
    {"qwen2-1.5b", "qwen2", 151936, 1536, 28, 12, 2, 128, 8960, 131072, 1e-6, 1e6, true, "bfloat16"},
    {"qwen2-7b", "qwen2", 152064, 3584, 28, 28, 4, 128, 18944, 131072, 1e-6, 1e6, false, "bfloat16"},
    {"qwen3-0.6b", "qwen3", 151936, 1024, 28, 16, 8, 128, 3072, 40960, 1e-6, 1e6, true, "bfloat16"},
    {"qwen3-1.7b", "qwen3", 151936, 2048, 28, 16, 8, 128, 6144, 40960, 1e-6, 1e6, true, "bfloat16"},
    {"qwen3-8b", "qwen3", 151936, 4096, 36, 32, 8, 128, 12288, 40960, 1e-6, 1e6, false, "bfloat16"},
    {"gemma-3-270m", "gemma3_text", 262144, 640, 18, 4, 1, 256, 2048, 32768, 1e-6, 1e6, true, "bfloat16"},
    {"gemma-3-1b", "gemma3_text", 262144, 1152, 26, 4, 1, 256, 6912, 32768, 1e-6, 1e6, true, "bfloat16"},
};

struct Gpt2Shape {
  std::string_view name;
  int64_t hidden, layers, heads;
};

constexpr Gpt2Shape kGpt2[] = {{"gpt2", 768, 12, 12},
                               {"gpt2-medium", 1024, 24, 16},
                               {"gpt2-large", 1280, 36, 20},
                               {"gpt2-xl", 1600, 48, 25}};

json make_json(const EncoderShape& shape) {
  const bool is_deberta = shape.model_type == "deberta-v2";
  json config = {{"model_type", shape.model_type},
                 {"vocab_size", shape.vocab},
                 {"hidden_size", shape.hidden},
                 {"num_hidden_layers", shape.layers},
                 {"num_attention_heads", shape.heads},
                 {"intermediate_size", shape.ffn},
                 {"max_position_embeddings", shape.positions},
                 {"type_vocab_size", shape.types},
                 {"layer_norm_eps", shape.model_type == "bert" ? 1e-12
                                    : is_deberta               ? 1e-7
                                                               : 1e-5},
                 {"hidden_act", "gelu"},
                 {"pad_token_id", shape.pad}};
  // They decide which weights there are: keys and queries of positions share the projections of tokens.
  if (is_deberta) {
    config.update({{"relative_attention", true},
                   {"position_buckets", 256},
                   {"max_relative_positions", -1},
                   {"norm_rel_ebd", "layer_norm"},
                   {"share_att_key", true},
                   {"pos_att_type", {"p2c", "c2p"}},
                   {"position_biased_input", false}});
  }
  return config;
}

json make_json(const DecoderShape& shape) {
  json config = {{"model_type", shape.model_type},
                 {"vocab_size", shape.vocab},
                 {"hidden_size", shape.hidden},
                 {"num_hidden_layers", shape.layers},
                 {"num_attention_heads", shape.heads},
                 {"num_key_value_heads", shape.kv_heads},
                 {"head_dim", shape.head_dim},
                 {"intermediate_size", shape.ffn},
                 {"max_position_embeddings", shape.positions},
                 {"rms_norm_eps", shape.eps},
                 {"rope_theta", shape.rope_theta},
                 {"tie_word_embeddings", shape.tied},
                 {"torch_dtype", shape.dtype}};
  if (shape.model_type == "mistral") config["sliding_window"] = 4096;
  const bool is_gemma = shape.model_type == "gemma3_text";
  config.update(is_gemma ? json{{"hidden_activation", "gelu_pytorch_tanh"},
                                {"query_pre_attn_scalar", shape.head_dim},
                                {"sliding_window", 512},
                                {"rope_local_base_freq", 1e4}}
                         : json{{"hidden_act", "silu"}});
  // Llama 3.1 and 3.2 stretch the angles of Llama 3.
  const bool is_3_1 = shape.name.starts_with("llama-3.1");
  if (is_3_1 || shape.name.starts_with("llama-3.2")) {
    config["rope_scaling"] = {{"rope_type", "llama3"},
                              {"factor", is_3_1 ? 8.0 : 32.0},
                              {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0},
                              {"original_max_position_embeddings", 8192}};
  }
  return config;
}

json make_json(const Gpt2Shape& shape) {
  return {{"model_type", "gpt2"},      {"vocab_size", 50257},
          {"n_embd", shape.hidden},    {"n_layer", shape.layers},
          {"n_head", shape.heads},     {"n_inner", nullptr},
          {"n_positions", 1024},       {"activation_function", "gelu_new"},
          {"layer_norm_epsilon", 1e-5}};
}

}  // namespace

std::vector<std::string> known_model_shapes() {
  std::vector<std::string> names;
  for (const auto& shape : kEncoders) names.emplace_back(shape.name);
  for (const auto& shape : kDecoders) names.emplace_back(shape.name);
  for (const auto& shape : kGpt2) names.emplace_back(shape.name);
  return names;
}

ModelConfig known_model_shape(const std::string& name) {
  std::string key = name.substr(name.rfind('/') + 1);  // npos + 1 = 0
  std::transform(key.begin(), key.end(), key.begin(), [](unsigned char c) { return std::tolower(c); });
  json config;
  const auto look_in = [&](const auto& table) {
    for (const auto& shape : table) {
      if (shape.name == key) config = make_json(shape);
    }
  };
  look_in(kEncoders);
  look_in(kDecoders);
  look_in(kGpt2);
  if (config.is_null()) {
    const std::vector<std::string> names = known_model_shapes();
    std::string hint = did_you_mean(key, names);
    if (hint.empty()) {
      hint = "known:";
      for (const std::string& known : names) hint.append(" ").append(known);
    }
    throw Error(ErrorCode::kUsage, "model shape `" + name + "`", "no shape of this name is known", hint);
  }
  return parse_model_config(config, name);
}

}  // namespace msplora
