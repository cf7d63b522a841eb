// GLoRA (arXiv 2306.07967): y = (W0 + W0 * A + B) x + b0 + b0 * D + E + W0 C, products with * element-wise.
// Every support is low-rank, a vector, a number or absent. With `search` all forms are trained at once, one
// drawn for each layer and step, as slices of the same tensors, and the best ones are searched at the end.
#include <ATen/ops/addcmul.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "adapters/glora_peft.h"
#include "adapters/glora_plan.h"
#include "adapters/glora_search.h"
#include "adapters/initial.h"
#include "adapters/low_rank.h"
#include "adapters/method.h"
#include "adapters/peft_config.h"
#include "adapters/target_modules.h"
#include "msplora/core/random.h"

namespace msplora::detail {
namespace {

class GloraAdapter : public Adapter, private Search {
 public:
  explicit GloraAdapter(MethodInput input)
      : Adapter(std::move(input.config), std::move(input.target), std::move(input.sites)), seed_(input.seed) {
    for (const Site& site : sites_) {
      SiteTensors tensors;
      for (const SupportTensor& made : support_tensors(config_, site)) {
        const at::Tensor drawn = draw_uniform(made.spec.shape, made.bound, seed_, made.spec.name);
        at::Tensor& place = made.is_up ? tensors[made.support].up : tensors[made.support].down;
        (made.is_up ? tensors[made.support].up_name : tensors[made.support].down_name) = made.spec.name;
        place = add_trainable(made.spec.name, drawn.to(factor_options(site)));
      }
      tensors_.push_back(std::move(tensors));
      spaces_.push_back(space_of(config_, site));
      trained_.push_back(trained_choice(config_, site));
    }
  }

  /// Support B alone: the part that is an addition to the weight.
  std::vector<LowRankTerm> terms(size_t site_index) const override {
    const Site& site = sites_.at(site_index);
    const Factors& b = tensors_[site_index][kB];
    const Support form = active(site_index)[kB];
    if (form == Support::kNone) return {};
    LowRankTerm term;
    if (form == Support::kLowRank) {
      term.down = b.up;
      term.up = b.down;
    } else {
      term.down = at::ones({1, site.in_features}, b.down.options());
      term.up = form == Support::kVector ? first_column(b.down)
                                         : first_number(b.down).expand({site.out_features, 1}).contiguous();
    }
    return {term};
  }

  SiteUpdate update_of(size_t site_index) const override {
    SiteUpdate update;
    update.computed_low_rank = [this, site_index] { return terms(site_index); };
    update.affine = [this, site_index](const Linear& layer, const ForwardContext&) {
      const at::Tensor values = layer.weight->values();  // once: some forms make them for each reader
      AffineMap map{values, layer.bias};
      if (const at::Tensor a = scale_of_weight(site_index); a.defined())
        map.weight = at::addcmul(wide(values), wide(values), a);
      if (const at::Tensor change = bias_change(site_index, layer, values); change.defined()) {
        map.bias = layer.bias.defined() ? wide(layer.bias) + change : change;
      }
      return map;
    };
    return update;
  }

  SiteChange change_of(size_t site_index) const override {
    const c10::NoGradGuard no_grad;
    const Linear& layer = *sites_.at(site_index).linear;
    SiteChange change = Adapter::change_of(site_index);
    const at::Tensor a = scale_of_weight(site_index);
    const at::Tensor values = layer.weight->values();
    if (a.defined()) change.weight = change.weight + wide(values) * a;
    change.bias = bias_change(site_index, layer, values);
    return change;
  }

  WeightScaling weight_scaling(size_t site_index) const override {
    const c10::NoGradGuard no_grad;
    const Site& site = sites_.at(site_index);
    const Factors& a = tensors_.at(site_index)[kA];
    WeightScaling scaling;
    switch (active(site_index)[kA]) {
      case Support::kLowRank:
        return {a.down.to(at::kDouble), a.up.to(at::kDouble), {}};
      case Support::kVector:
        scaling.left = first_column(a.down).to(at::kDouble);
        break;
      case Support::kConstant:
        scaling.left = first_number(a.down).to(at::kDouble).expand({site.out_features, 1});
        break;
      case Support::kNone:
        return {};
    }
    scaling.right = at::ones({1, site.in_features}, at::kDouble);
    return scaling;
  }

