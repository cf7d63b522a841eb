#include "msplora/models/model_config.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/strict_json.h"
#include "models/config_labels.h"
#include "models/config_reader.h"
#include "models/registry.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/gguf/file.h"
#include "msplora/models/gguf.h"

namespace msplora {
namespace fs = std::filesystem;
using detail::ConfigReader;
using detail::json_excerpt;
using nlohmann::json;

namespace {

// `dtype` is the newer name and wins, as in transformers 5.
std::string dtype_key(const json& source) {
  const auto newer = source.find("dtype");
  const bool is_given = newer != source.end() && (!newer->is_null() || !source.contains("torch_dtype"));
  return is_given ? "dtype" : "torch_dtype";
}

void read_dtype(ConfigReader& reader, ModelConfig& config) {
  const std::string key = dtype_key(config.raw);
  config.torch_dtype = reader.text(key, "float32");
  const std::vector<std::string> known = {"float32", "float16", "bfloat16", "float64"};
  if (std::find(known.begin(), known.end(), config.torch_dtype) == known.end()) {
    reader.problem(key, "expected float32, float16, bfloat16 or float64, found `" + config.torch_dtype + "`",
                   did_you_mean(config.torch_dtype, known));
  }
  reader.say_if_different("dtype", "torch_dtype");
}

// The text model inside of one that sees pictures, too (Gemma 3): its config.json, as if it stood alone.
json text_model_of(const json& source) {
  const auto type = source.find("model_type"), text = source.find("text_config");
  if (type == source.end() || *type != "gemma3" || text == source.end() || !text->is_object()) return source;
  // Such files leave out what they share with Hugging Face's class.
  json alone = {{"vocab_size", 262208},
                {"num_attention_heads", 8},
                {"num_key_value_heads", 4},
                {"head_dim", 256},
                {"max_position_embeddings", 131072}};
  alone.update(*text);
  for (const char* key :
       {"dtype", "torch_dtype", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version"}) {
    if (source.contains(key) && !alone.contains(key)) alone[key] = source[key];
  }
  alone["model_type"] = "gemma3_text";
  alone["architectures"] = {"Gemma3ForCausalLM"};
  return alone;
}

// Variants that would load and compute something else, whatever the family.
void refuse_variants(ConfigReader& reader) {
  if (reader.find("quantization_config") != nullptr) {
    reader.problem("quantization_config", "quantised checkpoints are not read",
                   "use the original checkpoint in float16, bfloat16 or float32");
  }
  if (const json* heads = reader.find("pruned_heads"); heads != nullptr && !heads->empty())
    reader.wrong("pruned_heads", "no pruned heads", *heads);
  reader.refuse_flags({"is_encoder_decoder"});
}

void read_names(ConfigReader& reader, ModelConfig& config) {
  config.model_type = reader.text("model_type", "");
  const json* architectures = reader.find("architectures");
  if (config.model_type.empty()) {
    reader.problem(
        "model_type", "missing, expected a name such as roberta",
        architectures != nullptr ? "architectures is " + json_excerpt(*architectures) : std::string());
  }
  if (architectures == nullptr) return;
  const auto is_string = [](const json& value) { return value.is_string(); };
  if (!architectures->is_array() || !std::all_of(architectures->begin(), architectures->end(), is_string)) {
    return reader.wrong("architectures", "a list of strings", *architectures);
  }
  config.architectures = architectures->get<std::vector<std::string>>();
}

// A key that the file left to its default stays absent.
void set(json& out, const std::string& key, const json& value, bool is_default) {
  const auto found = out.find(key);
  const bool given = found != out.end() && !found->is_null();
  if (!given && is_default) return;
  if (!given || *found != value) out[key] = value;
}

void write_pad_token(const ModelConfig& config, json& out) {
  if (config.pad_token_id) {
    const Family* family = find_family(config.model_type);
    return set(out, "pad_token_id", *config.pad_token_id, config.pad_token_id == family->pad_token_id);
  }
  const auto pad = out.find("pad_token_id");
  if (pad != out.end() && pad->is_number() && *pad >= 0) *pad = nullptr;
}

}  // namespace

ModelConfig parse_model_config(const json& source, const std::string& where) {
  if (!source.is_object()) {
    throw Error(ErrorCode::kFormat, where, "expected a JSON object, found " + json_excerpt(source));
  }
  ModelConfig config;
  config.where = where;
  config.raw = text_model_of(source);
  ConfigReader reader(config.raw, where);
  read_names(reader, config);
  if (const Family* family = find_family(config.model_type)) {
    config.pad_token_id = reader.token("pad_token_id", family->pad_token_id);
    read_dtype(reader, config);
    // The labels of a head that nobody may want: a new task brings its own.
    ConfigReader labels(config.raw, where);
    detail::read_labels(labels, config);
    config.label_problems = labels.problems();
    if (!config.label_problems.empty()) {
      config.id2label.clear();
      config.problem_type.clear();
    }
    refuse_variants(reader);
    family->describe(reader, ModelTask::kNone);
  }
  reader.throw_if_any();
  return config;
}

ModelConfig load_model_config(const fs::path& directory) {
  if (is_gguf_path(directory)) return gguf_model_config(*GgufFile::open(directory));
  const fs::path path = directory / "config.json";
  std::error_code code;
  if (!fs::exists(path, code)) {
    const bool is_directory = fs::is_directory(directory, code);
    std::string hint = is_directory ? "a model directory holds config.json and model.safetensors" : "";
    if (fs::exists(directory / "adapter_config.json", code) || fs::exists(directory / "adapter.json", code)) {
      hint = "this is an adapter; give the base model's directory as the model and this one as the adapter";
    }
    if (fs::exists(directory, code) && !is_directory) {
      throw Error(ErrorCode::kIo, directory.string(), "expected a model directory, found a file",
                  "give the directory that holds config.json, or a GGUF file");
    }
    throw Error(ErrorCode::kIo, is_directory ? path.string() : directory.string(),
                is_directory ? "the file is missing" : "the model directory does not exist", hint);
  }
  return parse_model_config(detail::parse_strict_json(read_file(path), path.string(), 64), path.string());
}

void require_labels(const ModelConfig& config) {
  ConfigReader::throw_problems(config.label_problems, config.where);
}

json model_config_to_json(const ModelConfig& config) {
  json out = config.raw;
  set(out, "model_type", config.model_type, config.model_type.empty());
  set(out, "architectures", config.architectures, config.architectures.empty());
  if (find_family(config.model_type) == nullptr) return out;
  set(out, dtype_key(out), config.torch_dtype, config.torch_dtype == "float32");
  if (out.contains("dtype") && out.contains("torch_dtype")) out["torch_dtype"] = config.torch_dtype;
  write_pad_token(config, out);
  if (!config.problem_type.empty()) {
    out["problem_type"] = config.problem_type;
  } else if (out.contains("problem_type")) {
    out["problem_type"] = nullptr;
  }
  detail::write_labels(config, out);
  return out;
}

}  // namespace msplora
