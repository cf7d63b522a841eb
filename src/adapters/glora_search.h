#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace msplora::detail {

/// What a support of GLoRA is made of, smallest first; written `none`, `constant`, `vector`, `lora`.
enum class Support : uint8_t { kNone, kConstant, kVector, kLowRank };
std::string support_name(Support support);
std::optional<Support> support_from_name(const std::string& name);

/// The five supports of a layer: A, B, C, D, E.
using SiteChoice = std::array<Support, 5>;
inline constexpr size_t kA = 0, kB = 1, kC = 2, kD = 3, kE = 4;
/// One choice for each layer.
using Choices = std::vector<SiteChoice>;

/// What one layer may choose from. 4 * 4 * 3 * 3 * 3 = 432 choices with a bias.
struct SiteSpace {
  int64_t in = 0, out = 0, rank = 0;
  std::array<std::vector<Support>, 5> options;  // of each support, smallest first

  SiteChoice largest() const;
  /// Parameters of one support, and of a whole choice.
  int64_t parameters(size_t support, Support choice) const;
  int64_t parameters(const SiteChoice& choice) const;
};

/// The space of a layer. One without a bias has no C, D and E, or, with `add_bias`, no D.
SiteSpace site_space(int64_t in, int64_t out, int64_t rank, bool has_bias, bool add_bias);

/// Parameters of the supports that the choices use.
int64_t parameters_of(const std::vector<SiteSpace>& spaces, const Choices& choices);

struct SearchOptions {
  int64_t population = 50;
  int64_t generations = 20;
  int64_t parents = 10;
  double mutation_probability = 0.2;
  int64_t max_parameters = 1000000;
  int64_t min_parameters = 0;
  uint64_t seed = 0;
};

struct Candidate {
  Choices choices;
  int64_t parameters = 0;
  double score = 0.0;
};

struct SearchResult {
  Candidate best;
  std::vector<Candidate> history;  // the best one after each generation, the random one first
  int64_t evaluations = 0;
};

/// Evolution as in GLoRA (arXiv 2306.07967, code of the authors): a random population, then generations of
/// mutants and crossovers of the best candidates so far, filled up with random ones; a candidate is scored
/// once and must lie within the budget. Of equal scores the one with fewer parameters wins, then the earlier
/// one. `population` * (1 + `generations`) scores at most; fewer when nothing new is left within the budget.
/// A function of the spaces, the options and the scores. A score that is not a number counts as the worst.
/// Throws Error{kConfig} when no candidate can be found within the budget.
SearchResult evolve(const std::vector<SiteSpace>& spaces, const SearchOptions& options,
                    const std::function<double(const Choices&)>& score,
                    const std::function<void(const std::string&)>& say = {});

}  // namespace msplora::detail
