#include "msplora/generation/stop_strings.h"

#include <algorithm>
#include <utility>

namespace msplora {

StopStrings::StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
  std::erase_if(strings_, [](const std::string& one) { return one.empty(); });
}

std::string StopStrings::take(std::string_view text) {
  if (has_stopped_) return {};
  held_ += text;
  size_t found = std::string::npos, open = held_.size();
  for (const std::string& stop : strings_) {
    found = std::min(found, held_.find(stop));
    // The longest end of the text that begins the string.
    for (size_t length = std::min(stop.size() - 1, held_.size()); length > 0; --length) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, length))) {
        open = std::min(open, held_.size() - length);
        break;
      }
    }
  }
  // The first that is whole ends the text, even where one that is not yet whole began earlier.
  has_stopped_ = found != std::string::npos;
  const size_t end = has_stopped_ ? found : open;
  std::string shown = held_.substr(0, end);
  held_.erase(0, end);
  if (has_stopped_) held_.clear();
  return shown;
}

std::string StopStrings::rest() {
  return std::exchange(held_, {});
}

}  // namespace msplora
