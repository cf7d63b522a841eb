#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "analysis/site_form.h"
#include "analysis/spectrum.h"
#include "msplora/analysis/report.h"

namespace msplora::analysis {

/// The update of a site, whose directions are `whole`, beside its weight, which must be at hand.
BaseRelation base_relation(const SiteForm& form, const Directions& whole, const Options& options);

/// The first left singular vectors of W0 in their order, at least `count` of them, [out, >= count].
using LeadingVectors = std::function<at::Tensor(int64_t count)>;

/// For each column u_j of `leading` (left singular vectors of W0 + dW), max_i |<u_j, x_i>| over all `total`
/// left vectors x_i of W0 (intruder dimensions, arXiv 2410.21228), as far as `thresholds` ask: a value is
/// exact, or it lies on the same side of each of them.
///
/// No more vectors of W0 are asked for than are needed: once K are seen, what is left of u_j has the length
/// ρ = sqrt(1 - Σ <u_j, x_i>²), and no further cosine can be larger. `total` is the number of W0's rows; left
/// vectors beyond its rank count as 0.
std::vector<double> intruder_similarities(const at::Tensor& leading, int64_t total,
                                          const LeadingVectors& vectors,
                                          const std::vector<double>& thresholds);

/// How many similarities lie below each threshold.
std::vector<int64_t> count_intruders(const std::vector<double>& similarities,
                                     const std::vector<double>& thresholds);

}  // namespace msplora::analysis
