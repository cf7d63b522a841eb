#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "models/config_reader.h"
#include "models/registry.h"
#include "msplora/models/gguf.h"
#include "msplora/nn/decoder_functional.h"

namespace msplora {
namespace {

using nlohmann::json;

// The shortest decimal that gives this float32: what was meant by 9.999999747378752e-06.
double shortest(double value) {
  const std::string text = fmt::format("{}", static_cast<float>(value));
  std::from_chars(text.data(), text.data() + text.size(), value);  // as no locale has it
  return value;
}

/// Turns the keys of one file into those of config.json.
class ConfigFromGguf {
 public:
  ConfigFromGguf(const GgufFile& file, const Family& family)
      : file_(file), facts_(family.gguf), prefix_(family.gguf.architecture + ".") {
    config_["model_type"] = family.model_type;
  }

  json read() {
    if (file_.integer(prefix_ + gguf_key::kExpertCount).value_or(0) > 0)
      file_.fail(prefix_ + gguf_key::kExpertCount, "mixtures of experts are not read", "use a dense model");
    check_keys();
    for (const GgufSetting& setting : facts_.settings) read_setting(setting);
    add_defaults();
    check_depth();
    read_tables();
    read_rotary();
    read_tokens();
    if (facts_.complete != nullptr) facts_.complete(file_, config_);
    check_heads();
    config_["architectures"] = {class_name(*find_family(config_["model_type"]), ModelTask::kCausalLm)};
    return std::move(config_);
  }

 private:
  void check_keys() const {
    ErrorList errors;
    for (const GgufSetting& setting : facts_.settings) {
      const std::string key = prefix_ + setting.gguf;
      if (setting.is_required && !file_.contains(key))
        errors.add(file_.path().string() + ": " + key, "the key is missing");
    }
    errors.throw_if_any(ErrorCode::kFormat, file_.path().string());
  }

  bool has(const char* key) const {
    return std::any_of(facts_.settings.begin(), facts_.settings.end(),
                       [&](const GgufSetting& setting) { return std::string_view(setting.config) == key; });
  }

  // So that a wrong number is told before a model of so many layers is laid out.
  void check_depth() const {
    const std::string key = prefix_ + gguf_key::kBlockCount;
    const auto blocks = file_.integers(key);
    const auto tensors = static_cast<int64_t>(file_.tensors().size());
    if (blocks && blocks->front() > tensors)
      file_.fail(
          key, fmt::format("expected at most the number of tensors, {}, found {}", tensors, blocks->front()));
  }

  // What is meant where a key is left out, whatever config.json would mean.
  void add_defaults() {
    if (has("num_key_value_heads") && !config_.contains("num_key_value_heads"))
      config_["num_key_value_heads"] = nullptr;
    const int64_t heads = config_.value("num_attention_heads", int64_t{0});
    if (has("head_dim") && !config_.contains("head_dim") && heads > 0)
      config_["head_dim"] = config_.value("hidden_size", int64_t{0}) / heads;
    if (has("rope_theta") && !config_.contains("rope_theta")) config_["rope_theta"] = 10000.0;
  }

  std::optional<double> real(const std::string& key) const {
    const auto value = file_.number(key);
    if (!value) return std::nullopt;
    if (!std::isfinite(static_cast<float>(*value)))
      file_.fail(key, fmt::format("expected a finite number, found {}", *value));
    return shortest(*value);
  }

  void read_setting(const GgufSetting& setting) {
    const std::string key = prefix_ + setting.gguf;
    if (setting.kind == GgufSetting::kReal) {
      if (const auto value = real(key)) config_[setting.config] = *value;
      return;
    }
    // Some are lists, one number a layer.
    const auto values = file_.integers(key);
    if (!values) return;
    if (values->empty()) file_.fail(key, "expected a number, found an empty list");
    const auto other =
        std::find_if(values->begin(), values->end(), [&](int64_t value) { return value != values->front(); });
    if (other != values->end())
      file_.fail(key, fmt::format("expected the same number in every layer, found {} and {}", values->front(),
                                  *other));
    config_[setting.config] = values->front();
  }

