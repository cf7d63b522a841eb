#include "msplora/io/model_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "io/config_fields.h"
#include "io/strict_json.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"

namespace msplora {
namespace fs = std::filesystem;
using detail::ConfigFamily;
using detail::json_excerpt;
using nlohmann::json;

ConfigFamily detail::config_family(const std::string& model_type) {
  static const std::map<std::string, ConfigFamily> kFamilies = {{"bert", ConfigFamily::kEncoder},
                                                                {"roberta", ConfigFamily::kEncoder},
                                                                {"xlm-roberta", ConfigFamily::kEncoder},
                                                                {"deberta-v2", ConfigFamily::kEncoder},
                                                                {"llama", ConfigFamily::kDecoder},
                                                                {"mistral", ConfigFamily::kDecoder},
                                                                {"qwen2", ConfigFamily::kDecoder},
                                                                {"qwen3", ConfigFamily::kDecoder},
                                                                {"gpt2", ConfigFamily::kGpt2}};
  const auto found = kFamilies.find(model_type);
  return found == kFamilies.end() ? ConfigFamily::kUnknown : found->second;
}

namespace {

// Larger values are mistakes; the bound keeps products of two sizes within 64 bits.
constexpr int64_t kMaxSize = (int64_t{1} << 31) - 1;

// An integer as int64, values above its range as its maximum.
int64_t saturated(const json& value) {
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
  const bool above = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kLargest);
  return above ? kLargest : value.get<int64_t>();
}

// The visitor that reads. A key that is missing or null takes the default.
class Reader {
 public:
  explicit Reader(const json& source) : source_(source) {
    for (const auto& item : source.items()) keys_.push_back(item.key());
  }

  void size(const std::string& key, int64_t& field, std::optional<int64_t> fallback, int64_t min = 1) {
    const json* value = find(key);
    const std::string expected = min == 1 ? "a positive integer" : "a non-negative integer";
    if (value == nullptr) {
      if (fallback) field = *fallback;
      if (!fallback) problem(key, "missing, expected " + expected, did_you_mean(key, keys_));
      return;
    }
    if (!value->is_number_integer()) return wrong(key, expected, *value);
    const int64_t number = saturated(*value);
    if (number > kMaxSize) return wrong(key, fmt::format("at most {}", kMaxSize), *value);
    if (number < min) return wrong(key, expected, *value);
    field = number;
  }

  void real(const std::string& key, double& field, double fallback, const detail::RealRange& range) {
    std::optional<double> value;
    optional_real(key, value, range);
    field = value.value_or(fallback);
  }

  void optional_real(const std::string& key, std::optional<double>& field, const detail::RealRange& range) {
    const json* value = find(key);
    if (value == nullptr) return;
    const double number = value->is_number() ? value->get<double>() : -1.0;
    const bool low = range.min_included ? number < range.min : number <= range.min;
    if (low || number >= range.max) return wrong(key, range.text, *value);
    field = number;
  }

  void text(const std::string& key, std::string& field, const std::string& fallback) {
    const json* value = find(key);
    field = fallback;
    if (value == nullptr) return;
    if (!value->is_string()) return wrong(key, "a string", *value);
    field = value->get<std::string>();
  }

  void flag(const std::string& key, bool& field, bool fallback) {
    const json* value = find(key);
    field = fallback;
    if (value == nullptr) return;
    if (!value->is_boolean()) return wrong(key, "true or false", *value);
    field = value->get<bool>();
  }

  // Null counts as missing, as in Hugging Face. Newer versions keep rope_theta in an object of its own.
  const json* find(const std::string& key) const {
    if (const auto found = source_.find(key); found != source_.end() && !found->is_null()) return &*found;
    if (key == "rope_theta" && source_.contains("rope_parameters") &&
        source_["rope_parameters"].is_object()) {
      const json& rope = source_["rope_parameters"];
      if (rope.contains(key) && !rope[key].is_null()) return &rope[key];
    }
    return nullptr;
  }

  void wrong(const std::string& key, const std::string& expected, const json& value,
             const std::string& hint = {}) {
    problem(key, "expected " + expected + ", found " + json_excerpt(value), hint);
  }

  void problem(const std::string& key, const std::string& message, const std::string& hint = {}) {
    problems_.emplace_back(ErrorCode::kConfig, key, message, hint);
  }

