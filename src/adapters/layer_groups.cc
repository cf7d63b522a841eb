#include "adapters/layer_groups.h"

#include <numeric>

namespace msplora::detail {

LayerGroups::LayerGroups(size_t layers) : top_(layers) {
  std::iota(top_.begin(), top_.end(), size_t{0});
}

std::vector<size_t> LayerGroups::tops() const {
  std::vector<size_t> tops;
  for (size_t layer = 0; layer < top_.size(); ++layer) {
    if (top_[layer] == layer) tops.push_back(layer);
  }
  return tops;
}

void LayerGroups::merge(size_t lower, size_t upper) {
  for (size_t& top : top_) {
    if (top == lower) top = upper;
  }
}

bool LayerGroups::assign(const std::vector<size_t>& tops) {
  if (tops.size() != top_.size()) return false;
  for (size_t layer = 0; layer < tops.size(); ++layer) {
    const size_t top = tops[layer];
    if (top < layer || top >= tops.size() || tops[top] != top) return false;
  }
  top_ = tops;
  return true;
}

std::optional<LayerPair> closest_pair(const LayerGroups& groups, bool neighbours_only,
                                      const std::function<double(size_t lower, size_t upper)>& distance) {
  const std::vector<size_t> tops = groups.tops();
  std::optional<LayerPair> best;
  for (size_t i = 0; i + 1 < tops.size(); ++i) {
    const size_t end = neighbours_only ? i + 2 : tops.size();
    for (size_t j = i + 1; j < end; ++j) {
      const double d = distance(tops[i], tops[j]);
      if (!best || d < best->distance) best = LayerPair{tops[i], tops[j], d};
    }
  }
  return best;
}

}  // namespace msplora::detail
