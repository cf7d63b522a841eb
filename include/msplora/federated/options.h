#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/option_group.h"
#include "msplora/core/options.h"
#include "msplora/train/recipe.h"

namespace msplora {

/// How the training examples are dealt to the clients (partition.h).
struct PartitionOptions {
  std::string kind = "iid";
  double alpha = 0.5;
  int64_t min_size = 10;
  int64_t max_retries = 10;
  int64_t shards_per_client = 2;
  int64_t classes_per_client = 1;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("kind", kind,
            "`iid`: at random; `dirichlet`: every class divided by Dirichlet shares; `shards`: pieces of the "
            "examples sorted by class; `classes`: a few classes for each client; `groups`: by the column "
            "data.group",
            one_of(kinds()));
    visitor("alpha", alpha, "dirichlet: concentration; large is even, small gives each client few classes",
            above(0));
    visitor("min_size", min_size, "dirichlet: least examples of a client; drawn anew until it holds",
            at_least(1));
    visitor("max_retries", max_retries, "dirichlet: new draws before it is an error", at_least(0));
    visitor("shards_per_client", shards_per_client, "shards: pieces for each client", at_least(1));
    visitor("classes_per_client", classes_per_client, "classes: classes for each client", at_least(1));
  }

  static std::vector<std::string> kinds();
};

/// Federated training in one process. What a client does in a round is the recipe's `train` group.
struct FederatedOptions {
  int64_t clients = 10;
  int64_t rounds = 10;
  std::string aggregator = "lora_fair";
  double fraction = 1.0;
  int64_t min_clients = 1;
  std::string weighting = "examples";
  std::vector<int64_t> client_ranks;
  double held_out = 0.1;
  int64_t eval_every = 1;
  int64_t stop_at = 0;
  PartitionOptions partition;
  /// Options that aggregators have for themselves, by the group's name; each is declared in its file.
  std::vector<std::pair<std::string, OptionGroup>> groups = default_groups();

  /// Those of the chosen aggregator; empty for most.
  const OptionGroup& own() const;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("clients", clients, "Number of clients", at_least(1));
    visitor("rounds", rounds, "Rounds of local training and aggregation", at_least(1));
    visitor("aggregator", aggregator, "How the server combines what the clients send (docs/federated.md)",
            one_of(aggregator_names()));
    visitor("fraction", fraction, "Share of the clients that take part in a round, drawn anew in each",
            OptionRange{{}, 0.0, 1.0, true, false});
    visitor("min_clients", min_clients,
            "Least clients in a round; a round with fewer usable answers changes nothing", at_least(1));
    visitor("weighting", weighting, "A client counts by its number of examples, or as much as any other",
            one_of({"examples", "uniform"}));
    visitor("client_ranks", client_ranks,
            "Rank of each client, in their order, instead of adapter.rank (flora, flexlora)", at_least(1));
    visitor("held_out", held_out,
            "Share of each client's examples set aside to score the global model on; 0: no score of clients",
            probability_below_one());
    visitor("eval_every", eval_every, "Rounds between evaluations; the last round has one", at_least(1));
    visitor("stop_at", stop_at, "Pause after this round, to be continued with --resume; 0: never",
            at_least(0));
    visitor("partition", partition, "How the training examples are dealt to the clients");
    for (auto& [name, group] : groups) visitor(name.c_str(), group, group.help().c_str());
  }

 private:
  static std::vector<std::pair<std::string, OptionGroup>> default_groups();
  static std::vector<std::string> aggregator_names();
};

/// Everything that a run of `federate` depends on. `train` is the work of one client in one round: `epochs`
/// or `max_steps` count per round, the learning-rate schedule spans all rounds.
struct FederateRecipe : Recipe {
  FederatedOptions federated;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    Recipe::visit(visitor);
    visitor("federated", federated, "Clients, rounds and aggregation");
  }
};

/// Adds to `errors` what cannot work together, the problems of a plain recipe included.
void check_recipe(const FederateRecipe& recipe, ErrorList& errors, const std::string& where = "recipe");

nlohmann::json recipe_to_json(const FederateRecipe& recipe);

}  // namespace msplora
