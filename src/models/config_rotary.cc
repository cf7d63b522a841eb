#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "models/config_reader.h"
#include "msplora/nn/decoder_functional.h"

/// From the keys of config.json to the angles of rotary positions: the one place that knows them, as
/// transformers 5 computes them (modeling_rope_utils.py).
namespace msplora::detail {

using nlohmann::json;

namespace {

// The factors of llama3's scaling.
struct Llama3 {
  double factor, low, high, original;
};

// Wavelengths below original / high stay, those above original / low are divided, between it blends.
double llama3_scaled(double frequency, const Llama3& scaling) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength > scaling.original / scaling.low) return frequency / scaling.factor;
  if (wavelength < scaling.original / scaling.high) return frequency;
  const double smooth = (scaling.original / wavelength - scaling.low) / (scaling.high - scaling.low);
  return (1 - smooth) * frequency / scaling.factor + smooth * frequency;
}

// Pairs that turn more than `fast` times within the original length stay, those that turn less than `slow`
// times are divided, between it blends (Peng et al., YaRN, ICLR 2024).
struct Yarn {
  double factor, fast, slow, original, theta;
  bool truncates = true;

  void scale(std::vector<double>& frequencies) const {
    const auto pairs = static_cast<double>(frequencies.size());
    const auto pair_that_turns = [&](double times) {
      return pairs * std::log(original / (times * 2 * std::numbers::pi)) / std::log(theta);
    };
    double low = pair_that_turns(fast), high = pair_that_turns(slow);
    if (truncates) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, 2 * pairs - 1);
    if (low == high) high += 0.001;
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const double divided = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
      frequencies[i] *= 1 - divided + divided / factor;
    }
  }

  static double attention_factor(double factor, double scale) {
    return factor <= 1 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0;
  }
};

constexpr const char* kSlidingLayers = "sliding_attention";
constexpr int64_t kWidestHead = 1 << 16;

bool is_positive(const json& value) {
  return value.is_number() && value.get<double>() > 0 && value.get<double>() < kPositive.max;
}

}  // namespace

/// The object of config.json that holds the scaling, and what is read from it.
class ConfigReader::RotaryKeys {
 public:
  RotaryKeys(ConfigReader& config, std::string key, const json* object, const RotaryDefaults& defaults)
      : config_(config), key_(std::move(key)), object_(object), defaults_(defaults) {}

  std::string path(const std::string& field) const { return key_ + "." + field; }
  /// Null when missing or null.
  const json* find(const char* field) const {
    if (object_ == nullptr) return nullptr;
    const auto found = object_->find(field);
    return found == object_->end() || found->is_null() ? nullptr : &*found;
  }
  double positive(const char* field, std::optional<double> fallback = std::nullopt) const {
    const json* value = find(field);
    if (value == nullptr && fallback) return *fallback;
    if (value != nullptr && is_positive(*value)) return value->get<double>();
    config_.wrong(path(field), kPositive.text, value == nullptr ? json() : *value);
    return fallback.value_or(1.0);
  }
  /// The type's name, or "default" with a problem for one that is not known.
  std::string type() const {
    const json* value = find("rope_type") != nullptr ? find("rope_type") : find("type");
    if (value == nullptr) return "default";
    const std::vector<std::string> known = {"default", "linear", "dynamic", "llama3", "yarn", "longrope"};
    std::string name = value->is_string() ? value->get<std::string>() : "";
    // Older files of Phi-3.
    if (config_.type_is("phi3") && (name == "su" || name == "yarn")) name = "longrope";
    if (std::find(known.begin(), known.end(), name) != known.end()) return name;
    config_.wrong(path("rope_type"), "default, linear, dynamic, llama3, yarn or longrope", *value,
                  did_you_mean(name, known));
    return "default";
  }
  double longest() const { return static_cast<double>(config_.size("max_position_embeddings")); }
  /// The length that the model was trained for before its angles were stretched.
  double original() const {
    constexpr const char* kOriginal = "original_max_position_embeddings";
    if (config_.find(kOriginal) != nullptr || defaults_.original_length > 0)
      return static_cast<double>(config_.size(kOriginal, defaults_.original_length));
    return positive(kOriginal, std::max(longest(), 1.0));
  }
  double factor_by_lengths() const {
    return find("factor") != nullptr ? positive("factor") : longest() / original();
  }
  std::vector<double> factors(const char* field, size_t count) const {
    const json* value = find(field);
    if (value != nullptr && value->is_array() && value->size() == count &&
        std::all_of(value->begin(), value->end(), is_positive))
      return value->get<std::vector<double>>();
    config_.wrong(path(field), fmt::format("a list of {} positive numbers", count),
                  value == nullptr ? json() : *value);
    return std::vector<double>(count, 1.0);
  }

 private:
  ConfigReader& config_;
  std::string key_;
  const json* object_;
  const RotaryDefaults& defaults_;
};

