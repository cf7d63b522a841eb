#include "msplora/analysis/page.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "analysis/page_parts.h"
#include "msplora/report/numbers.h"

namespace msplora::analysis {
namespace {

void add_findings(report::Section& section, const std::string& name, const std::vector<Finding>& findings) {
  if (findings.empty()) return;
  report::List list;
  list.strong = true;
  std::vector<std::string> recipes;
  for (const Finding& finding : findings) {
    list.items.push_back(name.empty() ? finding.text : name + ": " + finding.text);
    const bool known = std::find(recipes.begin(), recipes.end(), finding.recipe) != recipes.end();
    if (!finding.recipe.empty() && !known) recipes.push_back(finding.recipe);
  }
  section.blocks.emplace_back(std::move(list));
  for (std::string& recipe : recipes) {
    section.blocks.emplace_back(report::Paragraph{"As a recipe for `msplora train`:"});
    section.blocks.emplace_back(report::Code{std::move(recipe)});
  }
}

report::Section findings_section(const Report& report) {
  report::Section section{"What it comes to", {}};
  add_findings(section, "", report.findings);
  for (const AdapterAnalysis& adapter : report.adapters) {
    add_findings(section, report.adapters.size() > 1 ? adapter.name : "", adapter.findings);
  }
  if (section.blocks.empty()) {
    section.blocks.emplace_back(
        report::Paragraph{"No finding passes its threshold: no idle level, no spare rank."});
  }
  section.blocks.emplace_back(
      report::Paragraph{"Every sentence follows from the numbers by a threshold that it states. One run of "
                        "one seed shows how this adapter came out, not how its method does."});
  return section;
}

report::Table level_table(const AdapterAnalysis& adapter) {
  report::Table table;
  table.caption = fmt::format("{}: {}", adapter.name, adapter.line);
  table.columns = {"level",      "rank", "layers",      "parameters",     "share",
                   "own energy", "norm", "stable rank", "effective rank", "rank at 99 %"};
  for (const LevelSummary& level : adapter.levels) {
    table.rows.push_back(
        {level.name + (level.is_shared ? " (shared)" : ""), report::number_text(double(level.rank)),
         report::number_text(double(level.sites)), report::number_text(double(level.parameters)),
         report::percent_text(level.share), report::percent_text(level.own),
         report::number_text(level.norm, 3), report::number_text(level.stable_rank, 3),
         report::number_text(level.effective_rank, 3), report::number_text(level.rank_99, 3)});
  }
  return table;
}

report::Section adapters_section(const Report& report) {
  report::Section section{report.adapters.size() == 1 ? "The adapter" : "The adapters", {}};
  for (const AdapterAnalysis& adapter : report.adapters) section.blocks.emplace_back(level_table(adapter));
  section.blocks.emplace_back(
      report::Paragraph{"Means over the adapted layers. The share of a level is <dW_k, dW> / |dW|²: it sums "
                        "to 100 %, and is negative where a level takes back what others do. Its own energy "
                        "is |dW_k|² / Σ|dW_j|²; the two differ where levels overlap."});
  report::List notes;
  for (const AdapterAnalysis& adapter : report.adapters) {
    for (const std::string& note : adapter.notes) notes.items.push_back(adapter.name + ": " + note);
  }
  section.blocks.emplace_back(std::move(notes));
  return section;
}

report::Section reading_section(const Report& report) {
  report::Section section{"How to read it", {}};
  report::List list;
  list.items = {
      "dW is what the adapter adds to the weight W0 of a layer. It is never formed: thin QR factorisations "
      "of its factors and a small core give its singular values and vectors, in float64. Factors themselves "
      "are compared nowhere, because other factors give the same update.",
      fmt::format("Spaces are compared by their {} leading directions. phi(i, j) = |UᵀV|² / min(i, j) is 1 "
                  "for one space within the other, 0 for orthogonal ones, and max(i, j) / d for spaces drawn "
                  "at random: that value stands beside it.",
                  report.options.top),
      "Different modules, as query and value, are never compared with each other: they read and write "
      "different things.",
      "The paper (arXiv 2503.21838) names an analysis by singular value decomposition without definitions "
      "that could be repeated; those of this page are derived from its claims and are ours.",
  };
  section.blocks.emplace_back(std::move(list));
  return section;
}

}  // namespace

report::Page page_of(const Report& report) {
  report::Page page;
  std::vector<std::string> names;
  for (const AdapterAnalysis& adapter : report.adapters) names.push_back(adapter.name);
  page.title = names.empty() ? "No adapters" : fmt::format("What {} learned", fmt::join(names, " and "));
  if (names.size() > 3) page.title = fmt::format("What {} adapters learned", names.size());
  page.subtitle = "Spectra, levels and redundancy of low-rank updates";
  for (const AdapterAnalysis& adapter : report.adapters) {
    page.facts.emplace_back(adapter.name,
                            fmt::format("{}; {} parameters in {} layers; {}", adapter.path,
                                        report::number_text(double(adapter.parameters)), adapter.sites.size(),
                                        adapter.base.empty() ? "without a base" : "base " + adapter.base));
  }
  std::vector<report::Section> sections = {
      findings_section(report), adapters_section(report), spectra_section(report),
      levels_section(report),   layers_section(report),   ranks_section(report),
      base_section(report),     training_section(report), reading_section(report)};
  for (report::Section& section : sections) {
    if (!section.blocks.empty()) page.sections.push_back(std::move(section));
  }
  page.footer =
      "Written by `msplora analyze`. The numbers of all layers and modules come with --json and --csv.";
  page.numbers_elsewhere = "`msplora analyze --csv DIR` writes them.";
  return page;
}

int PageSubject::style_of_beside(size_t index) const {
  const size_t levels = adapter->levels.size() > 1 ? adapter->levels.size() : 0;
  return 1 + static_cast<int>(levels + index);
}

std::vector<PageSubject> page_subjects(const Report& report) {
  std::vector<PageSubject> subjects;
  std::vector<const AdapterAnalysis*> plain;
  for (const AdapterAnalysis& adapter : report.adapters) {
    if (adapter.levels.size() > 1) {
      subjects.push_back({&adapter, {}, ""});
    } else {
      plain.push_back(&adapter);
    }
  }
  if (subjects.empty() && !plain.empty()) {
    subjects.push_back({plain.front(), {}, ""});
    plain.erase(plain.begin());
  }
  for (PageSubject& subject : subjects) {
    subject.beside = plain;
    if (subjects.size() > 1) subject.label = subject.adapter->name;
  }
  return subjects;
}

std::vector<const StackAnalysis*> page_stacks(const AdapterAnalysis& adapter) {
  std::vector<const StackAnalysis*> stacks;
  for (const StackAnalysis& stack : adapter.stacks) {
    if (!stack.sites.empty()) stacks.push_back(&stack);
  }
  std::stable_sort(stacks.begin(), stacks.end(), [](const StackAnalysis* a, const StackAnalysis* b) {
    return (a->sites.size() > 1) > (b->sites.size() > 1);  // those of one layer last
  });
  if (stacks.size() > kPageModules) stacks.resize(kPageModules);
  return stacks;
}

const StackAnalysis* same_stack(const AdapterAnalysis& adapter, const StackAnalysis& stack) {
  for (const StackAnalysis& other : adapter.stacks) {
    const bool same = other.module == stack.module && other.out_features == stack.out_features &&
                      other.in_features == stack.in_features;
    if (same) return &other;
  }
  return nullptr;
}

const SiteAnalysis* site_of_layer(const AdapterAnalysis& adapter, const StackAnalysis& stack, int64_t layer) {
  for (size_t i = 0; i < stack.layers.size(); ++i) {
    if (stack.layers[i] == layer) return &adapter.sites[stack.sites[i]];
  }
  return nullptr;
}

std::string layer_name(const AdapterAnalysis& adapter, const StackAnalysis& stack, size_t index) {
  if (stack.layers[index] >= 0) return fmt::format("layer {}", stack.layers[index]);
  return adapter.sites[stack.sites[index]].path;
}

double nice_ceiling(double value) {
  if (!(value > 0.0) || !std::isfinite(value)) return 1.0;
  const double power = std::pow(10.0, std::floor(std::log10(value)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= value * (1 - 1e-9)) return factor * power;
  }
  return 10.0 * power;
}

std::string counted(size_t count, const std::string& noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

}  // namespace msplora::analysis