  // One problem is reported as "file: key: ...", several as a list under the file's name.
  void throw_if_any(const std::string& where) const {
    ErrorList list;
    for (const Error& problem : problems_) {
      list.add(problems_.size() == 1 ? where + ": " + problem.where() : problem.where(), problem.message(),
               problem.hint());
    }
    list.throw_if_any(ErrorCode::kConfig, where);
  }

 private:
  const json& source_;
  std::vector<std::string> keys_;
  std::vector<Error> problems_;
};

// The visitor that writes. A key that the file left to its default stays as it was.
class Writer {
 public:
  explicit Writer(json& target) : target_(target), complete_(target.empty()) {}

  void size(const std::string& key, int64_t field, std::optional<int64_t> fallback, int64_t = 1) {
    set(key, field, fallback && *fallback == field);
  }
  void real(const std::string& key, double field, double fallback, const detail::RealRange&) {
    set(key, field, field == fallback);
  }
  void optional_real(const std::string& key, const std::optional<double>& field, const detail::RealRange&) {
    set(key, field ? json(*field) : json(nullptr), !field);
  }
  void text(const std::string& key, const std::string& field, const std::string& fallback) {
    set(key, field, field == fallback);
  }
  void flag(const std::string& key, bool field, bool fallback) { set(key, field, field == fallback); }

  void set(const std::string& key, const json& value, bool is_default) {
    json& object = key == "rope_theta" && !target_.contains(key) && target_.contains("rope_parameters")
                       ? target_["rope_parameters"]
                       : target_;
    const auto found = object.find(key);
    const bool given = found != object.end() && !found->is_null();
    if (!given && is_default && !complete_) return;
    if (!given || *found != value) object[key] = value;
  }