  std::string no_lora_form() const {
    for (size_t i = 0; i < sites_.size(); ++i) {
      const SiteChoice& choice = active(i);
      for (const size_t k : {kA, kC, kD, kE}) {
        if (choice[k] == Support::kNone) continue;
        return fmt::format(
            "support {} of {} scales the base weight or changes the bias, which LoRA cannot; "
            "of glora only support B has a LoRA form",
            "ABCDE"[k], sites_[i].path);
      }
    }
    return {};
  }

  /// PEFT has one form of A and B, one of C, one of D and E for all layers: those in use where they agree,
  /// else the largest, of which the others are special cases.
  PeftTuner peft_tuner() const {
    PeftTuner tuner;
    const Support ab = common_form({kA, kB}, Support::kLowRank), c = common_form({kC}, Support::kLowRank),
                  de = common_form({kD, kE}, Support::kVector);
    tuner.options = {{"r", config_.rank},
                     {"config_A_B", support_name(ab)},
                     {"config_C", support_name(c)},
                     {"config_D_E", support_name(de)},
                     {"init_weights", true}};
    for (size_t i = 0; i < sites_.size(); ++i) {
      if (!has_bias(sites_[i]) && (active(i)[kC] != Support::kNone || active(i)[kE] != Support::kNone)) {
        tuner.refusal =
            fmt::format("{} has no bias, and PEFT's GLORA does without C and E there", sites_[i].path);
        return tuner;
      }
      for (const size_t k : {kA, kB}) add_peft_tensors(i, k, ab, tuner.tensors);
      add_peft_tensors(i, kC, has_bias(sites_[i]) ? c : Support::kNone, tuner.tensors);
      for (const size_t k : {kD, kE}) {
        add_peft_tensors(i, k, has_bias(sites_[i]) ? de : Support::kNone, tuner.tensors);
      }
    }
    return tuner;
  }

  StepPlan begin_step(const TrainingProgress& progress) override {
    drawn_.clear();
    if (config_.own<GloraOptions>().search && !chosen_) draw(progress.step);
    return {.frozen = left_out()};
  }

  void end_step(const TrainingProgress&, OptimizerControl&) override { drawn_.clear(); }

  Search* search() override { return config_.own<GloraOptions>().search ? this : nullptr; }

  AdapterState state(const std::string& optimizer = {}) const override {
    AdapterState state;
    if (chosen_) {
      state.facts = {{"choices", choices_json(*chosen_)}, {"parameters", parameters_of(spaces_, *chosen_)}};
    }
    return state;
  }

  void restore(const nlohmann::json& state, RestorePhase phase) override {
    if (phase == RestorePhase::kStructure) return;
    ErrorList errors;
    Choices choices;
    const nlohmann::json stored = state.is_object() ? state.value("choices", nlohmann::json()) : state;
    if (!config_.own<GloraOptions>().search)
      errors.add("state", "choices were searched, but adapter.glora.search is off");
    for (size_t i = 0; i < sites_.size(); ++i) {
      const std::string& path = sites_[i].path;
      const auto found = stored.find(path);
      if (!stored.is_object() || found == stored.end()) {
        errors.add("state.choices", fmt::format("nothing for {}", path));
      } else {
        choices.push_back(read_choice(*found, i, errors));
      }
    }
    errors.throw_if_any(ErrorCode::kFormat, "the recorded choices of glora");
    chosen_ = std::move(choices);
  }

 private:
  int64_t due(int64_t total_steps) const override {
    const double tuned =
        std::ceil(config_.own<GloraOptions>().tune_fraction * static_cast<double>(total_steps));
    return std::max<int64_t>(1, total_steps - static_cast<int64_t>(tuned));
  }

  nlohmann::json run(const std::function<double()>& score,
                     const std::function<void(const std::string&)>& say) override {
    const GloraOptions& o = config_.own<GloraOptions>();
    SearchOptions options = o;
    // What is trained afterwards needs something to train.
    if (o.tune_fraction > 0) options.min_parameters = std::max<int64_t>(options.min_parameters, 1);
    options.seed = seed_;
    drawn_.clear();
    const auto score_choices = [&](const Choices& choices) {
      chosen_ = choices;
      return score();
    };
    const SearchResult result = evolve(spaces_, options, score_choices, say);
    chosen_ = result.best.choices;
    nlohmann::json history = nlohmann::json::array();
    for (const Candidate& best : result.history) {
      history.push_back({{"score", best.score}, {"parameters", best.parameters}});
    }
    return {{"score", result.best.score},
            {"parameters", result.best.parameters},
            {"evaluations", result.evaluations},
            {"history", std::move(history)},
            {"choices", choices_json(result.best.choices)}};
  }

