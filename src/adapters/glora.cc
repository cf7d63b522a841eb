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
#include <tuple>
#include <vector>

#include "adapters/config_checks.h"
#include "adapters/glora_peft.h"
#include "adapters/glora_search.h"
#include "adapters/initial.h"
#include "adapters/low_rank.h"
#include "adapters/method.h"
#include "adapters/peft_config.h"
#include "adapters/target_modules.h"
#include "msplora/core/random.h"

namespace msplora::detail {
namespace {

struct GloraOptions {
  bool search = true;
  int64_t population = 50;
  int64_t generations = 20;
  int64_t parents = 10;
  double mutation_probability = 0.2;
  int64_t max_parameters = 1000000;
  int64_t min_parameters = 0;
  double tune_fraction = 0.0;
  std::string choice_a = "lora";
  std::string choice_b = "lora";
  std::string choice_c = "lora";
  std::string choice_d = "constant";
  std::string choice_e = "constant";
  bool add_bias = false;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("search", search,
            "Train all choices at once, then search the best ones on the validation data; false: train the "
            "choices below");
    visitor("population", population, "Candidates of one generation of the search", at_least(1));
    visitor("generations", generations, "Generations after the first, random one", at_least(0));
    visitor("parents", parents, "Best candidates so far that the next generation is made from", at_least(1));
    visitor("mutation_probability", mutation_probability,
            "Chance of each choice to be drawn anew in a mutant", between(0, 1));
    visitor("max_parameters", max_parameters, "Most parameters of a candidate, heads not counted",
            at_least(0));
    visitor("min_parameters", min_parameters, "Fewest parameters of a candidate", at_least(0));
    visitor("tune_fraction", tune_fraction,
            "Last part of the steps, after the search, that trains the choices it found; 0: the search ends "
            "the run",
            between(0, 0.99));
    visitor("choice_a", choice_a, "Without search: support A, which scales the weight",
            one_of({"lora", "vector", "constant", "none"}));
    visitor("choice_b", choice_b, "Without search: support B, which is added to the weight",
            one_of({"lora", "vector", "constant", "none"}));
    visitor("choice_c", choice_c, "Without search: support C, which shifts the input",
            one_of({"lora", "vector", "none"}));
    visitor("choice_d", choice_d, "Without search: support D, which scales the bias",
            one_of({"vector", "constant", "none"}));
    visitor("choice_e", choice_e, "Without search: support E, which is added to the bias",
            one_of({"vector", "constant", "none"}));
    visitor("add_bias", add_bias,
            "Layers without a bias get one out of C and E, instead of doing without C, D and E");
  }
};

bool has_bias(const Site& site) {
  return site.linear != nullptr ? site.linear->bias.defined() : site.has_bias;
}

SiteSpace space_of(const AdapterConfig& config, const Site& site) {
  return site_space(site.in_features, site.out_features, config.rank, has_bias(site),
                    config.own<GloraOptions>().add_bias);
}

/// The forms that exist as tensors: with search the largest ones, else those of the options, as far as the
/// layer can have them.
SiteChoice trained_choice(const AdapterConfig& config, const Site& site) {
  const SiteSpace space = space_of(config, site);
  SiteChoice choice = space.largest();
  if (config.own<GloraOptions>().search) return choice;
  const GloraOptions& o = config.own<GloraOptions>();
  const std::string* names[] = {&o.choice_a, &o.choice_b, &o.choice_c, &o.choice_d, &o.choice_e};
  for (size_t k = 0; k < choice.size(); ++k) {
    const bool is_possible = choice[k] != Support::kNone;
    choice[k] = is_possible ? support_from_name(*names[k]).value_or(Support::kNone) : Support::kNone;
  }
  return choice;
}

/// One tensor of a support. `role` is the name that PEFT gives it: Xd, Xu (low-rank) or X.
struct SupportTensor {
  TensorSpec spec;
  size_t support;
  bool is_up;  // Xu: the only tensors that do not start at 0
  double bound = 0.0;
};

/// Bound of the uniform Xu [r, columns]: that of the authors' search (Xavier), or of PEFT's fixed choices
/// (Kaiming with a = sqrt 5).
double up_bound(const AdapterConfig& config, int64_t columns) {
  const auto n = static_cast<double>(columns), r = static_cast<double>(config.rank);
  return config.own<GloraOptions>().search ? std::sqrt(6.0 / (r + n)) : 1.0 / std::sqrt(n);
}

/// A: Xd [out, r], Xu [r, in]; B: the same; C: Xd [in, r], Xu [r, 1]; vectors [out, 1] ([in, 1] for C) and
/// [out] for D and E; numbers [1].
std::vector<SupportTensor> support_tensors(const AdapterConfig& config, const Site& site) {
  const SiteChoice choice = trained_choice(config, site);
  std::vector<SupportTensor> tensors;
  for (size_t k = 0; k < choice.size(); ++k) {
    const std::string name = fmt::format("{}.glora_{}", site.path, "ABCDE"[k]);
    const int64_t rows = k == kC ? site.in_features : site.out_features;
    const int64_t columns = k == kC ? 1 : site.in_features;
    const auto add = [&](const char* role, std::vector<int64_t> shape, double bound) {
      tensors.push_back(
          {{fmt::format("{}.{}", name, role), std::move(shape), 0, site.layer}, k, bound > 0.0, bound});
    };
    switch (choice[k]) {
      case Support::kLowRank:
        add("Xd", {rows, config.rank}, 0.0);
        add("Xu", {config.rank, columns}, up_bound(config, columns));
        break;
      case Support::kVector:
        add("X", k == kD || k == kE ? std::vector<int64_t>{rows} : std::vector<int64_t>{rows, 1}, 0.0);
        break;
      case Support::kConstant:
        add("X", {1}, 0.0);
        break;
      case Support::kNone:
        break;
    }
  }
  return tensors;
}

void check_search(const AdapterConfig& config, ErrorList& errors) {
  const GloraOptions& o = config.own<GloraOptions>();
  const GloraOptions defaults;
  if (!o.search) {
    if (o.tune_fraction > 0) {
      errors.add("adapter.glora.tune_fraction", "has no effect without a search",
                 "adapter.glora.search: true");
    }
    return;
  }
  const std::tuple<const char*, const std::string&, const std::string&> choices[] = {
      {"choice_a", o.choice_a, defaults.choice_a},
      {"choice_b", o.choice_b, defaults.choice_b},
      {"choice_c", o.choice_c, defaults.choice_c},
      {"choice_d", o.choice_d, defaults.choice_d},
      {"choice_e", o.choice_e, defaults.choice_e}};
  for (const auto& [name, value, plain] : choices) {
    if (value == plain) continue;
    errors.add(fmt::format("adapter.glora.{}", name), "has no effect, since the choices are searched",
               "adapter.glora.search: false");
  }
  if (o.parents > o.population) {
    errors.add("adapter.glora.parents", fmt::format("{}, but the population is {}", o.parents, o.population),
               fmt::format("at most {}", o.population));
  }
  if (o.min_parameters > o.max_parameters) {
    errors.add("adapter.glora.min_parameters",
               fmt::format("{} is above max_parameters, {}", o.min_parameters, o.max_parameters));
  }
}

void check_budget(const AdapterConfig& config, const std::vector<Site>& sites, ErrorList& errors) {
  if (!config.own<GloraOptions>().search) return;
  int64_t most = 0;
  for (const Site& site : sites) {
    const SiteSpace space = space_of(config, site);
    most += space.parameters(space.largest());
  }
  if (config.own<GloraOptions>().min_parameters > most) {
    errors.add("adapter.glora.min_parameters", fmt::format("{}, but all supports together have {} parameters",
                                                           config.own<GloraOptions>().min_parameters, most));
  }
}

std::vector<TensorSpec> glora_tensors(const PlanInput& input, ErrorList& errors) {
  const AdapterConfig& config = input.config;
  refuse_options(config, {"alpha", "dropout", "init", "use_rslora"}, errors);
  check_search(config, errors);
  if (input.check_ranks) {
    check_rank("adapter.rank", config.rank, input.sites, errors);
    check_budget(config, input.sites, errors);
  }
  std::vector<TensorSpec> specs;
  for (const Site& site : input.sites) {
    for (SupportTensor& tensor : support_tensors(config, site)) specs.push_back(std::move(tensor.spec));
  }
  if (specs.empty() && !input.sites.empty()) {
    errors.add("adapter.glora", "the choices leave no support to train");
  }
  return specs;
}

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
      AffineMap map{layer.weight, layer.bias};
      if (const at::Tensor a = scale_of_weight(site_index); a.defined()) {
        const at::Tensor weight = wide(layer.weight);
        map.weight = at::addcmul(weight, weight, a);
      }
      if (const at::Tensor change = bias_change(site_index, layer); change.defined()) {
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
    if (a.defined()) change.weight = change.weight + wide(layer.weight) * a;
    change.bias = bias_change(site_index, layer);
    return change;
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
    // What is trained afterwards needs something to train.
    const int64_t fewest = std::max<int64_t>(o.min_parameters, o.tune_fraction > 0 ? 1 : 0);
    const SearchOptions options = {o.population,     o.generations, o.parents, o.mutation_probability,
                                   o.max_parameters, fewest,        seed_};
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

  /// b0 * D + E + W0 C, [out]; undefined without any of them.
  at::Tensor bias_change(size_t site_index, const Linear& layer) const {
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
      add(at::mv(wide(layer.weight), shift.select(1, 0)));
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
