#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "adapters/method.h"
#include "adapters/share_plan.h"
#include "msplora/adapters/adapter.h"

namespace msplora::detail {

/// The factors of one sharing group.
struct GroupFactors {
  int64_t rank = 0;
  double scaling = 1.0;
  double dropout = 0.0;
  std::string down_name;  // [rank, in], named under the path of the owner
  std::string up_name;    // [out, rank]
};

/// A method whose update is a sum of low-rank terms, as data: computed from options and shapes, without
/// tensors.
struct LowRankLayout {
  SharePlan plan;
  std::vector<GroupFactors> factors;  // parallel to plan.groups

  std::vector<TensorSpec> tensors(const std::vector<Site>& sites) const;
};

/// The plan of method lora: one pair of factors a site, rank_pattern and alpha_pattern applied. Other methods
/// that train these factors in their own way start from it, so that they start from the same numbers.
LowRankLayout lora_layout(const AdapterConfig& config, const std::vector<Site>& sites);
/// Checks the options that lora_layout reads and lists its tensors.
std::vector<TensorSpec> lora_tensors(const PlanInput& input, ErrorList& errors);

/// alpha / r, or alpha / sqrt(r) with rsLoRA.
double scaling_of(double alpha, int64_t rank, bool use_rslora);

/// Adds one error listing compactly the sites with a dimension below `rank`.
void check_rank(const std::string& where, int64_t rank, const std::vector<Site>& sites, ErrorList& errors);

/// The dropout stream of one site and level. It is named after the site, not after the owner of the factors:
/// layers that share factors draw masks of their own.
uint64_t dropout_stream(const Site& site, int64_t level);

/// Adapter of a LowRankLayout. Initial factors are those of initial_factors.h, drawn from (seed, tensor
/// name); with lora_plus_ratio, `up` learns faster by that factor (LoRA+, arXiv 2402.12354).
class LowRankAdapter : public Adapter {
 public:
  LowRankAdapter(MethodInput input, LowRankLayout layout);

  std::vector<LowRankTerm> terms(size_t site_index) const override;
  std::vector<size_t> levels_of_terms(size_t site_index) const override;
  AdapterState state(const std::string& optimizer = {}) const override;

 protected:
  LowRankLayout layout_;
  std::vector<at::Tensor> downs_, ups_;  // parallel to layout_.plan.groups
};

}  // namespace msplora::detail
