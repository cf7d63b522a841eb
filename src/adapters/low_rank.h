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

/// alpha / r, or alpha / sqrt(r) with rsLoRA.
double scaling_of(double alpha, int64_t rank, bool use_rslora);

/// Adds one error listing compactly the sites with a dimension below `rank`.
void check_rank(const std::string& where, int64_t rank, const std::vector<Site>& sites, ErrorList& errors);

/// Adapter of a LowRankLayout. Initial factors: down ~ U(-1/sqrt(in), 1/sqrt(in)) (PEFT's default, Kaiming
/// with a = sqrt(5)) or N(0, 1/r) (standard deviation 1/r, "gaussian"), up = 0; drawn from (seed, tensor
/// name).
class LowRankAdapter : public Adapter {
 public:
  LowRankAdapter(MethodInput input, LowRankLayout layout);

  std::vector<LowRankTerm> terms(size_t site_index) const override;
  nlohmann::json plan() const override;

 protected:
  LowRankLayout layout_;

 private:
  std::vector<at::Tensor> downs_, ups_;  // parallel to layout_.plan.groups
};

}  // namespace msplora::detail
