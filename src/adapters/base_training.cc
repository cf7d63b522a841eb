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

Method base_training(std::function<bool(const std::string&)> trains_parameter) {
  Method method;
  method.traits = {.uses_sites = false, .takes_dropout = false};
  method.unused = {{"rank"}, {"alpha"}, {"dropout"}, {"init"}, {"use_rslora"}};
  method.tensors = check_bias;
  method.create = [](MethodInput in) { return std::make_unique<BaseTraining>(std::move(in)); };
  method.ranks = [](const AdapterConfig&, int64_t, int64_t) { return std::vector<int64_t>(); };
  method.trains_parameter = std::move(trains_parameter);
  method.peft.no_lora_form = [](const Adapter& adapter) {
    return fmt::format("method `{}` changes parameters of the base themselves, not by low-rank terms",
                       adapter.config().method);
  };
  return method;
}

}  // namespace

Method full_method() {
  Method method = base_training([](const std::string&) { return true; });
  method.name = "full";
  method.base_part = "parameters of the base";
  method.summary = "Every parameter of the base is trained (full fine-tuning)";
  method.traits.whole_base = true;
  method.line = [](const AdapterConfig&) { return "full: every parameter is trained"; };
  return method;
}

Method bitfit_method() {
  Method method = base_training([](const std::string& name) { return matches_suffix(name, "bias"); });
  method.name = "bitfit";
  method.base_part = "biases";
  method.summary = "The biases of the base are trained (Ben Zaken et al. 2021)";
  method.line = [](const AdapterConfig&) { return "bitfit: the biases are trained, and the head"; };
  return method;
}

}  // namespace msplora::detail