// Older files call the type `type`; newer ones keep everything in rope_parameters. rope_scaling wins in
// transformers 5 where both are given.
RotarySpec ConfigReader::rotary(int64_t head_dim, const RotaryDefaults& defaults) {
  const std::string key = find("rope_scaling") != nullptr      ? "rope_scaling"
                          : find("rope_parameters") != nullptr ? "rope_parameters"
                                                               : "";
  const json* scaling = key.empty() ? nullptr : find(key);
  double theta = defaults.kind == kSlidingLayers ? defaults.theta : real("rope_theta", defaults.theta);
  if (scaling != nullptr && !scaling->is_object()) {
    wrong(key, "an object or null", *scaling);
    scaling = nullptr;
  }
  // Older files have one set of keys, which is that of the layers that do not slide.
  const bool is_divided = scaling != nullptr && scaling->contains("full_attention");
  if (!defaults.kind.empty() && scaling != nullptr) {
    scaling = is_divided && scaling->contains(defaults.kind) ? &(*scaling)[defaults.kind]
              : defaults.kind == kSlidingLayers              ? nullptr
                                                             : scaling;
  }
  if (scaling != nullptr && !scaling->is_object()) {
    if (!scaling->is_null()) wrong(key + "." + defaults.kind, "an object", *scaling);
    scaling = nullptr;
  }
  const RotaryKeys keys(*this, key, scaling, defaults);
  if (scaling != nullptr) {
    theta = keys.positive("rope_theta", theta);
    say_if_different(key + ".rope_theta", "rope_theta");
    say_if_different(key + ".rope_type", key + ".type");
    if (key == "rope_scaling") say_if_different("rope_scaling", "rope_parameters");
  }
  // There is a frequency for every two of its elements.
  if (head_dim > kWidestHead) {
    problem("head_dim", fmt::format("expected heads of at most {}, found {}", kWidestHead, head_dim));
    return {};
  }
  int64_t turned = head_dim;
  if (defaults.may_be_partial) {
    const double part = keys.positive("partial_rotary_factor", real("partial_rotary_factor", 1.0));
    turned = static_cast<int64_t>(std::min(part, 1.0) * static_cast<double>(head_dim));
  }
  if (turned <= 0 || turned % 2 != 0) {
    if (turned != head_dim || turned <= 0)
      problem("partial_rotary_factor",
              fmt::format("expected a factor that turns an even number of elements of a head of {}, found {}",
                          head_dim, turned));
    return {};
  }
  RotarySpec spec;
  spec.frequencies = rotary_frequencies(turned, theta);
  spec.theta = theta;
  if (scaling != nullptr) scale_rotary(spec, keys, theta);
  return spec;
}

void ConfigReader::scale_rotary(RotarySpec& spec, const RotaryKeys& keys, double theta) {
  const std::string type = spec.rule = keys.type();
  std::vector<double>& frequencies = spec.frequencies;
  if (type == "linear") {
    spec.factor = keys.positive("factor");
    for (double& frequency : frequencies) frequency /= spec.factor;
  } else if (type == "dynamic") {
    // It stretches sequences longer than max_position_embeddings, which are refused; shorter ones are as they
    // are.
    keys.positive("factor");
  } else if (type == "llama3") {
    const Llama3 llama3{keys.positive("factor"), keys.positive("low_freq_factor"),
                        keys.positive("high_freq_factor"), keys.original()};
    if (llama3.high <= llama3.low) {
      return problem(
          keys.path("high_freq_factor"),
          fmt::format("expected more than low_freq_factor = {}, found {}", llama3.low, llama3.high));
    }
    for (double& frequency : frequencies) frequency = llama3_scaled(frequency, llama3);
    spec.factor = llama3.factor;
    spec.original_length = static_cast<int64_t>(llama3.original);
  } else if (type == "yarn") {
    Yarn yarn{keys.factor_by_lengths(), keys.positive("beta_fast", 32.0), keys.positive("beta_slow", 1.0),
              keys.original(), theta};
    const json* truncate = keys.find("truncate");
    if (truncate != nullptr && !truncate->is_boolean())
      wrong(keys.path("truncate"), "true or false", *truncate);
    yarn.truncates = truncate == nullptr || *truncate != false;
    const bool has_scales = keys.find("mscale") != nullptr && keys.find("mscale_all_dim") != nullptr;
    const double usual = has_scales ? Yarn::attention_factor(yarn.factor, keys.positive("mscale")) /
                                          Yarn::attention_factor(yarn.factor, keys.positive("mscale_all_dim"))
                                    : Yarn::attention_factor(yarn.factor, 1.0);
    spec.attention_factor = keys.positive("attention_factor", usual);
    yarn.scale(frequencies);
    spec.factor = yarn.factor;
    spec.original_length = static_cast<int64_t>(yarn.original);
  } else if (type == "longrope") {
    const double original = keys.original();
    spec.factor = keys.factor_by_lengths();
    const double usual = spec.factor <= 1 ? 1.0 : std::sqrt(1 + std::log(spec.factor) / std::log(original));
    spec.attention_factor = keys.positive("attention_factor", usual);
    spec.original_length = static_cast<int64_t>(original);
    spec.long_frequencies = frequencies;
    const std::vector<double> shorter = keys.factors("short_factor", frequencies.size()),
                              longer = keys.factors("long_factor", frequencies.size());
    for (size_t i = 0; i < frequencies.size(); ++i) {
      spec.long_frequencies[i] = frequencies[i] / longer[i];
      frequencies[i] /= shorter[i];
    }
  }
}

}  // namespace msplora::detail
