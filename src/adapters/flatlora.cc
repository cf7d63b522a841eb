// Flat-LoRA (arXiv 2409.14396): LoRA trained for E_e L(W + s B A + e), with Gaussian noise e on the merged
// weight W' = W + s B A. Row i of e has the standard deviation sigma |W'_i| / sqrt(n) (eq. 7); sigma rises
// with the training.
#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "adapters/initial.h"
#include "adapters/low_rank.h"
#include "adapters/method.h"
#include "msplora/core/random.h"

namespace msplora::detail {
namespace {

struct FlatLoraOptions {
  double rho = 0.05;
  std::string schedule = "cosine";
  bool per_micro_batch = false;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("rho", rho,
            "Strength of the noise at the end of the schedule: standard deviation relative to a weight row; "
            "0: plain LoRA",
            at_least(0));
    visitor("schedule", schedule,
            "How the strength rises from 0 to rho over the training; `constant` starts at rho",
            one_of({"cosine", "linear", "constant"}));
    visitor("per_micro_batch", per_micro_batch,
            "Draw new noise for each micro-batch, not for each optimizer step");
  }
};

/// Strength of the noise in the step that follows `progress`.
double noise_level(const FlatLoraOptions& options, const TrainingProgress& progress) {
  if (options.schedule == "constant") return options.rho;
  const double done =
      progress.total_steps > 0
          ? std::min(1.0, static_cast<double>(progress.step) / static_cast<double>(progress.total_steps))
          : 0.0;
  if (options.schedule == "linear") return options.rho * done;
  return options.rho * 0.5 * (1.0 - std::cos(M_PI * done));
}

class FlatLoraAdapter : public LowRankAdapter {
 public:
  FlatLoraAdapter(MethodInput input, LowRankLayout layout)
      : LowRankAdapter(std::move(input), std::move(layout)) {
    const c10::NoGradGuard no_grad;
    for (const Site& site : sites_) {
      auto noise = std::make_shared<NoiseSource>();
      noise->stream = hash_name(site.path + ".weight_noise");
      noise->per_micro_batch = config_.own<FlatLoraOptions>().per_micro_batch;
      noises_.push_back(std::move(noise));
      if (site.linear == nullptr) continue;  // shapes alone: nothing will be trained
      base_squares_.push_back(wide(site.linear->weight->values()).square().sum(1));
    }
  }

  SiteUpdate update_of(size_t site_index) const override {
    SiteUpdate update = LowRankAdapter::update_of(site_index);
    update.noise = noises_.at(site_index);
    return update;
  }

  StepPlan begin_step(const TrainingProgress& progress) override {
    const double level = noise_level(config_.own<FlatLoraOptions>(), progress);
    const c10::NoGradGuard no_grad;
    for (size_t i = 0; i < sites_.size(); ++i) {
      const double factor = level / std::sqrt(static_cast<double>(sites_[i].in_features));
      // A new tensor: a backward pass may still hold the one before.
      noises_[i]->deviations = level > 0 ? (row_norms(i) * factor).to(at::kFloat).contiguous() : at::Tensor();
    }
    return {};
  }

 private:
  /// |W'_i| of every row, without W': |w_i|² + 2 s b_i (A w_i) + s² b_i (A Aᵀ) b_iᵀ.
  at::Tensor row_norms(size_t site_index) const {
    const LowRankTerm term = terms(site_index).at(0);
    const at::Tensor weight = wide(sites_[site_index].linear->weight->values());
    const at::Tensor cross = at::mm(weight, term.down.t());
    const at::Tensor gram = at::mm(term.down, term.down.t());
    const at::Tensor change =
        cross * (2.0 * term.scaling) + at::mm(term.up, gram) * (term.scaling * term.scaling);
    return (base_squares_[site_index] + (change * term.up).sum(1)).clamp_min(0.0).sqrt();
  }

  std::vector<std::shared_ptr<NoiseSource>> noises_;  // parallel to sites_
  std::vector<at::Tensor> base_squares_;              // squared norms of the rows of the stored weights
};

}  // namespace

Method flatlora_method() {
  Method method;
  method.name = "flatlora";
  method.summary = "LoRA trained under noise on the merged weight, for flat minima (2024)";
  method.traits = {.patterns = true};
  method.options = OptionGroup(FlatLoraOptions(), "Options of method flatlora");
  method.tensors = lora_tensors;
  method.create = [](MethodInput in) {
    LowRankLayout layout = lora_layout(in.config, in.sites);
    return std::make_unique<FlatLoraAdapter>(std::move(in), std::move(layout));
  };
  method.peft.keeps_lora_options = true;
  method.line = [](const AdapterConfig& config) {
    const FlatLoraOptions& o = config.own<FlatLoraOptions>();
    return lora_line(config, fmt::format(", noise {} ({})", o.rho, o.schedule));
  };
  return method;
}

}  // namespace msplora::detail
