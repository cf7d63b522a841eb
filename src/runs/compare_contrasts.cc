// Rows of a comparison beside its reference.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "msplora/runs/compare.h"

namespace msplora {
namespace {

/// Runs of both rows with the same seeds.
struct PairedRuns {
  std::vector<double> scores, reference_scores;
  std::vector<std::vector<MetricPair>> pairs, reference_pairs;
  int64_t classes = 0;
};

PairedRuns paired_runs(const ComparisonRow& row, const ComparisonRow& reference) {
  PairedRuns paired;
  const auto has_score = [](const RunOutcome& run) { return run.error.empty() && run.score; };
  for (const RunOutcome& run : row.runs) {
    const auto partner =
        std::find_if(reference.runs.begin(), reference.runs.end(),
                     [&](const RunOutcome& other) { return has_score(other) && other.seed == run.seed; });
    if (partner == reference.runs.end() || !has_score(run)) continue;
    paired.scores.push_back(*run.score);
    paired.reference_scores.push_back(*partner->score);
    paired.pairs.push_back(run.pairs);
    paired.reference_pairs.push_back(partner->pairs);
    paired.classes = std::max(paired.classes, run.classes);
  }
  return paired;
}

void adjust(std::vector<ComparisonRow>& rows) {
  std::vector<double> p;
  for (const ComparisonRow& row : rows) {
    if (row.contrast && row.contrast->over_seeds.p) p.push_back(*row.contrast->over_seeds.p);
  }
  const std::vector<double> adjusted = holm_adjusted(p);
  size_t next = 0;
  for (ComparisonRow& row : rows) {
    if (row.contrast && row.contrast->over_seeds.p) row.contrast->p_adjusted = adjusted[next++];
  }
}

}  // namespace

std::string no_contrast_reason(const Comparison& comparison, const std::string& reference) {
  const ComparisonRow* found = nullptr;
  bool any_other = false;
  for (const ComparisonRow& row : comparison.rows) {
    if (row.contrast) return {};
    if (row.method == reference) {
      found = &row;
    } else {
      any_other = true;
    }
  }
  if (!any_other) return {};
  if (found == nullptr)
    return fmt::format("no differences from {}: it is not among compare.methods, so it has no runs",
                       reference);
  if (!found->mean)
    return fmt::format("no differences from {}: {}", reference,
                       found->failed > 0 ? "every run of it failed" : "it has no run with a score yet");
  return fmt::format("no differences from {}: no other method has a run with the seed of one of its runs",
                     reference);
}

void contrast_with_reference(Comparison& comparison, const std::string& reference, int64_t draws) {
  for (ComparisonRow& row : comparison.rows) row.contrast.reset();
  const auto found = std::find_if(comparison.rows.begin(), comparison.rows.end(),
                                  [&](const ComparisonRow& row) { return row.method == reference; });
  if (found == comparison.rows.end()) return;
  for (ComparisonRow& row : comparison.rows) {
    if (&row == &*found) continue;
    const PairedRuns paired = paired_runs(row, *found);
    if (paired.scores.empty()) continue;
    row.contrast.emplace();
    row.contrast->over_seeds = paired_t_test(paired.scores, paired.reference_scores);
    if (draws > 0 && comparison.is_test)
      row.contrast->over_both = bootstrap_difference(paired.pairs, paired.reference_pairs, comparison.metric,
                                                     draws, paired.classes);
  }
  adjust(comparison.rows);
}

}  // namespace msplora
