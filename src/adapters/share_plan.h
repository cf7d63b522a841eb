#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "msplora/nn/linear.h"

namespace msplora::detail {

/// Sites that use one pair of factors at one level. The owner names the tensors.
struct ShareGroup {
  int64_t level = 0;
  size_t owner = 0;             // index into the sites; the member with the smallest layer index
  std::vector<size_t> members;  // indices into the sites, the owner included
};

/// Which sites share what: data, made once; nothing in a forward pass knows about sharing.
struct SharePlan {
  int64_t levels = 0;
  std::vector<ShareGroup> groups;             // ordered by owner, then level
  std::vector<std::vector<size_t>> group_of;  // [site][level] -> index into groups
  bool owner_only = false;                    // factors act at their owner alone

  /// Whether the factors of `level` act at `site`.
  bool acts(size_t site, int64_t level) const {
    return !owner_only || groups[group_of[site][static_cast<size_t>(level)]].owner == site;
  }
  /// Per level, the sorted layer indices that own factors.
  std::vector<std::vector<int64_t>> owner_layers(const std::vector<Site>& sites) const;
};

/// Names the stack that a site belongs to: sites with the same path but for the layer index, and the same
/// shape. Only they share factors.
std::string stack_key(const Site& site);

/// Every site for itself, one level (LoRA).
SharePlan separate_plan(const std::vector<Site>& sites);

/// The pyramid of MSPLoRA (arXiv 2503.21838). Only sites of one stack share: the same path up to the layer
/// index, and the same shape. Level 0 is shared by the whole stack; the last level (of two or more) belongs
/// to each layer alone; between them layer l of the model's L lies in group floor(mid_groups * l / L), or in
/// that of `layer_groups`, which then has an entry for every layer. The owner of a group is its smallest
/// targeted layer, so layers_to_transform may leave out any layer.
SharePlan pyramid_plan(const std::vector<Site>& sites, int64_t num_layers, int64_t levels, int64_t mid_groups,
                       const std::vector<int64_t>& layer_groups = {});

}  // namespace msplora::detail
