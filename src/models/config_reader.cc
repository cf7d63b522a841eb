#include "models/config_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "core/strict_json.h"
#include "msplora/core/log.h"
#include "msplora/nn/functional.h"

namespace msplora::detail {

using nlohmann::json;

int64_t saturated(const json& value) {
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
  const bool above = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kLargest);
  return above ? kLargest : value.get<int64_t>();
}

ConfigReader::ConfigReader(const json& source, const std::string& where) : source_(source), where_(where) {
  for (const auto& item : source.items()) keys_.push_back(item.key());
  const json* type = find("model_type");
  if (type != nullptr && type->is_string()) model_type_ = type->get<std::string>();
}

bool ConfigReader::type_is(const char* model_type) const {
  return model_type_ == model_type;
}

const json* ConfigReader::find(const std::string& key) const {
  const auto found = source_.find(key);
  return found != source_.end() && !found->is_null() ? &*found : nullptr;
}

void ConfigReader::wrong(const std::string& key, const std::string& expected, const json& value,
                         const std::string& hint) {
  problem(key, "expected " + expected + ", found " + json_excerpt(value), hint);
}

void ConfigReader::problem(const std::string& key, const std::string& message, const std::string& hint) {
  const bool is_known = std::any_of(problems_.begin(), problems_.end(), [&](const Error& other) {
    return other.where() == key && other.message() == message;
  });
  if (!is_known) problems_.emplace_back(ErrorCode::kConfig, key, message, hint);
}

void ConfigReader::throw_problems(const std::vector<Error>& problems, const std::string& where) {
  ErrorList list;
  for (const Error& problem : problems) {
    list.add(problems.size() == 1 ? where + ": " + problem.where() : problem.where(), problem.message(),
             problem.hint());
  }
  list.throw_if_any(ErrorCode::kConfig, where);
}

int64_t ConfigReader::size(const std::string& key, std::optional<int64_t> fallback, int64_t min) {
  const json* value = find(key);
  const std::string expected = min == 1 ? "a positive integer" : "a non-negative integer";
  if (value == nullptr) {
    if (!fallback) problem(key, "missing, expected " + expected, did_you_mean(key, keys_));
    return fallback.value_or(0);
  }
  if (!value->is_number_integer()) return wrong(key, expected, *value), 0;
  const int64_t number = saturated(*value);
  if (number > kMaxSize) return wrong(key, fmt::format("at most {}", kMaxSize), *value), 0;
  if (number < min) return wrong(key, expected, *value), 0;
  return number;
}

double ConfigReader::real(const std::string& key, double fallback, const RealRange& range) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  const double number = value->is_number() ? value->get<double>() : -1.0;
  // NaN is within no range.
  const bool is_above = range.min_included ? number >= range.min : number > range.min;
  if (!is_above || !(number < range.max)) return wrong(key, range.text, *value), fallback;
  return number;
}

double ConfigReader::dropout(const std::string& key, double fallback) {
  const double p = real(key, fallback, kProbability);
  return dropout_.value_or(p);
}

std::string ConfigReader::text(const std::string& key, const std::string& fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) return wrong(key, "a string", *value), fallback;
  return value->get<std::string>();
}

bool ConfigReader::flag(const std::string& key, bool fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return wrong(key, "true or false", *value), fallback;
  return value->get<bool>();
}

std::optional<int64_t> ConfigReader::token(const std::string& key, std::optional<int64_t> fallback) {
  const json* value = find(key);
  if (value == nullptr) return source_.contains(key) ? std::nullopt : fallback;
  if (!value->is_number_integer()) return wrong(key, "an integer or null", *value), std::nullopt;
  const int64_t id = saturated(*value);
  const json* vocab = find("vocab_size");
  const int64_t limit = vocab != nullptr && vocab->is_number_integer() ? saturated(*vocab) : 0;
  if (limit > 0 && id >= limit)
    return wrong(key, fmt::format("an id below vocab_size = {}", limit), *value), std::nullopt;
  return id < 0 ? std::nullopt : std::optional<int64_t>(id);
}

