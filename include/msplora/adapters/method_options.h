#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "msplora/core/options.h"

namespace msplora {

// Options of single methods, written under `adapter.METHOD:` in a recipe. A member of AdapterConfig carries
// the name of its method: options set for another method than the chosen one are refused by that.

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
  double scaling = 1.0;
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
    visitor("scaling", scaling, "Factor on B A, for all rounds", above(0));
    visitor("penalty", penalty, "Weight of |A|² + |B|² in the loss", at_least(0));
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
