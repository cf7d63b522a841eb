#include "adapters/glora_search.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/random.h"

namespace msplora::detail {
namespace {

constexpr int kTries = 10;
constexpr const char* kNames[] = {"none", "constant", "vector", "lora"};

class Evolution {
 public:
  Evolution(const std::vector<SiteSpace>& spaces, const SearchOptions& options,
            const std::function<double(const Choices&)>& score)
      : spaces_(spaces), options_(options), score_(score), random_(options.seed, "glora.search") {}

  SearchResult run(const std::function<void(const std::string&)>& say) {
    fill_up();
    if (fresh_.empty()) {
      throw Error(ErrorCode::kConfig, "adapter.glora",
                  fmt::format("no choice of supports has from {} to {} parameters", options_.min_parameters,
                              options_.max_parameters),
                  "a wider budget");
    }
    for (int64_t generation = 0; generation <= options_.generations && !fresh_.empty(); ++generation) {
      score_fresh();
      result_.history.push_back(best_.front());
      if (say) {
        say(fmt::format("search, generation {} of {}: {} candidates scored, best {:.6g} with {} parameters",
                        generation, options_.generations, result_.evaluations, best_.front().score,
                        best_.front().parameters));
      }
      if (generation < options_.generations) breed();
    }
    result_.best = best_.front();
    return std::move(result_);
  }

 private:
  void score_fresh() {
    for (Choices& choices : fresh_) {
      Candidate candidate;
      candidate.score = score_(choices);
      if (std::isnan(candidate.score)) candidate.score = -std::numeric_limits<double>::infinity();
      candidate.parameters = parameters_of(spaces_, choices);
      candidate.choices = std::move(choices);
      best_.push_back(std::move(candidate));
      ++result_.evaluations;
    }
    fresh_.clear();
    // Stable: earlier candidates stay before later ones.
    std::stable_sort(best_.begin(), best_.end(), [](const Candidate& a, const Candidate& b) {
      return a.score != b.score ? a.score > b.score : a.parameters < b.parameters;
    });
    if (best_.size() > static_cast<size_t>(options_.parents)) {
      best_.resize(static_cast<size_t>(options_.parents));
    }
  }

  void breed() {
    const int64_t mutants = options_.population / 2, crossovers = options_.population - mutants;
    for (int64_t tries = 0; count() < mutants && tries < kTries * mutants; ++tries) accept(mutant());
    const int64_t bred = count();
    for (int64_t tries = 0; count() < bred + crossovers && tries < kTries * crossovers; ++tries) {
      accept(crossover());
    }
    fill_up();
  }

  void fill_up() {
    for (int64_t tries = 0; count() < options_.population && tries < kTries * options_.population; ++tries) {
      // A tight budget has few uniform draws within it: the others are moved into it.
      if (Choices choices = random_choices(); !accept(choices)) accept(moved_into_budget(std::move(choices)));
    }
  }

  int64_t count() const { return static_cast<int64_t>(fresh_.size()); }

  bool accept(const Choices& choices) {
    const int64_t parameters = parameters_of(spaces_, choices);
    if (parameters > options_.max_parameters || parameters < options_.min_parameters) return false;
    if (!seen_.insert(choices).second) return false;
    fresh_.push_back(choices);
    return true;
  }

  template <typename T>
  const T& any_of(const std::vector<T>& values) {
    return values[random_.below(values.size())];
  }

  Choices random_choices() {
    Choices choices(spaces_.size());
    for (size_t site = 0; site < spaces_.size(); ++site) {
      for (size_t k = 0; k < choices[site].size(); ++k) choices[site][k] = any_of(spaces_[site].options[k]);
    }
    return choices;
  }

  Choices mutant() {
    Choices choices = any_of(best_).choices;
    for (size_t site = 0; site < spaces_.size(); ++site) {
      for (size_t k = 0; k < choices[site].size(); ++k) {
        if (random_.uniform() < options_.mutation_probability) {
          choices[site][k] = any_of(spaces_[site].options[k]);
        }
      }
    }
    return choices;
  }

