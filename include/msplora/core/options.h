#pragma once

#include <optional>
#include <string>
#include <vector>

namespace msplora {

/// What values an option takes; checked when a recipe is read.
///
/// An options struct declares each option once, in a member
///
///     template <class Visitor> void visit(Visitor&& visitor) {
///       visitor("rank", rank, "Rank of the first (largest) level", at_least(1));
///       visitor("schedule", schedule, "Shape of the learning rate", one_of({"linear", "cosine"}));
///       visitor("adapter", adapter, "The adapter");  // nested: any type that has visit()
///     }
///
/// and visitors read YAML, apply `a.b=c` overrides, write JSON, print help and the reference page from it
/// (train/recipe.h). Types: bool, int64_t, double, std::string, std::optional<T>, std::vector<T>,
/// std::map<std::string, T>. The member initialiser is the default.
struct OptionRange {
  std::vector<std::string> choices;  // of a string (or of each string of a list)
  std::optional<double> min;         // of a number (or of each number of a list)
  std::optional<double> max;
  bool min_excluded = false;
  bool max_excluded = false;
};

inline OptionRange one_of(std::vector<std::string> choices) {
  return {std::move(choices), {}, {}, false, false};
}
inline OptionRange at_least(double min) {
  return {{}, min, {}, false, false};
}
inline OptionRange above(double min) {
  return {{}, min, {}, true, false};
}
inline OptionRange between(double min, double max) {
  return {{}, min, max, false, false};
}
/// [min, max): probabilities that must not reach 1.
inline OptionRange probability_below_one() {
  return {{}, 0.0, 1.0, false, true};
}

}  // namespace msplora
