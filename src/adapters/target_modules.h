#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/adapters/config.h"
#include "msplora/core/error.h"
#include "msplora/nn/linear.h"

namespace msplora::detail {

/// Whether an option that has no effect (a name that matches nothing beside others that match) is an error.
/// Recipes are checked strictly; adapter files made elsewhere may name modules that this model lacks.
enum class Strictness { kStrict, kLenient };

/// `path` equals `name` or ends with "." + `name`.
bool matches_suffix(std::string_view path, std::string_view name);

/// `name` occurs in `path` as whole components, e.g. "attention.self" in "layer.0.attention.self.query".
bool contains_components(std::string_view path, std::string_view name);

/// The single entry `all-linear`, in any case.
bool is_all_linear(const AdapterConfig& config);

/// The targeted sites by PEFT's rules, in this order: exclude_modules; modules_to_save and heads (never
/// targeted); target_modules_regex against the full path; or target_modules, where an entry equals the path
/// (then the layer filter does not apply) or is a suffix of it (then layers_to_transform filters by the first
/// layer index in the path). `all-linear` takes every linear layer but output heads.
///
/// Adds to `errors`: nothing matched (lists what exists with shapes and counts, and the nearest names), an
/// entry that matches nothing, contradictory options, invalid regular expressions.
std::vector<Site> match_targets(const AdapterConfig& config, const std::vector<Site>& sites,
                                const std::vector<std::string>& heads, Strictness strictness,
                                ErrorList& errors);

/// Distinct modules with shapes [out, in] and counts: "query [768, 768] x12, dense [3072, 768] x12".
std::string describe_sites(const std::vector<Site>& sites);

/// The value of the first pattern, in the order given, whose `(.*\.)?(pattern)$` matches the path; else
/// `fallback`. Adds to `errors` when a pattern is no regular expression. `Patterns` is a range of (pattern,
/// value).
template <typename Patterns, typename T>
T pattern_value(const Patterns& patterns, const std::string& path, T fallback);

/// Whether `(.*\.)?(pattern)$` matches the path from its start. Throws std::invalid_argument for a bad
/// pattern.
bool matches_pattern(const std::string& pattern, const std::string& path);

template <typename Patterns, typename T>
T pattern_value(const Patterns& patterns, const std::string& path, T fallback) {
  for (const auto& [pattern, value] : patterns) {
    if (matches_pattern(pattern, path)) return value;
  }
  return fallback;
}

}  // namespace msplora::detail
