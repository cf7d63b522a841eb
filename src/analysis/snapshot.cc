#include "analysis/snapshot.h"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <utility>

#include "adapters/share_plan.h"
#include "analysis/stack_analysis.h"

namespace msplora::analysis {
namespace {

/// Sites by stack, in the order in which stacks appear.
std::vector<std::vector<size_t>> stacks_of(const std::vector<SiteForm>& forms) {
  std::vector<std::vector<size_t>> stacks;
  std::map<std::string, size_t> known;
  for (size_t i = 0; i < forms.size(); ++i) {
    const auto [at, is_new] = known.emplace(msplora::detail::stack_key(forms[i].site), stacks.size());
    if (is_new) stacks.emplace_back();
    stacks[at->second].push_back(i);
  }
  return stacks;
}

/// The last component of the path where it tells the stacks apart, else the path with its layer as `*`.
void name_stacks(const std::vector<SiteForm>& forms, std::vector<StackAnalysis>& stacks) {
  std::map<std::string, int> uses;
  for (StackAnalysis& stack : stacks) ++uses[stack.module = forms[stack.sites.front()].site.module];
  for (StackAnalysis& stack : stacks) {
    if (uses[stack.module] == 1) continue;
    const std::string key = msplora::detail::stack_key(forms[stack.sites.front()].site);
    stack.module = key.substr(0, key.rfind(' '));
  }
}

}  // namespace

Snapshot snapshot_of(const std::vector<SiteForm>& forms, const std::vector<std::string>& levels,
                     const Options& options) {
  Snapshot result;
  result.sites.resize(forms.size());
  result.spaces.resize(forms.size());
  const auto count = static_cast<int64_t>(levels.size());
  for (const std::vector<size_t>& sites : stacks_of(forms)) {
    StackInput input;
    for (const size_t site : sites) input.forms.push_back(&forms[site]);
    input.inner = stack_inner_products(input.forms);
    for (size_t i = 0; i < sites.size(); ++i) {
      const int64_t begin = static_cast<int64_t>(i) * count, end = begin + count;
      const at::Tensor own =
          input.inner.defined() ? input.inner.slice(0, begin, end).slice(1, begin, end) : at::Tensor();
      SiteSpaces& spaces = result.spaces[sites[i]];
      result.sites[sites[i]] = analyze_site(forms[sites[i]], own, options, spaces);
      input.spaces.push_back(&spaces);
    }
    StackAnalysis stack = analyze_stack(input, levels, options);
    stack.sites = sites;
    for (const size_t site : sites) stack.layers.push_back(forms[site].site.layer);
    stack.out_features = forms[sites.front()].site.out_features;
    stack.in_features = forms[sites.front()].site.in_features;
    result.stacks.push_back(std::move(stack));
  }
  name_stacks(forms, result.stacks);
  return result;
}

std::vector<const LayerCosines*> own_parts(const StackAnalysis& stack) {
  std::vector<const LayerCosines*> parts;
  for (const LayerCosines& part : stack.cosines) {
    const bool is_level = stack.cosines.size() == 1 || part.part != "whole";
    if (is_level && !part.is_shared) parts.push_back(&part);
  }
  return parts;
}

double mean_of(const std::vector<double>& values) {
  double sum = 0.0;
  int64_t count = 0;
  for (const double value : values) {
    if (std::isnan(value)) continue;
    sum += value;
    ++count;
  }
  return count == 0 ? NAN : sum / static_cast<double>(count);
}

}  // namespace msplora::analysis
