#pragma once

#include "msplora/adapters/adapter.h"

namespace msplora::detail {

/// An adapter whose terms are computed anew in every forward pass, from tensors that are no factors
/// themselves or that change within a run.
class ComputedLowRank : public Adapter {
 public:
  using Adapter::Adapter;

  SiteUpdate update_of(size_t site_index) const override {
    SiteUpdate update;
    update.computed_low_rank = [this, site_index] { return terms(site_index); };
    return update;
  }
};

}  // namespace msplora::detail