 private:
  json& target_;
  bool complete_;  // there was no file: every key is written
};

std::string dtype_key(const json& source) {
  return source.contains("dtype") && !source.contains("torch_dtype") ? "dtype" : "torch_dtype";
}

void read_dtype(Reader& reader, const json& source, ModelConfig& config) {
  const std::string key = dtype_key(source);
  reader.text(key, config.torch_dtype, "float32");
  const std::vector<std::string> known = {"float32", "float16", "bfloat16", "float64"};
  if (std::find(known.begin(), known.end(), config.torch_dtype) == known.end()) {
    reader.problem(key, "expected float32, float16, bfloat16 or float64, found `" + config.torch_dtype + "`",
                   did_you_mean(config.torch_dtype, known));
  }
}

// "0".."n-1" to names, and its inverse.
void read_label_maps(Reader& reader, ModelConfig& config) {
  const json* names = reader.find("id2label");
  if (names == nullptr || (names->is_object() && names->empty())) return;
  if (!names->is_object()) return reader.wrong("id2label", "an object from id to name", *names);
  std::map<std::string, int64_t> ids;
  const auto count = static_cast<int64_t>(names->size());
  for (int64_t id = 0; id < count; ++id) {
    const auto found = names->find(std::to_string(id));
    if (found == names->end()) {
      return reader.problem("id2label", fmt::format("expected the ids 0 to {} as keys, found no `{}` in {}",
                                                    count - 1, id, json_excerpt(*names)));
    }
    // Some files hold numbers as names.
    const std::string name = found->is_string() ? found->get<std::string>() : found->dump();
    if (found->is_structured() || found->is_null()) {
      return reader.wrong(fmt::format("id2label.{}", id), "a name", *found);
    }
    if (const auto [other, fresh] = ids.emplace(name, id); !fresh) {
      return reader.problem("id2label",
                            fmt::format("the ids {} and {} are both called `{}`", other->second, id, name));
    }
    config.id2label[id] = name;
  }
  const json* inverse = reader.find("label2id");
  if (inverse == nullptr || (inverse->is_object() && inverse->empty())) return;
  if (!inverse->is_object()) return reader.wrong("label2id", "an object from name to id", *inverse);
  for (const auto& [name, id] : ids) {
    const auto found = inverse->find(name);
    if (found == inverse->end() || *found != id) {
      reader.problem("label2id",
                     fmt::format("expected `{}`: {} as in id2label, found {}", name, id,
                                 found == inverse->end() ? "nothing" : json_excerpt(*found)),
                     "label2id must be the inverse of id2label");
    }
  }
  for (const auto& item : inverse->items()) {
    if (ids.count(item.key()) == 0) reader.problem("label2id", "`" + item.key() + "` is not in id2label");
  }
}

void read_labels(Reader& reader, ModelConfig& config) {
  read_label_maps(reader, config);
  const auto named = static_cast<int64_t>(config.id2label.size());
  int64_t count = named > 0 ? named : 2;
  reader.size("num_labels", count, count);
  if (named > 0 && count != named) {
    reader.problem("num_labels",
                   fmt::format("expected {}, the number of entries in id2label, found {}", named, count));
  }
  config.num_labels = count;
  reader.text("problem_type", config.problem_type, "");
  const std::vector<std::string> known = {"regression", "single_label_classification"};
  if (!config.problem_type.empty() &&
      std::find(known.begin(), known.end(), config.problem_type) == known.end()) {
    reader.problem(
        "problem_type",
        "expected regression, single_label_classification or null, found `" + config.problem_type + "`",
        did_you_mean(config.problem_type, known));
  }
}

// What Hugging Face's classes take when the key is missing.
std::optional<int64_t> default_pad_token(const std::string& model_type) {
  if (model_type == "roberta" || model_type == "xlm-roberta") return 1;
  if (model_type == "bert" || model_type == "deberta-v2") return 0;
  return std::nullopt;
}

void read_pad_token(Reader& reader, ModelConfig& config) {
  const json* value = reader.find("pad_token_id");
  config.pad_token_id = default_pad_token(config.model_type);
  if (value == nullptr) return;
  if (!value->is_number_integer()) return reader.wrong("pad_token_id", "an integer or null", *value);
  const int64_t id = saturated(*value);
  config.pad_token_id = std::nullopt;
  if (id < 0) return;  // -1 in older Llama files: no padding token
  if (config.vocab_size > 0 && id >= config.vocab_size) {
    return reader.wrong("pad_token_id", fmt::format("an id below vocab_size = {}", config.vocab_size),
                        *value);
  }
  config.pad_token_id = id;
}

// Variants of a known architecture that would load and compute something else.
void refuse_variants(Reader& reader, const ModelConfig& config, ConfigFamily family) {
  if (reader.find("quantization_config") != nullptr) {
    reader.problem("quantization_config", "quantised checkpoints are not read",
                   "use the original checkpoint in float16, bfloat16 or float32");
  }
  if (const json* heads = reader.find("pruned_heads"); heads != nullptr && !heads->empty()) {
    reader.wrong("pruned_heads", "no pruned heads", *heads);
  }
  std::vector<std::string> flags = {"is_encoder_decoder"};
  if (family == ConfigFamily::kEncoder) flags.insert(flags.end(), {"is_decoder", "add_cross_attention"});
  for (const std::string& key : flags) {
    bool value = false;
    reader.flag(key, value, false);
    if (value) reader.problem(key, "expected false for model_type " + config.model_type + ", found true");
  }
  if (family == ConfigFamily::kEncoder && config.model_type != "deberta-v2") {
    std::string type;
    reader.text("position_embedding_type", type, "absolute");
    if (type != "absolute") {
      reader.problem("position_embedding_type", "expected absolute, found `" + type + "`",
                     "relative position embeddings of BERT and RoBERTa are not supported");
    }
  }
}

void check_heads(Reader& reader, const ModelConfig& config, ConfigFamily family) {
  const int64_t heads = config.num_attention_heads, groups = config.num_key_value_heads;
  if (config.hidden_size <= 0 || heads <= 0) return;
  const bool decoder = family == ConfigFamily::kDecoder;
  const std::string key = family == ConfigFamily::kGpt2 ? "n_head" : "num_attention_heads";
  if (config.hidden_size % heads != 0 && !(decoder && reader.find("head_dim") != nullptr)) {
    reader.problem(
        key, fmt::format("expected a divisor of the hidden size {}, found {}", config.hidden_size, heads));
  } else if (decoder && config.head_dim % 2 != 0) {
    reader.problem("head_dim",
                   fmt::format("expected an even number (rotary pairs), found {}", config.head_dim));
  }
  // Each class has another constant for it; guessing wrong would silently change the shapes.
  if (decoder && config.model_type != "llama" && !config.raw.contains("num_key_value_heads")) {
    reader.problem("num_key_value_heads",
                   "missing, expected a positive integer or null (= num_attention_heads)");
  }
  if (decoder && groups > 0 && heads % groups != 0) {
    reader.problem("num_key_value_heads",
                   fmt::format("expected a divisor of num_attention_heads = {}, found {}", heads, groups));
  }
}

void check_positions(Reader& reader, const ModelConfig& config) {
  // RoBERTa counts positions from pad_token_id + 1.
  const bool shifted = config.model_type == "roberta" || config.model_type == "xlm-roberta";
  if (shifted && config.max_position_embeddings > 0 &&
      config.max_position_embeddings <= config.pad_token_id.value_or(1) + 1) {
    reader.problem("max_position_embeddings",
                   fmt::format("expected more than pad_token_id + 1 = {}, found {}",
                               config.pad_token_id.value_or(1) + 1, config.max_position_embeddings));
  }
}

void read_names(Reader& reader, ModelConfig& config) {
  reader.text("model_type", config.model_type, "");
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

void write_labels(const ModelConfig& config, json& out) {
  std::map<int64_t, std::string> names = config.id2label;
  if (!names.empty() && static_cast<int64_t>(names.size()) != config.num_labels) {
    throw Error(ErrorCode::kUsage, "ModelConfig",
                fmt::format("num_labels is {} and id2label has {} entries", config.num_labels, names.size()));
  }
  if (out.contains("num_labels")) out["num_labels"] = config.num_labels;
  out.erase("id2label");
  out.erase("label2id");
  // Two labels without names are what Hugging Face takes by default.
  if (names.empty() && config.num_labels != 2 && !out.contains("num_labels")) {
    for (int64_t id = 0; id < config.num_labels; ++id) names[id] = "LABEL_" + std::to_string(id);
  }
  int64_t expected = 0;
  for (const auto& [id, name] : names) {
    if (id != expected++ || out["label2id"].contains(name)) {
      throw Error(
          ErrorCode::kUsage, "ModelConfig",
          fmt::format("id2label must hold the ids from 0 on with different names, found {}: `{}`", id, name));
    }
    out["id2label"][std::to_string(id)] = name;
    out["label2id"][name] = id;
  }
}

}  // namespace

ModelConfig parse_model_config(const json& source, const std::string& where) {
  if (!source.is_object()) {
    throw Error(ErrorCode::kFormat, where, "expected a JSON object, found " + json_excerpt(source));
  }
  ModelConfig config;
  config.raw = source;
  Reader reader(source);
  read_names(reader, config);
  const ConfigFamily family = detail::config_family(config.model_type);
  if (family != ConfigFamily::kUnknown) {
    detail::visit_fields(config, family, reader);
    if (family != ConfigFamily::kDecoder && config.num_attention_heads > 0) {
      config.num_key_value_heads = config.num_attention_heads;
      config.head_dim = config.hidden_size / config.num_attention_heads;
    }
    read_pad_token(reader, config);
    read_dtype(reader, source, config);
    read_labels(reader, config);
    refuse_variants(reader, config, family);
    check_heads(reader, config, family);
    check_positions(reader, config);
  }
  reader.throw_if_any(where);
  return config;
}

ModelConfig load_model_config(const fs::path& directory) {
  const fs::path path = directory / "config.json";
  std::error_code code;
  if (!fs::exists(path, code)) {
    const bool is_directory = fs::is_directory(directory, code);
    std::string hint = is_directory ? "a model directory holds config.json and model.safetensors" : "";
    if (fs::exists(directory / "adapter_config.json", code) || fs::exists(directory / "adapter.json", code)) {
      hint = "this is an adapter; give the base model's directory as the model and this one as the adapter";
    }
    throw Error(ErrorCode::kIo, is_directory ? path.string() : directory.string(),
                is_directory ? "the file is missing" : "the model directory does not exist", hint);
  }
  return parse_model_config(detail::parse_strict_json(read_file(path), path.string(), 64), path.string());
}

json model_config_to_json(const ModelConfig& config) {
  json out = config.raw.is_object() ? config.raw : json::object();
  Writer writer(out);
  writer.set("model_type", config.model_type, config.model_type.empty());
  writer.set("architectures", config.architectures, config.architectures.empty());
  const ConfigFamily family = detail::config_family(config.model_type);
  if (family == ConfigFamily::kUnknown) return out;
  detail::visit_fields(config, family, writer);
  writer.set(dtype_key(out), config.torch_dtype, config.torch_dtype == "float32");
  if (config.pad_token_id) {
    writer.set("pad_token_id", *config.pad_token_id,
               config.pad_token_id == default_pad_token(config.model_type));
  } else if (const auto pad = out.find("pad_token_id"); pad != out.end() && pad->is_number() && *pad >= 0) {
    *pad = nullptr;
  }
  if (!config.problem_type.empty()) {
    out["problem_type"] = config.problem_type;
  } else if (out.contains("problem_type")) {
    out["problem_type"] = nullptr;
  }
  write_labels(config, out);
  return out;
}

}  // namespace msplora