  /// Draws the forms of this step, one choice for each layer, until one of them has something to train.
  void draw(int64_t step) {
    for (int64_t round = 0; drawn_.empty(); ++round) {
      Choices forms(sites_.size());
      for (size_t i = 0; i < sites_.size(); ++i) {
        RandomStream random(seed_, fmt::format("{}.glora_draw.{}.{}", sites_[i].path, step, round));
        for (size_t k = 0; k < forms[i].size(); ++k) {
          forms[i][k] = spaces_[i].options[k][random.below(spaces_[i].options[k].size())];
        }
      }
      if (parameters_of(spaces_, forms) > 0) drawn_ = std::move(forms);
    }
  }

  /// Tensors that the forms of this step leave out.
  std::set<std::string> left_out() const {
    std::set<std::string> frozen;
    for (size_t i = 0; i < sites_.size(); ++i) {
      for (size_t k = 0; k < trained_[i].size(); ++k) {
        const Factors& factors = tensors_[i][k];
        const Support form = active(i)[k];
        if (factors.down.defined() && form == Support::kNone) frozen.insert(factors.down_name);
        if (factors.up.defined() && form != Support::kLowRank) frozen.insert(factors.up_name);
      }
    }
    return frozen;
  }

  /// Low-rank: value = down up. A vector is the first column of `down`, a number its first element.
  struct Factors {
    at::Tensor down, up;
    std::string down_name, up_name;
  };
  using SiteTensors = std::array<Factors, 5>;

  /// The forms in effect: those drawn for the step, or found by the search, or all that are trained.
  const SiteChoice& active(size_t site_index) const {
    if (!drawn_.empty()) return drawn_[site_index];
    return chosen_ ? (*chosen_)[site_index] : trained_[site_index];
  }

  /// The form that these supports have in every layer that can have them, else `largest`.
  Support common_form(std::initializer_list<size_t> supports, Support largest) const {
    std::optional<Support> common;
    for (size_t i = 0; i < sites_.size(); ++i) {
      for (const size_t k : supports) {
        if (spaces_[i].options[k].size() == 1) continue;
        if (common && *common != active(i)[k]) return largest;
        common = active(i)[k];
      }
    }
    return common && *common != Support::kNone ? *common : largest;
  }

  void add_peft_tensors(size_t site_index, size_t k, Support form, std::vector<NamedTensor>& tensors) const {
    const Site& site = sites_[site_index];
    const Factors& own = tensors_[site_index][k];
    PeftSupport support;
    support.name = fmt::format("{}.glora_{}.", site.path, "ABCDE"[k]);
    support.rows = k == kC ? site.in_features : site.out_features;
    support.columns = k == kA || k == kB ? site.in_features : 1;
    support.is_flat = k == kD || k == kE;
    support.form = active(site_index)[k];
    support.down = own.down;
    support.up = own.up;
    support.options = factor_options(site);
    append_peft_support(support, form, config_.rank, tensors);
  }

  /// A as [out, in], or as something that is broadcast to it; undefined without A.
  at::Tensor scale_of_weight(size_t site_index) const {
    const Factors& a = tensors_.at(site_index)[kA];
    switch (active(site_index)[kA]) {
      case Support::kLowRank:
        return at::mm(a.down, a.up);
      case Support::kVector:
        return first_column(a.down);
      case Support::kConstant:
        return first_number(a.down);
      case Support::kNone:
        break;
    }
    return {};
  }

  /// b0 * D + E + W0 C, [out], of W0's values; undefined without any of them.
  at::Tensor bias_change(size_t site_index, const Linear& layer, const at::Tensor& values) const {
    const SiteChoice& choice = active(site_index);
    const SiteTensors& tensors = tensors_.at(site_index);
    at::Tensor sum;
    const auto add = [&](const at::Tensor& part) { sum = sum.defined() ? sum + part : part; };
    const auto value = [&](size_t k) {
      return choice[k] == Support::kVector ? tensors[k].down : first_number(tensors[k].down);
    };
    if (choice[kD] != Support::kNone) add(wide(layer.bias) * value(kD));
    if (choice[kE] != Support::kNone) add(value(kE).expand({layer.out_features()}));
    if (choice[kC] != Support::kNone) {
      const Factors& c = tensors[kC];
      const at::Tensor shift = choice[kC] == Support::kLowRank ? at::mm(c.down, c.up) : first_column(c.down);
      add(at::mv(wide(values), shift.select(1, 0)));
    }
    return sum.defined() ? sum.contiguous() : sum;
  }

