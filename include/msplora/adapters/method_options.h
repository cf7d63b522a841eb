#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "msplora/core/options.h"

/// Options of single methods, each a group of its own below `adapter:` under the method's name:
/// `adapter.aslora.interval`.
namespace msplora {

/// ASLoRA (arXiv 2412.10135): one A for all layers, one B for each, and a schedule that ties the B of similar
/// layers.
struct AsloraOptions {
  std::string share_a = "module";
  std::string pairs = "adjacent";
  std::string decision = "module";
  std::optional<int64_t> start_step;
  std::optional<int64_t> interval;
  std::optional<int64_t> merges;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("share_a", share_a,
            "`module`: one A for each module name and shape; `global`: one for all modules with the same "
            "number of inputs",
            one_of({"module", "global"}));
    visitor("pairs", pairs, "Which groups of layers may merge: neighbours only, or any two",
            one_of({"adjacent", "all"}));
    visitor("decision", decision,
            "`module`: each module name merges its own layers; `joint`: the same layers merge in all of them",
            one_of({"module", "joint"}));
    visitor("start_step", start_step,
            "The first merge is `interval` optimizer steps after this one; unset: 320 of 6,900 steps of the "
            "run, as in the paper",
            at_least(0));
    visitor("interval", interval, "Optimizer steps between merges; unset: 240 of 6,900 steps of the run",
            at_least(1));
    visitor("merges", merges,
            "Number of merges; unset: 7, or until one group is left if there are fewer layers", at_least(0));
  }
};

/// PRILoRA (arXiv 2401.11316): ranks that grow from the first to the last layer, and pruning of A.
struct PriloraOptions {
  std::optional<int64_t> first_rank;
  std::optional<int64_t> last_rank;
  std::string scaling = "rank";
  int64_t prune_every = 40;
  double prune_fraction = 0.5;
  double beta = 0.9;
  bool final_prune = false;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("first_rank", first_rank, "Rank of the first layer; unset: rank / 2, so that `rank` is the mean",
            at_least(1));
    visitor("last_rank", last_rank, "Rank of the last layer; unset: 2 rank - first_rank", at_least(1));
    visitor("scaling", scaling, "`rank`: alpha / r of the layer; `mean`: alpha / mean rank in all layers",
            one_of({"rank", "mean"}));
    visitor("prune_every", prune_every, "Optimizer steps between prunings of A; 0: never", at_least(0));
    visitor("prune_fraction", prune_fraction, "Share of each row of A that a pruning sets to zero",
            probability_below_one());
    visitor("beta", beta, "Decay of the running mean of the input norms", probability_below_one());
    visitor("final_prune", final_prune, "Prune once more after the last step");
  }
};

/// LoRTA: one CP tensor for the attention of the whole model.
struct LortaOptions {
  std::optional<double> alpha;
  double init_scale = 0.0;
  std::string orientation = "semantic";
  bool grouped_query = false;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("alpha", alpha,
            "Scaling numerator of lorta, instead of adapter.alpha; default: the rank, so that "
            "the scaling is 1",
            above(0));
    visitor("init_scale", init_scale,
            "Initial factors of heads, layers and matrices are uniform within sqrt(6 / ((1 + 5 s^2) r)), "
            "s = init_scale: a larger value starts smaller",
            at_least(0));
    visitor("orientation", orientation,
            "Side of the heads: `semantic` outputs of q, k, v and inputs of o; `peft_compat` inputs of all, "
            "`litgpt_compat` outputs of all, as the authors' two programs do",
            one_of({"semantic", "peft_compat", "litgpt_compat"}));
    visitor("grouped_query", grouped_query,
            "A head factor of their own for keys and values, for models with fewer key-value heads");
  }
};

/// TT-LoRA: the update of each module is a tensor train.
struct TtloraOptions {
  std::vector<int64_t> shape;
  std::map<std::string, std::vector<int64_t>> shape_pattern;
  std::string init = "direct";
  std::string convention = "canonical";

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor(
        "shape", shape,
        "Sizes of the cores: factors of the input dimension, then factors of the output dimension; empty: "
        "factors of at most 16",
        at_least(2));
    visitor("shape_pattern", shape_pattern,
            "Regular expression of a module path (its end) to its shape; sorted, the first that matches wins",
            at_least(2));
    visitor(
        "init", init,
        "Initial cores: `direct` uniform with norm 1, `zero_last` the same with the last core 0 (training "
        "starts at the base model), `tt_svd` the decomposition of a drawn matrix (as first published)",
        one_of({"direct", "zero_last", "tt_svd"}));
    visitor("convention", convention,
            "How cores become a matrix: `canonical`, or as the authors' programs do: `orig_reconstruct` "
            "(output factors first), `lanl_contract` (input factors reversed)",
            one_of({"canonical", "orig_reconstruct", "lanl_contract"}));
  }
};