kernels::Activation ConfigReader::activation(const std::string& key, const std::string& fallback) {
  const std::string name = text(key, fallback);
  try {
    return activation_from_name(name);
  } catch (const Error& error) {
    problem(key, error.message(), error.hint());
    return kernels::Activation::kGelu;
  }
}

int64_t ConfigReader::depth(const std::string& key) {
  constexpr int64_t kDeepest = 100'000;
  const int64_t count = size(key);
  if (count <= kDeepest) return count;
  return wrong(key, fmt::format("at most {}", kDeepest), *find(key)), 0;
}

std::vector<std::string> ConfigReader::layers(const std::string& key, const std::string& prefix) {
  std::vector<std::string> paths;
  const int64_t count = depth(key);
  for (int64_t i = 0; i < count; ++i) paths.push_back(fmt::format("{}.{}", prefix, i));
  return paths;
}

AttentionShape ConfigReader::even_heads(const std::string& key, int64_t width) {
  AttentionShape shape;
  shape.heads = shape.kv_heads = size(key);
  if (shape.heads <= 0 || width <= 0) return shape;
  if (width % shape.heads != 0) {
    problem(key, fmt::format("expected a divisor of the hidden size {}, found {}", width, shape.heads));
  }
  shape.head_dim = width / shape.heads;
  return shape;
}

AttentionShape ConfigReader::grouped_heads(int64_t width, int64_t default_head_dim, bool needs_groups) {
  AttentionShape shape;
  shape.window_right = 0;
  shape.heads = size("num_attention_heads");
  shape.kv_heads = size("num_key_value_heads", shape.heads);
  const int64_t even = shape.heads > 0 ? width / shape.heads : 0;
  shape.head_dim = size("head_dim", default_head_dim > 0 ? default_head_dim : even);
  if (shape.heads <= 0 || width <= 0) return shape;
  if (width % shape.heads != 0 && find("head_dim") == nullptr) {
    problem("num_attention_heads",
            fmt::format("expected a divisor of the hidden size {}, found {}", width, shape.heads));
  } else if (shape.head_dim % 2 != 0) {
    problem("head_dim", fmt::format("expected an even number (rotary pairs), found {}", shape.head_dim));
  }
  // Each class has another constant for it; guessing wrong would silently change the shapes.
  if (needs_groups && !source_.contains("num_key_value_heads")) {
    problem("num_key_value_heads", "missing, expected a positive integer or null (= num_attention_heads)");
  }
  if (shape.kv_heads > 0 && shape.heads % shape.kv_heads != 0) {
    problem("num_key_value_heads", fmt::format("expected a divisor of num_attention_heads = {}, found {}",
                                               shape.heads, shape.kv_heads));
  }
  return shape;
}

void ConfigReader::refuse_flags(const std::vector<std::string>& keys) {
  for (const std::string& key : keys) {
    if (flag(key, false)) problem(key, "expected false for model_type " + model_type_ + ", found true");
  }
}

void ConfigReader::say_if_different(const std::string& used, const std::string& ignored) const {
  const auto value_of = [&](const std::string& key) {
    const json* value = &source_;
    for (size_t at = 0; value != nullptr && at <= key.size();) {
      const size_t end = std::min(key.find('.', at), key.size());
      const auto found = value->is_object() ? value->find(key.substr(at, end - at)) : value->end();
      value = value->is_object() && found != value->end() && !found->is_null() ? &*found : nullptr;
      at = end + 1;
    }
    return value;
  };
  const json *a = value_of(used), *b = value_of(ignored);
  if (a == nullptr || b == nullptr || *a == *b) return;
  const std::string text = fmt::format("{}: {} is {}, but {} is {}; {} counts, as in transformers 5", where_,
                                       used, json_excerpt(*a), ignored, json_excerpt(*b), used);
  log_warning_once(text);
}

}  // namespace msplora::detail
