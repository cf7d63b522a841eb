#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "analysis/site_analysis.h"
#include "analysis/site_form.h"
#include "msplora/analysis/report.h"

namespace msplora::analysis {

/// The sites of one stack and what was found of each.
struct StackInput {
  std::vector<const SiteForm*> forms;
  std::vector<const SiteSpaces*> spaces;
  at::Tensor
      inner;  // [sites * levels, sites * levels]: inner products, sites first; undefined without factors
};

/// Inner products of all levels of all sites of a stack; undefined where one of them has no factors.
at::Tensor stack_inner_products(const std::vector<const SiteForm*>& forms);

/// The comparisons between layers and between levels; `sites`, `layers` and shape are the caller's.
StackAnalysis analyze_stack(const StackInput& input, const std::vector<std::string>& levels,
                            const Options& options);

/// Mean |cosine| of independent updates with Gaussian factors of rank 2 or more; of rank 1 it is 0.8 of that.
double random_cosine(int64_t out, int64_t in);

}  // namespace msplora::analysis
