#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "msplora/core/options.h"

/// Options of single methods, each group under the method's name: `adapter.aslora.interval`.
namespace msplora {

/// ASLoRA (arXiv 2412.10135): one A for all layers, one B for each, and a schedule that ties the B of similar
/// layers.
struct AsloraOptions {
  std::string share_a = "module";
  std::string pairs = "adjacent";
  std::string decision = "module";
  int64_t start_step = 320;
  int64_t interval = 240;
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
    visitor("start_step", start_step, "The first merge is `interval` optimizer steps after this one",
            at_least(0));
    visitor("interval", interval, "Optimizer steps between merges", at_least(1));
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

}  // namespace msplora
