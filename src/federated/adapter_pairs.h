#pragma once

#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/federated/aggregator.h"

namespace msplora::detail {

/// A low-rank product of an adapter and where it acts. LoRA has one for each site; of factors that several
/// layers share there is one.
struct AdapterPair {
  std::string name;                // the module of the factors' owner
  std::string down_name, up_name;  // of the trainable tensors
  at::Tensor down, up;             // aliasing them
  double scaling = 1.0;
  std::vector<size_t> sites;
};

/// Throws Error{kConfig} when the update of a site is more than products of trainable factors.
std::vector<AdapterPair> pairs_of(const Adapter& adapter);

/// Heads and biases.
std::vector<NamedTensor> others_of(const Adapter& adapter);

/// A copy of the pair in `dtype`.
FactorPair copy_of(const AdapterPair& pair, at::ScalarType dtype);
FactorPair converted(const FactorPair& pair, at::ScalarType dtype);

}  // namespace msplora::detail
