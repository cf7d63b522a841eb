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

/// Means over the sites that a level acts in.
class LevelMeans {
 public:
  void add(const Spectrum& spectrum, int64_t rank, double share, double own) {
    ++summary_.sites;
    summary_.rank = std::max(summary_.rank, rank);
    share_.push_back(share);
    own_.push_back(own);
    norm_.push_back(spectrum.norm);
    stable_.push_back(spectrum.stable_rank);
    // Unknown where only the leading values of a large matrix were sought.
    if (spectrum.effective_rank) effective_.push_back(*spectrum.effective_rank);
    if (spectrum.rank_90) rank_90_.push_back(static_cast<double>(*spectrum.rank_90));
    if (spectrum.rank_99) rank_99_.push_back(static_cast<double>(*spectrum.rank_99));
    summary_.largest_rank_99 = std::max(summary_.largest_rank_99, spectrum.rank_99.value_or(0));
  }

  LevelSummary summary() const {
    LevelSummary summary = summary_;
    summary.share = mean_of(share_);
    summary.own = mean_of(own_);
    summary.norm = mean_of(norm_);
    summary.stable_rank = mean_of(stable_);
    summary.effective_rank = mean_of(effective_);
    summary.rank_90 = mean_of(rank_90_);
    summary.rank_99 = mean_of(rank_99_);
    return summary;
  }

 private:
  LevelSummary summary_;
  std::vector<double> share_, own_, norm_, stable_, effective_, rank_90_, rank_99_;
};

LevelSummary summary_of(const std::vector<SiteAnalysis>& sites, size_t level) {
  LevelMeans means;
  for (const SiteAnalysis& site : sites) {
    for (const LevelPart& part : site.levels) {
      if (part.level == level) means.add(part.spectrum, part.rank, part.share, part.own);
    }
  }
  return means.summary();
}

/// Of an update without factors: the whole is its one level.
LevelSummary summary_of_wholes(const std::vector<SiteAnalysis>& sites) {
  LevelMeans means;
  int64_t parameters = 0;
  for (const SiteAnalysis& site : sites) {
    means.add(site.whole, std::min(site.out_features, site.in_features), 1.0, 1.0);
    parameters += site.out_features * site.in_features;
  }
  LevelSummary summary = means.summary();
  summary.parameters = parameters;
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
    const bool has_factors = !adapter.sites().empty();
    LevelSummary summary = has_factors ? summary_of(result.sites, k) : summary_of_wholes(result.sites);
    summary.name = levels[k];
    summary.is_shared = is_shared_level(forms, k);
    if (has_factors) summary.parameters = level_parameters(adapter, forms, k);
    result.levels.push_back(std::move(summary));
  }
  note_large_bases(result.sites, options, result.notes);
  result.findings = findings_of(result, adapter.config(), options);
  return result;
}

}  // namespace msplora::analysis
