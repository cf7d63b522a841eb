#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "federated/adapter_pairs.h"
#include "msplora/federated/federation.h"

namespace msplora {

/// The pairs of an adapter of one configuration, without its tensors.
struct Federation::Layout {
  struct Pair {
    std::string name, down_name, up_name;
    int64_t rank = 0, in_features = 0, out_features = 0;
    double scaling = 1.0;
    std::vector<size_t> sites;
  };
  AdapterConfig config;
  std::vector<Pair> pairs;
};

/// What came out of a client's round.
struct Federation::LocalResult {
  ClientUpdate update;
  Message answer;       // empty when training failed
  std::string problem;  // why the update cannot be used, or ""
  double loss = 0.0;
  int64_t steps = 0, tokens = 0;
  double seconds = 0.0;
};

/// An adapter on the model, over what was merged into the base: each layer's update is the adapter's with the
/// merged products behind it, as terms that are not trained.
class Federation::AttachedAdapter {
 public:
  AttachedAdapter(std::unique_ptr<Adapter> adapter, const Layout& layout,
                  const std::vector<MergedProduct>& merged);
  ~AttachedAdapter();
  AttachedAdapter(const AttachedAdapter&) = delete;
  AttachedAdapter& operator=(const AttachedAdapter&) = delete;

  Adapter& adapter() { return *adapter_; }

 private:
  std::unique_ptr<Adapter> adapter_;
  std::vector<std::pair<Linear*, std::shared_ptr<const SiteUpdate>>> replaced_;
};

namespace detail {

/// up * down in `like`'s type with at most min(m, n) rows: a product of a larger rank becomes a dense matrix
/// beside an identity.
MergedProduct compact(const MergedProduct& product);
at::Tensor dense(const MergedProduct& product);

}  // namespace detail
}  // namespace msplora
