#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "msplora/core/option_group.h"
#include "msplora/nn/named_tensor.h"

namespace msplora {

/// One low-rank product of an adapter: its part of a weight's change is scaling * up * down.
struct FactorPair {
  std::string name;
  at::Tensor down;  // A, [r, in]
  at::Tensor up;    // B, [out, r]
  double scaling = 1.0;

  int64_t rank() const { return down.size(0); }
};

/// What one client sends back after a round.
struct ClientUpdate {
  int64_t client = 0;
  int64_t examples = 0;
  std::vector<FactorPair> pairs;    // in the order of the global ones
  std::vector<NamedTensor> others;  // heads, biases: what is trained beside the pairs
};

/// How well the server's result stands for the ideal one, dW = sum of p_k s_k B_k A_k, of one pair or of all
/// pairs together. Numbers that are undefined (a dW of zero) are NaN.
struct AggregationError {
  std::string name;
  double error = 0.0;       // ||dW - used|| / ||dW||, Frobenius
  double cosine = 1.0;      // of the angle between dW and used, as vectors
  double norm = 0.0;        // ||dW||
  double correction = 0.0;  // lora_fair: size of the correction over that of the averaged B; else 0
};

/// The outcome of one aggregation, in float64.
struct Aggregate {
  /// What the clients start the next round from; a client of a smaller rank takes `truncated`.
  std::vector<FactorPair> pairs;
  /// Products to be added to the frozen base (scaling folded in), one for each pair, or empty. They are
  /// stacks: their rank is that of several clients together.
  std::vector<FactorPair> merged;
  std::vector<NamedTensor> others;
  std::vector<AggregationError> errors;  // one for each pair
  AggregationError total;
};

/// What an aggregation method asks of the rounds around it.
struct AggregatorTraits {
  bool trains_down = true;   // false: A stays as drawn and is never sent
  bool mixed_ranks = false;  // clients may have different ranks
  bool restarts = false;     // clients begin each round with fresh factors (A drawn, B zero)
  bool merges = false;       // products are added to the base of every client
  bool only_lora = true;     // false: also for factors that several layers share
};

/// One pair of all clients.
struct Combined {
  FactorPair next;                   // what the next round begins with
  std::optional<FactorPair> merged;  // what joins the base
  double correction = 0.0;           // see AggregationError
};

/// The server's part of a round: one file each in src/federated, listed in aggregator_list.h. With weights
/// p_k >= 0, sum 1, for each pair:
///
///   fedit      A = sum p_k A_k, B = sum p_k B_k                          (arXiv 2305.05644)
///   ffa        B = sum p_k B_k, A is the same everywhere: exact          (arXiv 2403.12313)
///   flora      A = [p_1 A_1; ...], B = [B_1, ...] joins the base; exact  (arXiv 2409.05976)
///   flexlora   the best approximation of dW of the client's rank         (arXiv 2402.11505)
///   fedex      as fedit, and dW - B A joins the base; exact              (arXiv 2410.09432)
///   lora_fair  as fedit, with B + C in place of B                        (arXiv 2411.14961)
///
/// Heads and biases are averaged by all of them.
struct AggregatorKind {
  std::string name;
  AggregatorTraits traits = {};
  OptionGroup options = {};  // its own, with the defaults; empty for most
  std::string group = {};    // and where they stand below `federated:`
  std::function<Combined(const OptionGroup& options, const FactorPair& global,
                         const std::vector<FactorPair>& pairs, const std::vector<double>& weights)>
      combine;
  std::function<std::string(const OptionGroup&)> line = {};  // what a run's panel adds to the name
  /// Names of its options that the others leave nothing to do.
  std::function<std::vector<std::string>(const OptionGroup&)> unused = {};
};
const std::vector<AggregatorKind>& aggregators();
/// Throws Error{kConfig} with the nearest name for an unknown one.
const AggregatorKind& aggregator_kind(const std::string& name);

/// `global` is what the round began with (float64; it fixes names, shapes and, for flexlora, the rank of
/// the result); `weights` belong to `updates`. The result does not depend on the order of the updates but
/// for rounding. Throws Error{kModel} listing every tensor of another name, shape or rank than it must
/// have, and Error{kUsage} without updates or with weights that are no weights.
Aggregate aggregate(const AggregatorKind& kind, const OptionGroup& options,
                    const std::vector<FactorPair>& global, std::vector<ClientUpdate> updates,
                    std::vector<double> weights);

/// The first tensor of the update that is not finite, "" when there is none: such updates must be left out.
std::string not_finite_tensor(const ClientUpdate& update);

/// p_k by the number of examples, or all equal (`weighting`: "examples" or "uniform"); they sum to 1.
std::vector<double> client_weights(const std::vector<ClientUpdate>& updates, const std::string& weighting);

/// The leading `rank` columns of B and rows of A, with B rescaled for a client whose scaling is `scaling`.
FactorPair truncated(const FactorPair& pair, int64_t rank, double scaling);

}  // namespace msplora
