#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "msplora/adapters/adapter.h"

namespace msplora::detail {

/// A layer's tensors with the adapter added; the bias is undefined where it stays as it is.
struct MergedSite {
  at::Tensor weight, bias;
};
/// Of every site, what merge_adapter() would put in its place. Throws as that does.
std::vector<MergedSite> merged_sites(const Adapter& adapter, at::ScalarType stored_dtype);

}  // namespace msplora::detail
