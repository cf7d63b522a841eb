#include "analysis/site_form.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/mm.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "msplora/core/error.h"

namespace msplora::analysis {
namespace {

const Site* layer_at(const BaseWeights* base, const std::string& path) {
  if (base == nullptr) return nullptr;
  const auto found = std::find_if(base->sites.begin(), base->sites.end(),
                                  [&](const Site& site) { return site.path == path; });
  return found == base->sites.end() || found->linear == nullptr ? nullptr : &*found;
}

RowMatrix rows_of(const std::shared_ptr<Weight>& weight) {
  return {weight->out_features(), weight->in_features(), [weight](int64_t begin, int64_t end) {
            return weight->rows(begin, end).detach().to(at::kCPU, at::kDouble);
          }};
}

/// W0 ∘ (left right) + diag(gain) up down, in rows.
RowMatrix scaled_rows(const Site& site, const RowMatrix& base, const WeightScaling& scaling,
                      const msplora::detail::LowRank& terms) {
  return {site.out_features, site.in_features, [=](int64_t begin, int64_t end) {
            at::Tensor rows =
                at::mm(scaling.left.slice(0, begin, end), scaling.right) * base.rows(begin, end);
            if (terms.rank() == 0) return rows;
            at::Tensor low_rank = at::mm(terms.up.slice(0, begin, end), terms.down);
            if (scaling.gain.defined()) low_rank *= scaling.gain.slice(0, begin, end).unsqueeze(1);
            return rows + low_rank;
          }};
}

SiteForm low_rank_form(const Adapter& adapter, size_t index, const BaseWeights* base) {
  SiteForm form;
  form.site = adapter.sites()[index];
  form.levels.resize(adapter.level_names().size());
  const std::vector<LowRankTerm> terms = adapter.terms(index);
  const std::vector<size_t> levels = adapter.levels_of_terms(index);
  for (size_t k = 0; k < terms.size(); ++k) form.levels.at(levels.at(k)).push_back(terms[k]);
  const Site* layer = layer_at(base, form.site.path);
  // A table of words is stored the other way round, and is looked up instead of multiplied.
  if (layer != nullptr && form.site.role != LinearRole::kWords) form.base = rows_of(layer->linear->weight);
  if (!adapter.is_shape_only() || !adapter.config().use_dora) form.scaling = adapter.weight_scaling(index);
  if (form.scaling.left.defined() && form.base)
    form.whole = scaled_rows(form.site, *form.base, form.scaling, stacked(terms));
  return form;
}

/// Matrices of the blocks that training has changed: the trained weights less those of the base.
std::vector<SiteForm> dense_forms(const Adapter& adapter, const BaseWeights* base) {
  if (base == nullptr) {
    throw Error(ErrorCode::kUsage, "analyze",
                fmt::format("method `{}` trains the base's own weights: its change is their difference from "
                            "the base, which is not at hand",
                            adapter.config().method),
                "name the base with --base");
  }
  std::vector<SiteForm> forms;
  for (const Site& site : adapter.target().sites) {
    const Site* layer = layer_at(base, site.path);
    if (site.layer < 0 || site.linear == nullptr || layer == nullptr) continue;
    SiteForm form;
    form.site = site;
    form.levels.resize(1);
    form.base = rows_of(layer->linear->weight);
    const RowMatrix now = rows_of(site.linear->weight), before = *form.base;
    form.whole = RowMatrix{now.out, now.in, [now, before](int64_t begin, int64_t end) {
                             return now.rows(begin, end) - before.rows(begin, end);
                           }};
    forms.push_back(std::move(form));
  }
  return forms;
}

void check_has_change(const Adapter& adapter) {
  const std::string& method = adapter.config().method;
  if (!adapter.sites().empty() || method == "full") return;
  throw Error(ErrorCode::kUsage, "analyze",
              method == "bitfit"
                  ? "method `bitfit` trains biases alone, which are vectors: there is no matrix to decompose"
                  : fmt::format("method `{}` changes no layer: there is nothing to decompose", method));
}

/// Says what the forms could not be given.
void note_missing(const Adapter& adapter, const std::vector<SiteForm>& forms,
                  std::vector<std::string>& notes) {
  const bool is_dora = adapter.config().use_dora;
  const auto lacks = [&](const SiteForm& form) { return (is_dora || !form.scaling.empty()) && !form.whole; };
  if (std::any_of(forms.begin(), forms.end(), lacks)) {
    notes.push_back(
        fmt::format("{}: numbers are those of the low-rank part alone; the rest of the change is "
                    "made of the base's weights, which are not at hand",
                    is_dora ? "DoRA" : adapter.config().method));
  } else if (std::any_of(forms.begin(), forms.end(),
                         [](const SiteForm& form) { return !form.scaling.empty(); })) {
    notes.push_back(
        fmt::format("{}: the change has full rank; levels, cosines and curves are those of its low-rank part",
                    is_dora ? "DoRA" : adapter.config().method));
  }
}

}  // namespace

std::vector<LowRankTerm> SiteForm::terms() const {
  std::vector<LowRankTerm> all;
  for (const auto& level : levels) all.insert(all.end(), level.begin(), level.end());
  return all;
}

msplora::detail::LowRank stacked(const std::vector<LowRankTerm>& terms) {
  if (terms.empty()) return {};
  std::vector<at::Tensor> ups, downs;
  for (const LowRankTerm& term : terms) {
    ups.push_back(term.up.detach().to(at::kCPU, at::kDouble) * term.scaling);
    downs.push_back(term.down.detach().to(at::kCPU, at::kDouble));
  }
  return {at::cat(ups, 1), at::cat(downs, 0)};
}

std::vector<SiteForm> forms_of(const Adapter& adapter, const BaseWeights* base,
                               std::vector<std::string>& notes) {
  const c10::NoGradGuard no_grad;
  check_has_change(adapter);
  if (adapter.sites().empty()) {
    notes.push_back(fmt::format(
        "{}: the change has full rank and no factors; cosines between layers are formed of factors alone and "
        "left out, spaces are those of the leading directions",
        adapter.config().method));
    return dense_forms(adapter, base);
  }
  std::vector<SiteForm> forms;
  for (size_t i = 0; i < adapter.sites().size(); ++i) forms.push_back(low_rank_form(adapter, i, base));
  note_missing(adapter, forms, notes);
  return forms;
}

}  // namespace msplora::analysis
