// The tables that `msplora compare` prints and writes.
#include "compare_tables.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/file.h"
#include "msplora/report/svg.h"
#include "program.h"

namespace msplora {
namespace {

std::string score_text(const ComparisonRow& row) {
  if (!row.mean) return row.failed > 0 ? "failed" : "";
  return row.deviation ? fmt::format("{:.4f} ± {:.4f}", *row.mean, *row.deviation)
                       : fmt::format("{:.4f}", *row.mean);
}

std::string rate_text(const ComparisonRow& row) {
  return row.lr ? fmt::format("{}{}", *row.lr, row.is_at_edge ? " (edge)" : "") : "";
}

TextTable table_of(const ComparisonPlan& plan, const Comparison& comparison) {
  const std::string metric = comparison.metric.empty() ? "score" : comparison.metric;
  TextTable table({"method", "rank", "parameters", "of " + plan.options.reference, "with head", "lr",
                   fmt::format("{} ({})", metric, comparison.is_test ? "test" : "validation"), "validation",
                   "runs", "CPU seconds", "seconds", "tokens/s", "peak memory", "adapter file"},
                  {false, true, true, true, true, true, true, true, true, true, true, true, true, true});
  for (const ComparisonRow& row : comparison.rows) {
    const auto done = static_cast<int64_t>(row.runs.size()) - row.failed;
    const bool any = done > 0;
    table.add({row.method, row.rank ? std::to_string(*row.rank) : "", with_commas(row.parameters),
               plan.reference_parameters > 0 ? fmt::format("{:.1f} %", 100.0 * row.share) : "",
               any ? with_commas(row.trained_parameters) : "", rate_text(row), score_text(row),
               row.validation ? fmt::format("{:.4f}", *row.validation) : "",
               row.failed > 0 ? fmt::format("{}, {} failed", done, row.failed) : std::to_string(done),
               row.cpu_seconds ? fmt::format("{:.1f}", *row.cpu_seconds) : "",
               any ? fmt::format("{:.1f}", row.seconds) : "",
               any ? with_commas(static_cast<int64_t>(row.tokens_per_second)) : "",
               any ? bytes_text(row.peak_memory_bytes) : "", any ? bytes_text(row.adapter_bytes) : ""});
  }
  return table;
}

std::string interval_text(const std::optional<Interval>& interval) {
  return interval ? fmt::format("{:+.4f} to {:+.4f}", interval->low, interval->high) : "";
}

std::string contrasts_of(const ComparisonPlan& plan, const Comparison& comparison) {
  const auto p_text = [](const std::optional<double>& p) { return p ? fmt::format("{:.3f}", *p) : ""; };
  TextTable table(
      {"method", "seeds", "difference", "95 % over seeds", "p", "p (Holm)", "95 % over seeds and examples"},
      {false, true, true, true, true, true, true});
  bool any = false;
  size_t tests = 0;
  for (const ComparisonRow& row : comparison.rows) {
    if (!row.contrast) continue;
    any = true;
    if (row.contrast->over_seeds.p) ++tests;
    const PairedTest& test = row.contrast->over_seeds;
    table.add({row.method, std::to_string(test.pairs), fmt::format("{:+.4f}", test.difference),
               interval_text(test.interval), p_text(test.p), p_text(row.contrast->p_adjusted),
               interval_text(row.contrast->over_both)});
  }
  if (!any) return {};
  const std::string told = tests == 0
                               ? "too few seeds for t-tests"
                               : fmt::format("paired t-tests over the seeds, adjusted for {} row{} by Holm",
                                             tests, tests == 1 ? "" : "s");
  return fmt::format("\nDifferences from {}: {}; bootstrap intervals over seeds and test examples.\n\n",
                     plan.options.reference, told) +
         table.markdown();
}

std::string edges_of(const Comparison& comparison) {
  std::vector<std::string> names;
  for (const ComparisonRow& row : comparison.rows) {
    if (row.is_at_edge) names.push_back(row.method);
  }
  if (names.empty()) return {};
  return fmt::format(
      "\nThe best rate of {} is the outermost of those tried: a better one may lie beyond it.\n",
      fmt::join(names, ", "));
}

/// Methods whose rank was to match the reference and could not.
std::string far_off(const ComparisonPlan& plan, const Comparison& comparison) {
  constexpr double kNear = 0.1;
  if (plan.options.mode != "equal-parameters") return {};
  std::vector<std::string> names;
  for (const ComparisonRow& row : comparison.rows) {
    if (row.rank && std::abs(row.share - 1.0) > kNear) names.push_back(row.method);
  }
  if (names.empty()) return {};
  return fmt::format(
      "\nNo rank of {} has a number of parameters within {:.0f} % of that of {}: the nearest is taken.\n",
      fmt::join(names, ", "), 100.0 * kNear, plan.options.reference);
}

/// Each reason once, with the runs that failed for it.
std::string failures_of(const Comparison& comparison) {
  std::vector<std::pair<std::string, std::set<std::string>>> reasons;
  const auto note = [&](const RunOutcome& run) {
    if (run.error.empty()) return;
    auto found = std::find_if(reasons.begin(), reasons.end(),
                              [&](const auto& reason) { return reason.first == run.error; });
    if (found == reasons.end()) found = reasons.insert(found, {run.error, {}});
    found->second.insert(run.log.empty() ? run.name : run.log);
  };
  for (const RunOutcome& run : comparison.grid) note(run);
  for (const ComparisonRow& row : comparison.rows) {
    for (const RunOutcome& run : row.runs) note(run);
  }
  std::string text;
  for (const auto& [reason, runs] : reasons)
    text += fmt::format("- {} ({})\n", reason, shortened({runs.begin(), runs.end()}, 3));
  return text.empty() ? text : "\nFailed:\n\n" + text;
}

/// Each warning once, with the runs that gave it; those of the comparison itself first.
std::string warnings_of(const ComparisonPlan& plan, const Comparison& comparison) {
  std::map<std::string, std::set<std::string>> runs;
  const auto note = [&](const RunOutcome& run) {
    for (const std::string& warning : run.warnings) runs[warning].insert(run.name);
  };
  for (const RunOutcome& run : comparison.grid) note(run);
  for (const ComparisonRow& row : comparison.rows) {
    for (const RunOutcome& run : row.runs) note(run);
  }
  std::string text;
  const std::string reason = no_contrast_reason(comparison, plan.options.reference);
  if (!reason.empty()) text += fmt::format("- {}\n", reason);
  for (const auto& [warning, names] : runs) {
    text += fmt::format("- {} ({})\n", warning, shortened({names.begin(), names.end()}, 3));
  }
  return text.empty() ? text : "\nWarnings:\n\n" + text;
}

std::string number_text(const std::optional<double>& value) {
  return value ? fmt::format("{}", *value) : std::string();
}
template <class Number>
std::string number_text(Number value) {
  return fmt::format("{}", value);
}

/// The numbers without units, for other programs.
std::string csv_of(const Comparison& comparison) {
  std::string text =
      "method,rank,parameters,share_of_reference,trained_parameters,lr,metric,measured_on,mean,deviation,"
      "validation,runs,failed,seconds,cpu_seconds,tokens_per_second,peak_memory_bytes,adapter_bytes,"
      "difference,p,p_adjusted\n";
  for (const ComparisonRow& row : comparison.rows) {
    text += fmt::format(
        "{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n", row.method,
        row.rank ? std::to_string(*row.rank) : "", row.parameters, row.share, row.trained_parameters,
        number_text(row.lr), comparison.metric, comparison.is_test ? "test" : "validation",
        number_text(row.mean), number_text(row.deviation), number_text(row.validation),
        static_cast<int64_t>(row.runs.size()) - row.failed, row.failed, row.seconds,
        number_text(row.cpu_seconds), row.tokens_per_second, row.peak_memory_bytes, row.adapter_bytes,
        row.contrast ? number_text(row.contrast->over_seeds.difference) : "",
        row.contrast ? number_text(row.contrast->over_seeds.p) : "",
        row.contrast ? number_text(row.contrast->p_adjusted) : "");
  }
  return text;
}

/// The single runs, those that chose the rates among them.
std::string runs_csv(const Comparison& comparison) {
  std::string text = "run,method,lr,seed,part";
  const RunOutcome names;
  RunOutcome::visit_measures(names, [&](const char* name, const auto&) { text += fmt::format(",{}", name); });
  text += ",failed\n";
  std::set<std::string> told;
  const auto tell = [&](const RunOutcome& run, const char* part) {
    if (!told.insert(run.name).second) return;
    text += fmt::format("{},{},{},{},{}", run.name, run.method, run.lr, run.seed, part);
    RunOutcome::visit_measures(run,
                               [&](const char*, const auto& value) { text += "," + number_text(value); });
    text += fmt::format(",{}\n", run.error.empty() ? 0 : 1);
  };
  for (const ComparisonRow& row : comparison.rows) {
    for (const RunOutcome& run : row.runs) tell(run, "row");
  }
  for (const RunOutcome& run : comparison.grid) tell(run, "grid");
  return text;
}

/// The scores as a table of LaTeX (booktabs).
std::string latex_of(const ComparisonPlan& plan, const Comparison& comparison) {
  const auto plain = [](const std::string& text) {
    std::string out;
    for (const char c : text) {
      if (c == '_' || c == '%' || c == '&' || c == '#') out += '\\';
      out += c;
    }
    return out;
  };
  std::string text = fmt::format(
      "\\begin{{tabular}}{{lrrrr}}\n\\toprule\nmethod & rank & parameters & lr & {} \\\\\n\\midrule\n",
      plain(comparison.metric.empty() ? "score" : comparison.metric));
  for (const ComparisonRow& row : comparison.rows) {
    std::string score = row.mean ? fmt::format("{:.4f}", *row.mean) : "--";
    if (row.deviation) score += fmt::format(" $\\pm$ {:.4f}", *row.deviation);
    text += fmt::format("{} & {} & {} & {} & {} \\\\\n", plain(row.method),
                        row.rank ? std::to_string(*row.rank) : "--", row.parameters,
                        row.lr ? fmt::format("{}", *row.lr) : "--", score);
  }
  return text + fmt::format("\\bottomrule\n\\end{{tabular}}\n% {}, {} seeds\n", plan.options.mode,
                            plan.options.seeds);
}

}  // namespace

std::string comparison_document(const ComparisonPlan& plan, const Comparison& comparison) {
  const CompareOptions& options = plan.options;
  std::string text = fmt::format(
      "{}, {} seed{}; scores are means ± sample standard deviations, seconds and tokens/s means, peak memory "
      "the largest of the runs.\n",
      options.mode, options.seeds, options.seeds == 1 ? "" : "s");
  if (!plan.rates.empty()) {
    const int64_t extensions = options.lr_grid_extensions;
    const int64_t seeds = plan.choosing_seeds();
    text += fmt::format("Learning rates tried with {}, the best on the validation data taken: {}{}.\n",
                        seeds == 1 ? std::string("seed 1") : fmt::format("seeds 1 to {}", seeds),
                        fmt::join(plan.rates, ", "),
                        extensions > 0 ? ", and beyond these while the outermost was the best" : "");
  }
  return text + "\n" + table_of(plan, comparison).markdown() + edges_of(comparison) +
         far_off(plan, comparison) + contrasts_of(plan, comparison) + warnings_of(plan, comparison) +
         failures_of(comparison);
}

void write_comparison(const ComparisonPlan& plan, const Comparison& comparison) {
  const std::filesystem::path directory = plan.directory;
  write_file_atomically(directory / comparison_files::kDocument, comparison_document(plan, comparison));
  write_file_atomically(directory / comparison_files::kTable, csv_of(comparison));
  write_file_atomically(directory / comparison_files::kRunsTable, runs_csv(comparison));
  write_file_atomically(directory / comparison_files::kLatex, latex_of(plan, comparison));
  write_file_atomically(directory / comparison_files::kPicture,
                        report::svg_file(comparison_picture(plan, comparison)));
  write_file_atomically(directory / comparison_files::kNumbers,
                        comparison_to_json(plan, comparison).dump(2) + "\n");
}

}  // namespace msplora
