// Methods that train parameters of the base itself, the baselines of every comparison: `full` trains all of
// them, `bitfit` the biases (Ben Zaken et al., arXiv 2106.10199).
#include <fmt/format.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "adapters/method.h"
#include "adapters/target_modules.h"

namespace msplora::detail {
namespace {

class BaseTraining : public Adapter {
 public:
  explicit BaseTraining(MethodInput in) : Adapter(std::move(in.config), std::move(in.target), {}) {}

  std::vector<LowRankTerm> terms(size_t) const override { return {}; }
  std::string lora_form_refusal() const override {
    return fmt::format("method `{}` changes parameters of the base themselves, not by low-rank terms",
                       config().method);
  }
};

std::vector<TensorSpec> check_bias(const PlanInput& input, ErrorList& errors) {
  if (input.config.bias != "none") {
    errors.add("adapter.bias",
               fmt::format("`{}`, but method `{}` trains every bias already", input.config.bias,
                           input.config.method),
               "bias: none");
  }
  return {};
}

Method base_training(MethodInfo info, std::function<bool(const std::string&)> trains_parameter) {
  return {std::move(info),
          false,
          check_bias,
          [](MethodInput in) { return std::make_unique<BaseTraining>(std::move(in)); },
          {},
          std::move(trains_parameter)};
}

}  // namespace

Method full_method() {
  return base_training(
      {"full", "Every parameter of the base is trained (full fine-tuning)", /*takes_dropout=*/false},
      [](const std::string&) { return true; });
}

Method bitfit_method() {
  return base_training(
      {"bitfit", "The biases of the base are trained (Ben Zaken et al. 2021)", /*takes_dropout=*/false},
      [](const std::string& name) { return matches_suffix(name, "bias"); });
}

}  // namespace msplora::detail
