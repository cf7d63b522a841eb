#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

namespace msplora::detail {

/// Layers 0..n-1 in groups that only ever grow together (ASLoRA). A group goes by its highest layer.
class LayerGroups {
 public:
  explicit LayerGroups(size_t layers);

  size_t layers() const { return top_.size(); }
  /// The highest layer of the layer's group.
  size_t top(size_t layer) const { return top_[layer]; }
  /// The highest layer of every group, rising.
  std::vector<size_t> tops() const;

  /// Puts the group of the top `lower` into that of the top `upper`.
  void merge(size_t lower, size_t upper);

  /// Takes over top(layer) of every layer. Returns false, changing nothing, when these are no groups.
  bool assign(const std::vector<size_t>& tops);

 private:
  std::vector<size_t> top_;
};

struct LayerPair {
  size_t lower = 0, upper = 0;  // tops
  double distance = 0.0;
};

/// The pair of groups with the smallest distance: of neighbouring groups (in the order of their tops), or of
/// any two. The first in the order of (lower, upper) wins a tie. Nothing when one group is left.
std::optional<LayerPair> closest_pair(const LayerGroups& groups, bool neighbours_only,
                                      const std::function<double(size_t lower, size_t upper)>& distance);

}  // namespace msplora::detail
