#include "msplora/analysis/analyze.h"

#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "analysis/inner_products.h"
#include "analysis/site_form.h"
#include "analysis/snapshot.h"
#include "msplora/adapters/planning.h"

namespace msplora::analysis {
namespace {

/// Values of the trainable tensors among the factors of a level, each once.
int64_t level_parameters(const Adapter& adapter, const std::vector<SiteForm>& forms, size_t level) {
  int64_t count = 0;
  for (const TrainableTensor& entry : adapter.trainable()) {
    const bool is_used = std::any_of(forms.begin(), forms.end(), [&](const SiteForm& form) {
      return std::any_of(form.levels[level].begin(), form.levels[level].end(), [&](const LowRankTerm& term) {
        return term.up.is_same(entry.tensor) || term.down.is_same(entry.tensor);
      });
    });
    if (is_used) count += entry.tensor.numel();
  }
  return count;
}

LevelSummary summary_of(const std::vector<SiteAnalysis>& sites, size_t level) {
  LevelSummary summary;
  std::vector<double> share, own, norm, stable, effective, rank_90, rank_99;
  for (const SiteAnalysis& site : sites) {
    for (const LevelPart& part : site.levels) {
      if (part.level != level) continue;
      ++summary.sites;
      summary.rank = std::max(summary.rank, part.rank);
      share.push_back(part.share);
      own.push_back(part.own);
      norm.push_back(part.spectrum.norm);
      stable.push_back(part.spectrum.stable_rank);
      effective.push_back(part.spectrum.effective_rank.value_or(0.0));
      rank_90.push_back(static_cast<double>(part.spectrum.rank_90.value_or(0)));
      rank_99.push_back(static_cast<double>(part.spectrum.rank_99.value_or(0)));
      summary.largest_rank_99 = std::max(summary.largest_rank_99, part.spectrum.rank_99.value_or(0));
    }
  }
  summary.share = mean_of(share);
  summary.own = mean_of(own);
  summary.norm = mean_of(norm);
  summary.stable_rank = mean_of(stable);
  summary.effective_rank = mean_of(effective);
  summary.rank_90 = mean_of(rank_90);
  summary.rank_99 = mean_of(rank_99);
  return summary;
}

/// Several sites with the same factors.
bool is_shared_level(const std::vector<SiteForm>& forms, size_t level) {
  for (size_t i = 0; i < forms.size(); ++i) {
    for (size_t j = i + 1; j < forms.size(); ++j) {
      const auto &a = forms[i].levels[level], &b = forms[j].levels[level];
      if (!a.empty() && !b.empty() && same_factors(a.front(), b.front())) return true;
    }
  }
  return false;
}

void note_large_bases(const std::vector<SiteAnalysis>& sites, const Options& options,
                      std::vector<std::string>& notes) {
  const auto lacks = [](const SiteAnalysis& site) { return site.base && !site.base->directions; };
  const auto count = std::count_if(sites.begin(), sites.end(), lacks);
  if (count == 0) return;
  notes.push_back(
      fmt::format("leading directions of the base and intruder dimensions were left out for {} layers whose "
                  "smaller side is above {}",
                  count, options.largest_base));
}

}  // namespace

AdapterAnalysis analyze(const Adapter& adapter, const std::string& name, const BaseWeights* base,
                        const Options& options) {
  const c10::NoGradGuard no_grad;
  AdapterAnalysis result;
  result.name = name;
  result.method = adapter.config().method;
  result.line = method_line(adapter.config());
  result.parameters = adapter.trainable_count(ParameterGroup::kAdapter);
  const std::vector<SiteForm> forms = forms_of(adapter, base, result.notes);
  const std::vector<std::string> levels = adapter.level_names();
  Snapshot snapshot = snapshot_of(forms, levels, options);
  result.sites = std::move(snapshot.sites);
  result.stacks = std::move(snapshot.stacks);
  if (base != nullptr) result.base = base->name;
  for (size_t k = 0; k < levels.size(); ++k) {
    LevelSummary summary = summary_of(result.sites, k);
    summary.name = levels[k];
    summary.is_shared = is_shared_level(forms, k);
    summary.parameters = level_parameters(adapter, forms, k);
    result.levels.push_back(std::move(summary));
  }
  note_large_bases(result.sites, options, result.notes);
  result.findings = findings_of(result, adapter.config(), options);
  return result;
}

}  // namespace msplora::analysis
