#include "msplora/io/model_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "io/config_fields.h"
#include "io/config_visitors.h"
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

using detail::kMaxSize;
using detail::saturated;
using Reader = detail::ConfigReader;
using Writer = detail::ConfigWriter;

// What Hugging Face's classes take when the key is missing.
constexpr int64_t kDefaultWindow = 4096, kDefaultMaxWindowLayers = 28;
constexpr const char* kSlides = "sliding_attention";
constexpr const char* kDoesNotSlide = "full_attention";

bool is_qwen(const ModelConfig& config) {
  return config.model_type == "qwen2" || config.model_type == "qwen3";
}

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

// Older files call the type `type`; newer ones keep everything in rope_parameters.
const json* rope_settings(const Reader& reader) {
  const json* scaling = reader.find("rope_scaling");
  return scaling != nullptr ? scaling : reader.find("rope_parameters");
}

void read_rope_scaling(Reader& reader, ModelConfig& config) {
  const json* given = rope_settings(reader);
  if (given == nullptr) return;
  const std::string key = reader.find("rope_scaling") != nullptr ? "rope_scaling" : "rope_parameters";
  if (!given->is_object()) return reader.wrong(key, "an object or null", *given);
  RopeScaling& scaling = config.rope_scaling;
  const json type = given->value("rope_type", given->value("type", json("default")));
  const std::vector<std::string> known = {"default", "linear", "llama3"};
  if (!type.is_string() || std::find(known.begin(), known.end(), type.get<std::string>()) == known.end()) {
    return reader.wrong(key + ".rope_type", "default, linear or llama3", type,
                        type.is_string() ? did_you_mean(type.get<std::string>(), known) : std::string());
  }
  scaling.rope_type = type.get<std::string>();
  if (scaling.rope_type == "default") return;
  const auto positive = [&](const char* name, double& field) {
    const json value = given->value(name, json());
    if (!value.is_number() || value.get<double>() <= 0)
      return reader.wrong(key + "." + name, "a positive number", value);
    field = value.get<double>();
  };
  positive("factor", scaling.factor);
  if (scaling.rope_type == "linear") return;
  positive("low_freq_factor", scaling.low_freq_factor);
  positive("high_freq_factor", scaling.high_freq_factor);
  double positions = 0.0;
  positive("original_max_position_embeddings", positions);
  scaling.original_max_position_embeddings = static_cast<int64_t>(positions);
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    reader.problem(key + ".high_freq_factor", fmt::format("expected more than low_freq_factor = {}, found {}",
                                                          scaling.low_freq_factor, scaling.high_freq_factor));
  }
}

// The window of the layers that slide; 0: there is none. Qwen files name one that is only used when they say
// so, Llama has none whatever its file says.
int64_t read_sliding_window(Reader& reader, const ModelConfig& config) {
  bool is_used = config.model_type == "mistral";
  if (is_qwen(config)) reader.flag("use_sliding_window", is_used, false);
  if (!is_used) return 0;
  if (!config.raw.contains("sliding_window")) return kDefaultWindow;
  const json& window = config.raw["sliding_window"];
  if (window.is_null()) return 0;
  if (window.is_number_integer() && saturated(window) >= 1) return std::min(saturated(window), kMaxSize);
  reader.wrong("sliding_window", "a positive integer or null", window);
  return 0;
}

