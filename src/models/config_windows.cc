#include <fmt/format.h>

#include <algorithm>

#include "models/config_reader.h"

/// Which layers slide, and how far.
namespace msplora::detail {

using nlohmann::json;

namespace {

// What Hugging Face's classes take when the key is missing.
constexpr int64_t kDefaultWindow = 4096, kDefaultMaxWindowLayers = 28;
constexpr const char* kSlides = "sliding_attention";
constexpr const char* kDoesNotSlide = "full_attention";

}  // namespace

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