/// GLoRA: weight W + W*A + B and bias b + b*D + E + W C, each support low-rank, a vector, a number or absent.
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

/// Flat-LoRA (arXiv 2409.14396): LoRA trained under noise on the merged weight.
struct FlatLoraOptions {
  double rho = 0.05;
  std::string schedule = "cosine";
  bool per_micro_batch = false;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("rho", rho,
            "Strength of the noise at the end of the schedule: standard deviation relative to a weight row; "
            "0: plain "
            "LoRA",
            at_least(0));
    visitor("schedule", schedule,
            "How the strength rises from 0 to rho over the training; `constant` starts at rho",
            one_of({"cosine", "linear", "constant"}));
    visitor("per_micro_batch", per_micro_batch,
            "Draw new noise for each micro-batch, not for each optimizer step");
  }
};

/// LoRA-Pro (arXiv 2407.18242): steps along the low-rank gradient nearest to the full one.
struct LoraProOptions {
  std::string mode = "full";
  std::string split = "sylvester";
  double damping = 1e-8;
  double relative_damping = 0.0;
  double max_relative_step = 0.0;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("mode", mode,
            "`full`: moments of the size of the adapted weights (the paper's algorithm); `efficient`: "
            "moments of the "
            "size of the factors",
            one_of({"full", "efficient"}));
    visitor(
        "split", split,
        "How a step is divided between the factors: nearest to their own gradients, equal shares, or X = 0",
        one_of({"sylvester", "symmetric", "zero"}));
    visitor("damping", damping, "Added to the eigenvalues of BᵀB and AAᵀ before they are inverted",
            at_least(0));
    visitor("relative_damping", relative_damping,
            "The same relative to the mean eigenvalue of each matrix; above 0 it replaces damping",
            at_least(0));
    visitor("max_relative_step", max_relative_step,
            "full: largest step of A relative to its norm (A and B are scaled down together); 0: no limit",
            at_least(0));
  }
};

/// XGBLoRA (arXiv 2410.19694): rounds of boosting with small adapters on random layers.
struct XgbLoraOptions {
  int64_t rounds = 0;
  int64_t layers_per_round = 0;
  int64_t booster_rank = 1;
  std::optional<double> scaling;
  double penalty = 0.0;
  int64_t warmup_steps = 10;
  std::optional<int64_t> seed;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("rounds", rounds,
            "Boosting rounds; 0: as many as give each module the total rank adapter.rank on average",
            at_least(0));
    visitor("layers_per_round", layers_per_round, "Layers adapted in a round; 0: a third of them",
            at_least(0));
    visitor("booster_rank", booster_rank, "Rank of the adapters of one round", at_least(1));
    visitor("scaling", scaling, "Factor on B A, for all rounds; unset: adapter.alpha / booster_rank",
            above(0));
    visitor("penalty", penalty, "Weight of |A|² + |B|² of the current round in the loss", at_least(0));
    visitor("warmup_steps", warmup_steps,
            "Steps over which the learning rate rises again after a merge; at most a quarter of a round",
            at_least(0));
    visitor("seed", seed, "Seed of the choice of layers; default: train.seed", at_least(0));
  }
};

/// GeLoRA (arXiv 2412.09250): ranks from the intrinsic dimensions of hidden states.
struct GeLoraOptions {
  std::vector<int64_t> layer_ranks;
  double alpha_ratio = 32.0;
  int64_t max_rank = 0;
  std::string rounding = "dimension";
  std::string estimator = "regression";
  double discard = 0.1;
  std::string pooling = "mean";
  int64_t samples = 1000;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("layer_ranks", layer_ranks,
            "Rank of every layer of the model, first to last; empty: `train` estimates them and records them "
            "here",
            at_least(1));
    visitor("alpha_ratio", alpha_ratio, "Scaling of the update, alpha / r, the same in all layers", above(0));
    visitor("max_rank", max_rank, "Upper bound of the estimated ranks; 0: none", at_least(0));
    visitor("rounding", rounding,
            "Round the dimensions before they are subtracted, the differences, or the differences upwards",
            one_of({"dimension", "difference", "up"}));
    visitor("estimator", estimator, "TwoNN fit of the intrinsic dimension",
            one_of({"regression", "likelihood", "unbiased"}));
    visitor("discard", discard, "Share of the largest distance ratios that the regression leaves out",
            probability_below_one());
    visitor("pooling", pooling,
            "What represents a text: the mean over its tokens, the first or the last token",
            one_of({"mean", "first", "last"}));
    visitor("samples", samples, "Training examples that the dimensions are estimated from", at_least(10));
  }
};

}  // namespace msplora
