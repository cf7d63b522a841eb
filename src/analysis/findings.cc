// Sentences that follow from the numbers. Each states its threshold; docs/analysis.md explains them.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "analysis/snapshot.h"
#include "msplora/adapters/planning.h"
#include "msplora/analysis/analyze.h"
#include "msplora/core/option_io.h"
#include "msplora/report/numbers.h"

namespace msplora::analysis {
namespace {

constexpr double kIdle = 0.01;  // a level below this share of the energy, in both measures, does nothing
constexpr double kApart = 2.0;  // spaces that overlap less than this many times the random line are apart
constexpr double kAlike = 3.0;  // updates whose |cosine| is above this many random ones repeat each other
constexpr double kDifference = 0.1;  // of two redundancies, relative to the larger: below, they are equal

/// As many as hold all layers that are adapted.
int64_t num_layers(const AdapterAnalysis& analysis) {
  int64_t layers = 0;
  for (const SiteAnalysis& site : analysis.sites) layers = std::max(layers, site.layer + 1);
  return layers;
}

/// Whether a run on these layers would take the settings, as a recipe is checked.
bool is_accepted(const AdapterConfig& config, const AdapterAnalysis& analysis) {
  std::vector<Site> sites;
  for (const SiteAnalysis& found : analysis.sites) {
    Site site;
    site.path = found.path;
    site.module = found.module;
    site.layer = found.layer;
    site.out_features = found.out_features;
    site.in_features = found.in_features;
    sites.push_back(std::move(site));
  }
  try {
    count_parameters(config, sites, num_layers(analysis), AttentionHeads());
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// The settings as a recipe: `method` and what differs from the defaults. JSON is YAML. "" where a run would
/// refuse them.
std::string recipe_of(const AdapterConfig& config, const AdapterAnalysis& analysis) {
  if (!is_accepted(config, analysis)) return {};
  AdapterConfig plain;
  plain.method = config.method;
  const nlohmann::json defaults = to_json(plain), own = to_json(config);
  std::string text = fmt::format("adapter:\n  method: {}\n", config.method);
  for (const auto& [key, value] : own.items()) {
    if (value != defaults.at(key)) text += fmt::format("  {}: {}\n", key, value.dump());
  }
  return text;
}

/// msplora with these ranks of its levels; alphas and dropouts of levels that stay are kept.
std::string levels_recipe(const AdapterAnalysis& analysis, const AdapterConfig& config,
                          const std::vector<int64_t>& ranks, const std::vector<size_t>& kept) {
  const AdapterConfig defaults;
  AdapterConfig changed = config;
  changed.ranks = ranks;
  changed.rank = defaults.rank;
  changed.levels = defaults.levels;
  for (auto* values : {&changed.alphas, &changed.dropouts}) {
    if (values->empty()) continue;
    std::vector<double> left;
    for (const size_t level : kept) left.push_back(values->at(level));
    *values = std::move(left);
  }
  changed.stage_fractions.clear();
  changed.init_from.clear();
  // Groups of mid levels, where none is left.
  return recipe_of(without_overridden(changed, changed), analysis);
}

/// Levels that have so little of the update that it would hardly be another one without them.
void find_idle_levels(const AdapterAnalysis& analysis, const AdapterConfig& config,
                      std::vector<Finding>& findings) {
  if (analysis.levels.size() < 2) return;
  for (size_t k = 0; k < analysis.levels.size(); ++k) {
    const LevelSummary& level = analysis.levels[k];
    if (level.sites == 0) continue;
    const bool is_zero = level.norm == 0.0;
    if (!is_zero && !(std::abs(level.share) < kIdle && level.own < kIdle)) continue;
    Finding finding;
    finding.kind = "idle level";
    finding.text =
        is_zero ? fmt::format("Level `{}` does nothing: its update is 0.", level.name)
                : fmt::format(
                      "Level `{}` does nothing: it has {} of the energy and {} by itself (both below {}).",
                      level.name, report::percent_text(level.share), report::percent_text(level.own),
                      report::percent_text(kIdle));
    // What another level would be without the first or the last is not what it is now.
    const bool is_between = k > 0 && k + 1 < analysis.levels.size();
    if (config.method == "msplora" && is_between) {
      std::vector<int64_t> ranks = update_ranks(config, 0, num_layers(analysis));
      std::vector<size_t> kept;
      for (size_t other = 0; other < ranks.size(); ++other) {
        if (other != k) kept.push_back(other);
      }
      ranks.erase(ranks.begin() + static_cast<std::ptrdiff_t>(k));
      finding.recipe = levels_recipe(analysis, config, ranks, kept);
    }
    findings.push_back(std::move(finding));
  }
}

/// The smallest ranks that hold 99 % of the energy of each level in every site.
std::vector<int64_t> enough_ranks(const AdapterAnalysis& analysis) {
  std::vector<int64_t> ranks;
  for (const LevelSummary& level : analysis.levels)
    ranks.push_back(std::max<int64_t>(1, level.largest_rank_99));
  return ranks;
}

std::string fewer_ranks_recipe(const AdapterAnalysis& analysis, const AdapterConfig& config,
                               std::vector<int64_t> ranks) {
  const int64_t layers = num_layers(analysis);
  const std::vector<int64_t> now = update_ranks(config, 0, layers);
  if (config.method == "msplora" && ranks.size() == now.size()) {
    std::vector<size_t> kept;
    for (size_t k = 0; k < ranks.size(); ++k) {
      ranks[k] = std::min(ranks[k], now[k]);
      kept.push_back(k);
    }
    return ranks == now ? std::string() : levels_recipe(analysis, config, ranks, kept);
  }
  const bool has_one_rank =
      std::all_of(analysis.sites.begin(), analysis.sites.end(), [&](const SiteAnalysis& site) {
        return site.rank == config.rank &&
               update_ranks(config, site.layer, layers) == std::vector{config.rank};
      });
  AdapterConfig changed = config;
  changed.init_from.clear();
  changed.rank = ranks.front();
  return has_one_rank ? recipe_of(changed, analysis) : std::string();
}

void find_spare_ranks(const AdapterAnalysis& analysis, const AdapterConfig& config,
                      std::vector<Finding>& findings) {
  const bool has_factors = std::any_of(analysis.sites.begin(), analysis.sites.end(),
                                       [](const SiteAnalysis& site) { return site.rank > 0; });
  if (!has_factors) return;
  std::vector<std::string> parts;
  const std::vector<int64_t> enough = enough_ranks(analysis);
  for (size_t k = 0; k < analysis.levels.size(); ++k) {
    const LevelSummary& level = analysis.levels[k];
    const bool is_spare = level.sites > 0 && level.norm > 0.0 && enough[k] < level.rank;
    if (!is_spare) continue;
    const std::string what =
        analysis.levels.size() == 1 ? "the update" : fmt::format("level `{}`", level.name);
    parts.push_back(fmt::format("{} of {} directions of {}", enough[k], level.rank, what));
  }
  if (parts.empty()) return;
  findings.push_back(
      {"spare rank",
       fmt::format("{} hold 99 % of its energy in every layer: the others could go.", fmt::join(parts, ", ")),
       fewer_ranks_recipe(analysis, config, enough)});
}

/// Whether levels of one site use different directions.
void find_decoupling(const AdapterAnalysis& analysis, std::vector<Finding>& findings) {
  const size_t count = analysis.levels.size();
  for (size_t first = 0; first < count; ++first) {
    for (size_t second = first + 1; second < count; ++second) {
      std::vector<double> left, right, random_left, random_right;
      for (const SiteAnalysis& site : analysis.sites) {
        for (const LevelPair& pair : site.overlaps) {
          if (pair.first != first || pair.second != second) continue;
          left.push_back(pair.left.phi);
          right.push_back(pair.right.phi);
          random_left.push_back(pair.left.random);
          random_right.push_back(pair.right.random);
        }
      }
      const double out = mean_of(left), in = mean_of(right), line_out = mean_of(random_left),
                   line_in = mean_of(random_right);
      if (std::isnan(out)) continue;
      const bool is_apart = out < kApart * line_out && in < kApart * line_in;
      findings.push_back(
          {"decoupling",
           fmt::format(
               "Levels `{}` and `{}` {}: their spaces overlap by {:.4f} (outputs) and {:.4f} (inputs), "
               "random ones by {:.4f} and {:.4f}; {:g} times the random line counts as apart.",
               analysis.levels[first].name, analysis.levels[second].name,
               is_apart ? "are as far apart as random spaces" : "share directions", out, in, line_out,
               line_in, kApart),
           ""});
    }
  }
}

/// Mean |cosine| between layers of what they do not share, over all stacks, and its random line.
struct Redundancy {
  double mean = NAN, random = NAN, whole = NAN;
};

Redundancy redundancy_of(const AdapterAnalysis& analysis) {
  std::vector<double> means, randoms, wholes;
  for (const StackAnalysis& stack : analysis.stacks) {
    for (const LayerCosines* part : own_parts(stack)) {
      means.push_back(part->mean_absolute);
      randoms.push_back(part->random);
    }
    if (!stack.cosines.empty()) wholes.push_back(stack.cosines.front().mean_absolute);
  }
  return {mean_of(means), mean_of(randoms), mean_of(wholes)};
}

void find_redundancy(const AdapterAnalysis& analysis, std::vector<Finding>& findings) {
  const Redundancy found = redundancy_of(analysis);
  if (std::isnan(found.mean)) return;
  const std::string what = analysis.levels.size() == 1 ? "The updates" : "The parts of their own";
  findings.push_back(
      {"redundancy",
       fmt::format(
           "{} that layers have {}: mean |cosine| {:.5f}, of random updates {:.5f}; above {:g} times that "
           "they count as alike.",
           what, found.mean > kAlike * found.random ? "repeat each other" : "are as different as random ones",
           found.mean, found.random, kAlike),
       ""});
}

void find_intruders(const AdapterAnalysis& analysis, const Options& options, std::vector<Finding>& findings) {
  int64_t sites = 0, looked_at = 0, intruders = 0;
  for (const SiteAnalysis& site : analysis.sites) {
    if (!site.base || !site.base->directions) continue;
    ++sites;
    for (const double similarity : site.base->directions->similarity) {
      ++looked_at;
      intruders += similarity < options.threshold ? 1 : 0;
    }
  }
  if (looked_at == 0) return;
  findings.push_back({"intruders",
                      fmt::format("{} of the {} leading directions of {} adapted weights are intruders: no "
                                  "direction of the base lies within a cosine of {:g}.",
                                  intruders, looked_at, sites, options.threshold),
                      ""});
}

/// The largest rank of what layers have of their own.
int64_t own_rank(const AdapterAnalysis& analysis) {
  int64_t rank = 0;
  for (const LevelSummary& level : analysis.levels) {
    if (!level.is_shared) rank = std::max(rank, level.rank);
  }
  return rank;
}

bool has_shared(const AdapterAnalysis& analysis) {
  return std::any_of(analysis.levels.begin(), analysis.levels.end(),
                     [](const LevelSummary& level) { return level.is_shared; });
}

std::string beside_each_other(const AdapterAnalysis& shared, const AdapterAnalysis& plain) {
  const Redundancy ours = redundancy_of(shared), theirs = redundancy_of(plain);
  if (std::isnan(ours.mean) || std::isnan(theirs.mean)) return {};
  const double difference = ours.mean - theirs.mean;
  const bool is_equal = std::abs(difference) < kDifference * std::max(ours.mean, theirs.mean);
  const int64_t our_rank = own_rank(shared), their_rank = own_rank(plain);
  return fmt::format(
      "Layer by layer the parts of its own of {} (rank {}) are {} the updates of {} (rank {}): mean |cosine| "
      "{:.5f} against {:.5f} (random {:.5f}; equal within {:.0f} %). As wholes, with what layers share, "
      "{:.5f} "
      "against {:.5f}. {}One pair of runs is no evidence: seeds differ by as much.",
      shared.name, our_rank,
      is_equal         ? "as alike as"
      : difference < 0 ? "less alike than"
                       : "more alike than",
      plain.name, their_rank, ours.mean, theirs.mean, theirs.random, 100.0 * kDifference, ours.whole,
      theirs.whole,
      our_rank == their_rank
          ? ""
          : fmt::format(
                "The ranks differ, and with them what is compared: a LoRA of rank {} would be its like. ",
                our_rank));
}

}  // namespace

std::vector<Finding> findings_of(const AdapterAnalysis& analysis, const AdapterConfig& config,
                                 const Options& options) {
  std::vector<Finding> findings;
  find_idle_levels(analysis, config, findings);
  find_spare_ranks(analysis, config, findings);
  find_decoupling(analysis, findings);
  find_redundancy(analysis, findings);
  find_intruders(analysis, options, findings);
  return findings;
}

std::vector<Finding> findings_of(const std::vector<AdapterAnalysis>& adapters) {
  std::vector<Finding> findings;
  for (const AdapterAnalysis& shared : adapters) {
    if (!has_shared(shared)) continue;
    for (const AdapterAnalysis& plain : adapters) {
      if (plain.levels.size() != 1 || has_shared(plain)) continue;
      std::string text = beside_each_other(shared, plain);
      if (!text.empty()) findings.push_back({"redundancy", std::move(text), ""});
    }
  }
  return findings;
}

}  // namespace msplora::analysis