  void read_tables() {
    const GgufTensor* words = file_.find("token_embd.weight");
    if (words == nullptr) {
      throw Error(ErrorCode::kFormat, file_.path().string() + ": tensor `token_embd.weight`",
                  "the file has no such tensor", "is this a whole model?");
    }
    if (words->dimensions != 2) {
      throw Error(ErrorCode::kFormat, file_.path().string() + ": tensor `token_embd.weight`",
                  fmt::format("expected two dimensions, found {}", words->dimensions));
    }
    config_["vocab_size"] = words->extents[1];
    config_["tie_word_embeddings"] = file_.find("output.weight") == nullptr;
    // The type of most matrices; quantised ones are read as float32.
    std::map<GgufType, uint64_t> bytes;
    for (const GgufTensor& tensor : file_.tensors()) bytes[tensor.type] += tensor.bytes;
    const auto most = std::max_element(bytes.begin(), bytes.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    config_["torch_dtype"] = most->first == GgufType::kF16    ? "float16"
                             : most->first == GgufType::kBF16 ? "bfloat16"
                                                              : "float32";
  }

  void read_tokens() {
    if (const auto id = file_.integer(gguf_key::kBosId)) config_["bos_token_id"] = *id;
    if (const auto id = file_.integer(gguf_key::kPaddingId)) config_["pad_token_id"] = *id;
    const std::vector<int64_t> ends = gguf_end_tokens(file_);
    if (!ends.empty()) config_["eos_token_id"] = ends.size() == 1 ? json(ends.front()) : json(ends);
  }

  void read_rotary() {
    const std::string type_key = prefix_ + gguf_key::kRopeScalingType;
    const std::string_view type = file_.text(type_key).value_or("none");
    if (type != "none" && type != "linear" && type != "yarn" && type != "longrope")
      file_.fail(type_key, fmt::format("expected none, linear, yarn or longrope, found `{}`", type));
    json scaling;
    const auto factor = real(prefix_ + gguf_key::kRopeScalingFactor);
    const auto context = file_.integer(prefix_ + gguf_key::kRopeScalingContext);
    if (type == "linear" || type == "yarn") {
      scaling["rope_type"] = type;
      scaling["factor"] = file_.need(factor, prefix_ + gguf_key::kRopeScalingFactor);
      if (context) scaling["original_max_position_embeddings"] = *context;
    }
    if (const GgufTensor* divisors = file_.find(kGgufRopeFactors))
      scaling = llama3_scaling(*divisors, context);
    if (file_.find(kGgufRopeLong) != nullptr || file_.find(kGgufRopeShort) != nullptr) {
      scaling = {{"rope_type", "longrope"},
                 {"long_factor", reals(kGgufRopeLong)},
                 {"short_factor", reals(kGgufRopeShort)}};
      if (context) config_["original_max_position_embeddings"] = *context;
      // Where it is not given it follows from the two context lengths.
      if (const auto attention = real(prefix_ + gguf_key::kRopeScalingAttention))
        scaling["attention_factor"] = *attention;
    }
    if (!scaling.is_null()) config_["rope_scaling"] = scaling;
  }

  std::vector<double> reals(const char* name) const {
    const GgufTensor* tensor = file_.find(name);
    const std::string where = file_.path().string() + ": tensor `" + name + "`";
    constexpr int64_t kMost = 1 << 16;
    if (tensor == nullptr) throw Error(ErrorCode::kFormat, where, "the file has no such tensor");
    if (tensor->type != GgufType::kF32 || tensor->dimensions != 1 || tensor->elements() > kMost) {
      throw Error(ErrorCode::kFormat, where,
                  fmt::format("expected a list of F32, found {} in {} dimensions",
                              gguf_type_info(tensor->type).name, tensor->dimensions));
    }
    std::vector<float> values(static_cast<size_t>(tensor->elements()));
    dequantise(tensor->type, tensor->data, tensor->elements(), values.data());
    std::vector<double> result;
    for (const float value : values) result.push_back(shortest(value));
    return result;
  }

  // Files hold what the frequencies are divided by, but not the rule that it came from. It is found again by
  // the contexts that models were made for; the lowest frequency is divided by the whole factor.
  json llama3_scaling(const GgufTensor& tensor, std::optional<int64_t> context) const {
    const std::vector<double> divisors = reals(kGgufRopeFactors);
    const double theta = config_.value("rope_theta", 10000.0);
    const auto width = static_cast<int64_t>(divisors.size()) * 2;
    const std::vector<double> plain = rotary_frequencies(width, theta);
    const double factor = divisors.empty() ? 0.0 : *std::max_element(divisors.begin(), divisors.end());
    const std::string where = file_.path().string() + ": tensor `" + std::string(tensor.name) + "`";
    std::vector<int64_t> contexts = {8192, 4096, 2048, 16384, 32768};
    if (context) contexts.insert(contexts.begin(), *context);
    for (const int64_t original : contexts) {
      const json rule = {{"rope_type", "llama3"},
                         {"factor", factor},
                         {"low_freq_factor", 1.0},
                         {"high_freq_factor", 4.0},
                         {"original_max_position_embeddings", original}};
      const json settings = {{"model_type", "llama"},
                             {"max_position_embeddings", original},
                             {"rope_theta", theta},
                             {"rope_scaling", rule}};
      detail::ConfigReader reader(settings, where);
      const std::vector<double> scaled = reader.rotary(width).frequencies;
      bool is_equal = reader.problems().empty() && scaled.size() == divisors.size();
      for (size_t i = 0; is_equal && i < scaled.size(); ++i)
        is_equal = std::abs(plain[i] / scaled[i] - divisors[i]) <= 1e-5 * divisors[i];
      if (is_equal) return rule;
    }
    throw Error(
        ErrorCode::kFormat, file_.path().string() + ": tensor `" + std::string(tensor.name) + "`",
        "its divisors of the rotary frequencies are not those of Llama 3.1's rule, which alone is known");
  }

  // What the file says of widths must be what the model computes with.
  void check_heads() const {
    const std::string heads_key = prefix_ + gguf_key::kHeadCount;
    const auto heads_read = file_.integers(heads_key);
    const int64_t heads = heads_read && !heads_read->empty() ? heads_read->front() : 0;
    const int64_t width = config_.value("hidden_size", int64_t{0});
    const auto key_length = file_.integer(prefix_ + gguf_key::kKeyLength);
    const int64_t head_width = key_length ? *key_length : heads > 0 ? width / heads : 0;
    if (head_width <= 0) return;  // said with the other sizes
    if (const auto value = file_.integer(prefix_ + gguf_key::kValueLength); value && *value != head_width) {
      file_.fail(prefix_ + gguf_key::kValueLength,
                 fmt::format("expected the width of the keys, {}, found {}", head_width, *value));
    }
    const std::string key = prefix_ + gguf_key::kRopeDimensions;
    const auto turned = file_.integer(key);
    const double part = config_.value("partial_rotary_factor", 1.0);
    if (turned && std::abs(static_cast<double>(*turned) - part * static_cast<double>(head_width)) > 0.5) {
      file_.fail(key, fmt::format("expected angles for whole heads of {}, found {}", head_width, *turned));
    }
  }

  const GgufFile& file_;
  const GgufFacts& facts_;
  std::string prefix_;
  json config_;
};

/// The key that a key of config.json was made of; "" for others.
std::string gguf_key_of(std::string_view key, const GgufFacts& facts) {
  for (const GgufSetting& setting : facts.settings) {
    if (key == setting.config) return facts.architecture + "." + setting.gguf;
  }
  if (key == "sliding_window") return facts.architecture + "." + gguf_key::kSlidingWindow;
  if (key == "rope_scaling") return facts.architecture + ".rope.scaling";
  if (key == "bos_token_id") return gguf_key::kBosId;
  if (key == "pad_token_id") return gguf_key::kPaddingId;
  return "";
}

/// A message about config.json in the words of the file that it was made of.
std::string by_gguf_names(const std::string& message, const GgufFacts& facts) {
  std::string said;
  for (size_t begin = 0; begin < message.size();) {
    size_t end = begin;
    while (end < message.size() &&
           (std::isalnum(static_cast<unsigned char>(message[end])) != 0 || message[end] == '_'))
      ++end;
    if (end == begin) ++end;
    const std::string word = message.substr(begin, end - begin), key = gguf_key_of(word, facts);
    said += key.empty() ? word : key;
    begin = end;
  }
  return said;
}

ModelConfig parse_gguf_config(const GgufFile& file, const Family& family) {
  const std::string path = file.path().string();
  const json config = ConfigFromGguf(file, family).read();
  try {
    return parse_model_config(config, path);
  } catch (const Error& error) {
    const size_t known = error.where().starts_with(path) ? path.size() : 0;
    throw Error(ErrorCode::kFormat,
                error.where().substr(0, known) + by_gguf_names(error.where().substr(known), family.gguf),
                by_gguf_names(error.message(), family.gguf), error.hint());
  }
}

}  // namespace

ModelConfig gguf_model_config(const GgufFile& file) {
  if (const auto type = file.text(gguf_key::kType); type && *type != "model") {
    throw Error(ErrorCode::kModel, file.path().string() + ": " + gguf_key::kType,
                fmt::format("expected `model`, found `{}`", *type),
                *type == "adapter" ? "give the base model as the model and this file as the adapter" : "");
  }
  const std::string name(file.need(file.text(gguf_key::kArchitecture), gguf_key::kArchitecture));
  const Family* family = find_gguf_family(name);
  if (family == nullptr) {
    throw Error(ErrorCode::kModel, file.path().string() + ": " + gguf_key::kArchitecture,
                fmt::format("`{}` is not supported; supported are {}", name, known_gguf_architectures()));
  }
  return parse_gguf_config(file, *family);
}

}  // namespace msplora
