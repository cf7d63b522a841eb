// VeRA (arXiv 2310.11454): y = W x + b + diag(b_l) B diag(d_l) A dropout(x). A and B are random, frozen and
// the same for all modules, which take the rows and columns that they need; trained are two vectors for each
// module. A and B are those that PEFT draws for `projection_prng_key`, bit for bit, so a file may leave them
// out.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "adapters/computed_low_rank.h"
#include "adapters/initial.h"
#include "adapters/low_rank.h"
#include "adapters/method.h"
#include "adapters/peft_config.h"

namespace msplora::detail {
namespace {

struct VeraOptions {
  int64_t projection_prng_key = 0;
  bool save_projection = true;
  double d_initial = 0.1;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("projection_prng_key", projection_prng_key,
            "Seed of the frozen A and B, which are PEFT's of this key", between(0, 4294967295.0));
    visitor("save_projection", save_projection,
            "Write A and B into adapter files; false: whoever reads them draws them again");
    visitor("d_initial", d_initial, "Initial value of the vectors d; b begins at 0");
  }
};

std::string d_name(const Site& site) {
  return site.path + ".vera_lambda_d";
}
std::string b_name(const Site& site) {
  return site.path + ".vera_lambda_b";
}

/// One number after the other from one Mersenne Twister, as PyTorch fills a tensor of float32: 24 bits each,
/// uniform within sqrt(6 / columns).
class ProjectionDraw {
 public:
  explicit ProjectionDraw(int64_t key) : generator_(static_cast<uint32_t>(key)) {}

  at::Tensor matrix(int64_t rows, int64_t columns) {
    const at::Tensor values = at::empty({rows, columns}, at::kFloat);
    const double bound = std::sqrt(3.0) * (std::sqrt(2.0) / std::sqrt(static_cast<double>(columns)));
    const auto low = static_cast<float>(-bound), range = static_cast<float>(bound) - low;
    float* to = values.data_ptr<float>();
    for (int64_t i = 0; i < rows * columns; ++i) {
      const auto unit = static_cast<float>(generator_() & 0xFFFFFFu) * 0x1p-24f;
      to[i] = std::fma(unit, range, low);  // rounded once, as there
    }
    return values;
  }

 private:
  std::mt19937 generator_;
};

std::vector<TensorSpec> vera_tensors(const PlanInput& input, ErrorList&) {
  std::vector<TensorSpec> specs;
  for (const Site& site : input.sites) {
    specs.push_back({d_name(site), {input.config.rank}, 0, site.layer});
    specs.push_back({b_name(site), {site.out_features}, 0, site.layer});
  }
  return specs;
}

class VeraAdapter : public ComputedLowRank {
 public:
  explicit VeraAdapter(MethodInput input)
      : ComputedLowRank(std::move(input.config), std::move(input.target), std::move(input.sites)) {
    const int64_t rank = config_.rank;
    int64_t in = 0, out = 0;
    for (const Site& site : sites_) {
      in = std::max(in, site.in_features);
      out = std::max(out, site.out_features);
      const at::TensorOptions form = factor_options(site);
      ds_.push_back(add_trainable(d_name(site), at::full({rank}, options().d_initial, form)));
      bs_.push_back(add_trainable(b_name(site), at::zeros({site.out_features}, form)));
    }
    ProjectionDraw draw(options().projection_prng_key);
    down_ = draw.matrix(rank, in).to(factor_options(sites_.front()));
    up_ = draw.matrix(out, rank).to(factor_options(sites_.front()));
  }

  std::vector<LowRankTerm> terms(size_t site_index) const override {
    const Site& site = sites_.at(site_index);
    LowRankTerm term;
    term.down = down_.narrow(1, 0, site.in_features) * ds_[site_index].unsqueeze(1);
    term.up = up_.narrow(0, 0, site.out_features) * bs_[site_index].unsqueeze(1);
    term.dropout = config_.dropout;
    term.dropout_stream = dropout_stream(site, 0);
    return {term};
  }

  AdapterState state(const std::string& optimizer = {}) const override {
    AdapterState state;
    if (options().save_projection) state.tensors = {{"vera_A", down_}, {"vera_B", up_}};
    return state;
  }

  PeftTuner peft_tuner() const {
    PeftTuner tuner;
    tuner.options = {{"r", config_.rank},
                     {"projection_prng_key", options().projection_prng_key},
                     {"save_projection", options().save_projection},
                     {"d_initial", options().d_initial},
                     {"vera_dropout", config_.dropout},
                     {"init_weights", true}};
    tuner.shared = state().tensors;
    for (size_t i = 0; i < sites_.size(); ++i) {
      tuner.tensors.push_back({d_name(sites_[i]), ds_[i]});
      tuner.tensors.push_back({b_name(sites_[i]), bs_[i]});
    }
    return tuner;
  }

 private:
  const VeraOptions& options() const { return config_.own<VeraOptions>(); }

  at::Tensor down_, up_;             // A [rank, widest input], B [widest output, rank]
  std::vector<at::Tensor> ds_, bs_;  // parallel to sites()
};

void read_peft_vera(PeftReader& reader, PeftConfig& peft) {
  VeraOptions& o = peft.config.own<VeraOptions>();
  reader.read("projection_prng_key", o.projection_prng_key);
  reader.read("save_projection", o.save_projection);
  reader.read("d_initial", o.d_initial);
  reader.read("vera_dropout", peft.config.dropout);
  std::optional<std::string> pattern;
  reader.read_names("layers_pattern", peft.config.layers_pattern, pattern);
  if (pattern && !pattern->empty()) peft.config.layers_pattern = {*pattern};
  reader.read_layers(peft.config.layers_to_transform);
}

}  // namespace

Method vera_method() {
  Method method;
  method.name = "vera";
  method.summary = "Two trained vectors for each module around one frozen random pair of factors (2023)";
  method.options = OptionGroup(VeraOptions(), "Options of method vera");
  method.unused = {{"alpha"}, {"init"}, {"use_rslora"}};
  method.tensors = vera_tensors;
  method.create = [](MethodInput in) { return std::make_unique<VeraAdapter>(std::move(in)); };
  method.line = [](const AdapterConfig& config) {
    const VeraOptions& o = config.own<VeraOptions>();
    return fmt::format("vera, rank {}, d from {}, projection {}{}", config.rank, o.d_initial,
                       o.projection_prng_key,
                       config.dropout > 0 ? fmt::format(", dropout {}", config.dropout) : "");
  };
  method.peft = {
      // Its terms would fit LoRA's files, which are larger by far.
      .no_lora_form = [](const Adapter&) { return "PEFT has VeRA itself"; },
      .type = "VERA",
      .read = read_peft_vera,
      .write = [](const Adapter& adapter) { return dynamic_cast<const VeraAdapter&>(adapter).peft_tuner(); },
      .keys = {{"dropout", "vera_dropout"},
               {"vera.projection_prng_key", "projection_prng_key"},
               {"vera.d_initial", "d_initial"}},
      .mark = ".vera_lambda_",
      .shared = {"vera_A", "vera_B"}};
  return method;
}

}  // namespace msplora::detail