  Choices crossover() {
    Choices choices = any_of(best_).choices;
    const Choices& other = any_of(best_).choices;
    for (size_t site = 0; site < spaces_.size(); ++site) {
      for (size_t k = 0; k < choices[site].size(); ++k) {
        if (random_.below(2) == 1) choices[site][k] = other[site][k];
      }
    }
    return choices;
  }

  /// Supports drawn one by one are made smaller (larger) until the budget is met.
  Choices moved_into_budget(Choices choices) {
    for (bool changed = true; changed && parameters_of(spaces_, choices) > options_.max_parameters;) {
      changed = change_one(choices, /*smaller=*/true);
    }
    for (bool changed = true; changed && parameters_of(spaces_, choices) < options_.min_parameters;) {
      changed = change_one(choices, /*smaller=*/false);
    }
    return choices;
  }

  bool change_one(Choices& choices, bool smaller) {
    struct Place {
      size_t site, support;
      Support to;
    };
    std::vector<Place> places;
    for (size_t site = 0; site < spaces_.size(); ++site) {
      for (size_t k = 0; k < choices[site].size(); ++k) {
        for (const Support to : spaces_[site].options[k]) {
          if (smaller ? to < choices[site][k] : to > choices[site][k]) places.push_back({site, k, to});
        }
      }
    }
    if (places.empty()) return false;
    const Place& place = any_of(places);
    choices[place.site][place.support] = place.to;
    return true;
  }

  const std::vector<SiteSpace>& spaces_;
  const SearchOptions& options_;
  const std::function<double(const Choices&)>& score_;
  RandomStream random_;
  std::set<Choices> seen_;
  std::vector<Choices> fresh_;   // not scored yet
  std::vector<Candidate> best_;  // the parents
  SearchResult result_;
};

}  // namespace

std::string support_name(Support support) {
  return kNames[static_cast<size_t>(support)];
}

std::optional<Support> support_from_name(const std::string& name) {
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (name == kNames[i]) return static_cast<Support>(i);
  }
  return std::nullopt;
}

SiteChoice SiteSpace::largest() const {
  SiteChoice choice;
  for (size_t k = 0; k < choice.size(); ++k) choice[k] = options[k].back();
  return choice;
}

int64_t SiteSpace::parameters(size_t support, Support choice) const {
  const bool is_input = support == kC, is_matrix = support == kA || support == kB;
  switch (choice) {
    case Support::kNone:
      return 0;
    case Support::kConstant:
      return 1;
    case Support::kVector:
      return is_input ? in : out;
    case Support::kLowRank:
      return is_matrix ? rank * (in + out) : rank * (in + 1);
  }
  return 0;
}

int64_t SiteSpace::parameters(const SiteChoice& choice) const {
  int64_t count = 0;
  for (size_t k = 0; k < choice.size(); ++k) count += parameters(k, choice[k]);
  return count;
}

SiteSpace site_space(int64_t in, int64_t out, int64_t rank, bool has_bias, bool add_bias) {
  const std::vector<Support> none = {Support::kNone};
  const std::vector<Support> matrix = {Support::kNone, Support::kConstant, Support::kVector,
                                       Support::kLowRank};
  const std::vector<Support> input = {Support::kNone, Support::kVector, Support::kLowRank};
  const std::vector<Support> output = {Support::kNone, Support::kConstant, Support::kVector};
  const bool gets_bias = has_bias || add_bias;
  return {in,
          out,
          rank,
          {matrix, matrix, gets_bias ? input : none, has_bias ? output : none, gets_bias ? output : none}};
}

int64_t parameters_of(const std::vector<SiteSpace>& spaces, const Choices& choices) {
  int64_t count = 0;
  for (size_t site = 0; site < spaces.size(); ++site) count += spaces[site].parameters(choices[site]);
  return count;
}

SearchResult evolve(const std::vector<SiteSpace>& spaces, const SearchOptions& options,
                    const std::function<double(const Choices&)>& score,
                    const std::function<void(const std::string&)>& say) {
  return Evolution(spaces, options, score).run(say);
}

}  // namespace msplora::detail
