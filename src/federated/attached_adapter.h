#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/federated/federation.h"

namespace msplora::detail {

/// The pairs of an adapter of one configuration, without its tensors.
struct Layout {
  struct Pair {
    std::string name, down_name, up_name;
    int64_t rank = 0, in_features = 0, out_features = 0;
    double scaling = 1.0;
    std::vector<size_t> sites;
  };
  AdapterConfig config;
  std::vector<Pair> pairs;
};

/// An adapter on the model, filled with a message, over what was merged into the base: each layer's update is
/// the adapter's with the merged products behind it, as terms that are not trained. `merged` belongs to the
/// pairs of `layout`. `seed` draws what the message leaves out.
class AttachedAdapter {
 public:
  AttachedAdapter(const AdapterConfig& config, const AdapterTarget& target, uint64_t seed,
                  const Message& message, const Layout& layout, const std::vector<MergedProduct>& merged);
  ~AttachedAdapter();
  AttachedAdapter(const AttachedAdapter&) = delete;
  AttachedAdapter& operator=(const AttachedAdapter&) = delete;

  Adapter& adapter() { return *adapter_; }

 private:
  std::unique_ptr<Adapter> adapter_;
  std::vector<std::pair<Linear*, std::shared_ptr<const SiteUpdate>>> replaced_;
};

}  // namespace msplora::detail
