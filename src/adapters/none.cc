// Method `none`: the base stays as it is; heads, modules_to_save and biases are trained.
#include "adapters/method.h"

#include <memory>
#include <string>
#include <vector>

namespace msplora::detail {
namespace {

class HeadOnly : public Adapter {
 public:
  explicit HeadOnly(MethodInput in) : Adapter(std::move(in.config), std::move(in.target), {}) {}

  std::vector<LowRankTerm> terms(size_t) const override { return {}; }
};

}  // namespace

Method none_method() {
  Method method;
  method.name = "none";
  method.summary = "No update of the layers: heads, modules_to_save and biases alone are trained";
  method.traits = {.uses_sites = false, .takes_dropout = false};
  method.unused = {{"rank"}, {"alpha"}, {"dropout"}, {"init"}, {"use_rslora"}};
  method.tensors = [](const PlanInput& input, ErrorList& errors) -> std::vector<TensorSpec> {
    if (input.config.bias == "lora_only") {
      errors.add("adapter.bias", "`lora_only`, but method `none` adapts no module", "bias: none or all");
    }
    return {};
  };
  method.create = [](MethodInput in) { return std::make_unique<HeadOnly>(std::move(in)); };
  method.peft.no_lora_form = [](const Adapter&) { return "method `none` has no low-rank update"; };
  method.line = [](const AdapterConfig&) { return "none: the layers stay as they are, the head is trained"; };
  method.ranks = [](const AdapterConfig&, int64_t, int64_t) { return std::vector<int64_t>(); };
  return method;
}

}  // namespace msplora::detail
