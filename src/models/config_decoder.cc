#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "models/config_reader.h"
#include "msplora/nn/decoder_functional.h"

/// The keys of decoders: rotary angles and sliding windows.
namespace msplora::detail {

using nlohmann::json;

namespace {

// What Hugging Face's classes take when the key is missing.
constexpr int64_t kDefaultWindow = 4096, kDefaultMaxWindowLayers = 28;
constexpr const char* kSlides = "sliding_attention";
constexpr const char* kDoesNotSlide = "full_attention";

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

}  // namespace

// Older files call the type `type`; newer ones keep everything in rope_parameters. rope_scaling wins in
// transformers 5 where both are given.
RotarySpec ConfigReader::rotary(int64_t head_dim, double default_theta, const std::string& kind) {
  const std::string key = find("rope_scaling") != nullptr      ? "rope_scaling"
                          : find("rope_parameters") != nullptr ? "rope_parameters"
                                                               : "";
  const json* scaling = key.empty() ? nullptr : find(key);
  double theta = kind == "sliding_attention" ? default_theta : real("rope_theta", default_theta);
  if (scaling != nullptr && !scaling->is_object()) {
    wrong(key, "an object or null", *scaling);
    scaling = nullptr;
  }
  // Older files have one set of keys, which is that of the layers that do not slide.
  const bool is_divided = scaling != nullptr && scaling->contains("full_attention");
  if (!kind.empty() && scaling != nullptr) {
    scaling = is_divided && scaling->contains(kind) ? &(*scaling)[kind] : kind == kSlides ? nullptr : scaling;
  }
  if (scaling != nullptr && !scaling->is_object()) {
    wrong(key + "." + kind, "an object", *scaling);
    scaling = nullptr;
  }
  if (scaling != nullptr) {
    const json inner = scaling->value("rope_theta", json());
    if (inner.is_number() && inner.get<double>() > 0) {
      theta = inner.get<double>();
    } else if (!inner.is_null()) {
      wrong(key + ".rope_theta", kPositive.text, inner);
    }
    say_if_different(key + ".rope_theta", "rope_theta");
    say_if_different(key + ".rope_type", key + ".type");
    if (key == "rope_scaling") say_if_different("rope_scaling", "rope_parameters");
  }
  if (head_dim <= 0 || head_dim % 2 != 0) return {};
  std::vector<double> frequencies = rotary_frequencies(head_dim, theta);
  return {scaling == nullptr ? frequencies : scaled(std::move(frequencies), key, *scaling)};
}

std::vector<double> ConfigReader::scaled(std::vector<double> frequencies, const std::string& key,
                                         const json& scaling) {
  const json type = scaling.value("rope_type", scaling.value("type", json("default")));
  const std::vector<std::string> known = {"default", "linear", "llama3"};
  const std::string name = type.is_string() ? type.get<std::string>() : "";
  if (std::find(known.begin(), known.end(), name) == known.end()) {
    wrong(key + ".rope_type", "default, linear or llama3", type, did_you_mean(name, known));
    return frequencies;
  }
  if (name == "default") return frequencies;
  const auto positive = [&](const char* field) {
    const json value = scaling.value(field, json());
    if (value.is_number() && value.get<double>() > 0) return value.get<double>();
    wrong(key + "." + field, kPositive.text, value);
    return 1.0;
  };
  const double factor = positive("factor");
  if (name == "linear") {
    for (double& frequency : frequencies) frequency /= factor;
    return frequencies;
  }
  const Llama3 llama3{factor, positive("low_freq_factor"), positive("high_freq_factor"),
                      positive("original_max_position_embeddings")};
  if (llama3.high <= llama3.low) {
    problem(key + ".high_freq_factor",
            fmt::format("expected more than low_freq_factor = {}, found {}", llama3.low, llama3.high));
    return frequencies;
  }
  for (double& frequency : frequencies) frequency = llama3_scaled(frequency, llama3);
  return frequencies;
}

// The window of the layers that slide; 0: there is none.
int64_t ConfigReader::sliding_window(WindowUse use) {
  if (use == WindowUse::kIfUsed && !flag("use_sliding_window", false)) return 0;
  if (!source_.contains("sliding_window")) return use == WindowUse::kIfGiven ? 0 : kDefaultWindow;
  const json* window = find("sliding_window");
  if (window == nullptr) return 0;
  if (window->is_number_integer() && saturated(*window) >= 1) return std::min(saturated(*window), kMaxSize);
  wrong("sliding_window", "a positive integer or null", *window);
  return 0;
}

std::vector<int64_t> ConfigReader::windows(int64_t window, const std::vector<bool>& slides, bool all_slide) {
  const json* types = find("layer_types");
  if (types != nullptr && (!types->is_array() || types->size() != slides.size())) {
    wrong("layer_types", fmt::format("a list of {} names, one a layer", slides.size()), *types);
    types = nullptr;
  }
  std::vector<int64_t> windows;
  for (size_t i = 0; i < slides.size(); ++i) {
    bool is_sliding = slides[i];
    if (types != nullptr) {
      const json& type = (*types)[i];
      const std::string key = fmt::format("layer_types[{}]", i);
      is_sliding = type == kSlides;
      if (!is_sliding && type != kDoesNotSlide) {
        wrong(key, "sliding_attention or full_attention", type);
      } else if (is_sliding && window == 0) {
        wrong(key, "full_attention, as no sliding_window is in use", type,
              all_slide ? "" : "a window needs use_sliding_window: true");
      } else if (!is_sliding && window > 0 && all_slide) {
        wrong(key, "sliding_attention, as every layer of this model slides", type);
      }
    }
    windows.push_back(is_sliding ? window : 0);
  }
  return windows;
}

std::vector<bool> ConfigReader::layers_from_max_window_layers(int64_t num_layers) {
  const int64_t first = size("max_window_layers", kDefaultMaxWindowLayers, 0);
  std::vector<bool> slides;
  for (int64_t i = 0; i < num_layers; ++i) slides.push_back(i >= first);
  return slides;
}

}  // namespace msplora::detail