// Which layers slide: Mistral's all, Qwen's from max_window_layers on unless layer_types lists them.
void read_windows(Reader& reader, ModelConfig& config) {
  const int64_t window = read_sliding_window(reader, config), layers = config.num_hidden_layers;
  int64_t first = 0;
  if (is_qwen(config)) reader.size("max_window_layers", first, kDefaultMaxWindowLayers, 0);
  std::vector<int64_t> windows;
  for (int64_t i = 0; i < layers; ++i) windows.push_back(i >= first ? window : 0);
  const json* types = reader.find("layer_types");
  if (types != nullptr && config.model_type != "llama") {
    if (!types->is_array() || static_cast<int64_t>(types->size()) != layers)
      return reader.wrong("layer_types", fmt::format("a list of {} names, one a layer", layers), *types);
    for (int64_t i = 0; i < layers; ++i) {
      const json& type = (*types)[static_cast<size_t>(i)];
      const std::string key = fmt::format("layer_types[{}]", i);
      if (type != kSlides && type != kDoesNotSlide)
        return reader.wrong(key, "sliding_attention or full_attention", type);
      if (type == kSlides && window == 0) {
        return reader.wrong(key, "full_attention, as no sliding_window is in use", type,
                            is_qwen(config) ? "a window needs use_sliding_window: true" : "");
      }
      if (type != kSlides && window > 0 && !is_qwen(config))
        return reader.wrong(key, "sliding_attention, as every layer of Mistral slides", type);
      windows[static_cast<size_t>(i)] = type == kSlides ? window : 0;
    }
  }
  if (std::any_of(windows.begin(), windows.end(), [](int64_t w) { return w > 0; }))
    config.windows = std::move(windows);
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

// What read_windows reads, where no file said it. layer_types alone would not do: releases of transformers
// before it know max_window_layers.
void write_windows(const ModelConfig& config, Writer& writer, json& out) {
  if (config.model_type == "llama") return;
  const auto slides = [](int64_t window) { return window > 0; };
  const auto first = std::find_if(config.windows.begin(), config.windows.end(), slides);
  const int64_t window = first == config.windows.end() ? 0 : *first;
  const bool is_one_window = std::all_of(config.windows.begin(), config.windows.end(), [&](int64_t w) {
    return w == window || (w == 0 && is_qwen(config));
  });
  if (!is_one_window || (window > 0 && std::ssize(config.windows) != config.num_hidden_layers)) {
    throw Error(ErrorCode::kUsage, "ModelConfig",
                fmt::format("{} layers of {} have one window for all that slide, found {}",
                            config.num_hidden_layers, config.model_type, fmt::join(config.windows, ", ")));
  }
  if (!is_qwen(config)) {
    const json value = window > 0 ? json(window) : json(nullptr);
    return writer.set("sliding_window", value, window == kDefaultWindow);
  }
  if (window == 0 || config.raw.contains("use_sliding_window")) return;
  out["sliding_window"] = window;
  out["use_sliding_window"] = true;
  out["max_window_layers"] = first - config.windows.begin();
  out["layer_types"] = json::array();
  for (const int64_t w : config.windows) out["layer_types"].push_back(w > 0 ? kSlides : kDoesNotSlide);
}

// What read_rope_scaling reads, where no file said it.
void write_rope_scaling(const ModelConfig& config, json& out) {
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.rope_type != "default" && !out.contains("rope_scaling") && !out.contains("rope_parameters")) {
    out["rope_scaling"] = {{"rope_type", scaling.rope_type}, {"factor", scaling.factor}};
    if (scaling.rope_type == "llama3") {
      out["rope_scaling"]["low_freq_factor"] = scaling.low_freq_factor;
      out["rope_scaling"]["high_freq_factor"] = scaling.high_freq_factor;
      out["rope_scaling"]["original_max_position_embeddings"] = scaling.original_max_position_embeddings;
    }
  }
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
    // The labels of a head that nobody may want: a new task brings its own.
    Reader labels(source);
    read_labels(labels, config);
    config.label_problems = labels.problems();
    if (!config.label_problems.empty()) {
      config.id2label.clear();
      config.problem_type.clear();
    }
    if (family == ConfigFamily::kDecoder) {
      read_rope_scaling(reader, config);
      read_windows(reader, config);
    }
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

void require_labels(const ModelConfig& config, const std::string& where) {
  Reader::throw_problems(config.label_problems, where);
}

json model_config_to_json(const ModelConfig& config) {
  json out = config.raw.is_object() ? config.raw : json::object();
  Writer writer(out);
  writer.set("model_type", config.model_type, config.model_type.empty());
  writer.set("architectures", config.architectures, config.architectures.empty());
  const ConfigFamily family = detail::config_family(config.model_type);
  if (family == ConfigFamily::kUnknown) return out;
  detail::visit_fields(config, family, writer);
  if (family == ConfigFamily::kDecoder) {
    write_rope_scaling(config, out);
    write_windows(config, writer, out);
  }
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