  nlohmann::json choices_json(const Choices& choices) const {
    nlohmann::json json = nlohmann::json::object();
    for (size_t i = 0; i < sites_.size(); ++i) {
      for (size_t k = 0; k < choices[i].size(); ++k) {
        json[sites_[i].path][std::string(1, "ABCDE"[k])] = support_name(choices[i][k]);
      }
    }
    return json;
  }

  SiteChoice read_choice(const nlohmann::json& from, size_t site_index, ErrorList& errors) const {
    SiteChoice choice{};
    for (size_t k = 0; k < choice.size(); ++k) {
      const std::string key(1, "ABCDE"[k]);
      const bool is_text = from.is_object() && from.contains(key) && from[key].is_string();
      const auto form = is_text ? support_from_name(from[key].get<std::string>()) : std::nullopt;
      const std::vector<Support>& known = spaces_[site_index].options[k];
      if (form && std::find(known.begin(), known.end(), *form) != known.end()) {
        choice[k] = *form;
      } else {
        errors.add(fmt::format("state.choices.{}.{}", sites_[site_index].path, key),
                   "is no form that this support can have");
      }
    }
    return choice;
  }

  uint64_t seed_;
  std::vector<SiteTensors> tensors_;
  std::vector<SiteSpace> spaces_;
  Choices trained_;
  Choices drawn_;                  // of the step in progress; else empty
  std::optional<Choices> chosen_;  // by the search
};

const GloraAdapter& glora_of(const Adapter& adapter) {
  return dynamic_cast<const GloraAdapter&>(adapter);
}

/// GLORA has one choice for A and B, one for C, one for D and E.
void read_peft_glora(PeftReader& reader, PeftConfig& peft) {
  GloraOptions& o = peft.config.own<GloraOptions>();
  o.search = false;
  reader.read_choice("config_A_B", {"lora", "vector", "constant", "none"}, o.choice_a);
  o.choice_b = o.choice_a;
  reader.read_choice("config_C", {"lora", "vector", "none"}, o.choice_c);
  reader.read_choice("config_D_E", {"vector", "constant", "none"}, o.choice_d);
  o.choice_e = o.choice_d;
}

}  // namespace

Method glora_method() {
  Method method;
  method.name = "glora";
  method.summary = "Scales, shifts and low-rank updates of weight and bias, chosen by a search (2023)";
  method.traits = {.takes_dropout = false};
  method.unused = {{"alpha"}, {"dropout"}, {"init"}, {"use_rslora"}};
  method.options = OptionGroup(GloraOptions(), "Options of method glora");
  method.tensors = glora_tensors;
  method.create = [](MethodInput in) { return std::make_unique<GloraAdapter>(std::move(in)); };
  method.peft = {.no_lora_form = [](const Adapter& adapter) { return glora_of(adapter).no_lora_form(); },
                 .type = "GLORA",
                 .read = read_peft_glora,
                 .write = [](const Adapter& adapter) { return glora_of(adapter).peft_tuner(); },
                 .keys = {{"glora.choice_a", "config_A_B"},
                          {"glora.choice_b", "config_A_B"},
                          {"glora.choice_c", "config_C"},
                          {"glora.choice_d", "config_D_E"},
                          {"glora.choice_e", "config_D_E"}},
                 .mark = ".glora_",
                 .skipped = ".zeros"};  // where a support is absent
  method.line = [](const AdapterConfig& config) {
    const GloraOptions& o = config.own<GloraOptions>();
    return o.search
               ? fmt::format("glora, rank {}, then a search: {} generations of {}, at most {} parameters",
                             config.rank, o.generations, o.population, o.max_parameters)
               : fmt::format("glora, rank {}, supports A {}, B {}, C {}, D {}, E {}", config.rank, o.choice_a,
                             o.choice_b, o.choice_c, o.choice_d, o.choice_e);
  };
  method.settle_without_data = [](AdapterConfig& config, int64_t) {
    GloraOptions& o = config.own<GloraOptions>();
    o.search = false;     // as PEFT's tuner
    o.choice_d = "none";  // it scales biases, and those of a drawn model are zero
  };
  method.check_run = [](const AdapterConfig& config, const RunFacts& run, ErrorList& errors) {
    if (run.has_validation || !config.own<GloraOptions>().search) return;
    errors.add("adapter.glora.search", "the search looks at validation data, but there is none",
               "data.validation or data.validation_fraction");
  };
  return method;
}

}  // namespace msplora::detail
