#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "adapters/glora_search.h"
#include "adapters/method.h"

/// GLoRA's options, and the tensors that they make for a layer.
namespace msplora::detail {

/// Of them, those of the search come with it; its seed is that of the run.
struct GloraOptions : SearchOptions {
  bool search = true;
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

bool has_bias(const Site& site);
SiteSpace space_of(const AdapterConfig& config, const Site& site);
/// The forms that exist as tensors: with search the largest ones, else those of the options, as far as the
/// layer can have them.
SiteChoice trained_choice(const AdapterConfig& config, const Site& site);

/// One tensor of a support. `role` is the name that PEFT gives it: Xd, Xu (low-rank) or X.
struct SupportTensor {
  TensorSpec spec;
  size_t support;
  bool is_up;  // Xu: the only tensors that do not start at 0
  double bound = 0.0;
};

/// A: Xd [out, r], Xu [r, in]; B: the same; C: Xd [in, r], Xu [r, 1]; vectors [out, 1] ([in, 1] for C) and
/// [out] for D and E; numbers [1].
std::vector<SupportTensor> support_tensors(const AdapterConfig& config, const Site& site);

/// Plan of all layers, and what is wrong with the options.
std::vector<TensorSpec> glora_tensors(const PlanInput& input, ErrorList& errors);

}  // namespace msplora::detail
