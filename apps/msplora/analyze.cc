#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "msplora/analysis/export.h"
#include "msplora/analysis/page.h"
#include "msplora/core/file.h"
#include "msplora/core/log.h"
#include "msplora/runs/analysis.h"
#include "msplora/runs/run_directory.h"
#include "msplora/train/runtime.h"
#include "program.h"

namespace msplora {
namespace {

using analysis::AdapterAnalysis;
using analysis::Finding;
using analysis::Report;

struct AnalyzeArguments {
  std::vector<std::string> inputs;
  std::string base, csv, page;
  bool overwrite = false, no_base = false, checkpoints = false, by_site = false;
  analysis::Options options;
};

std::string figure(double value, const char* form = "{:.3g}") {
  return std::isfinite(value) ? fmt::format(fmt::runtime(form), value) : std::string("-");
}

std::string figure(const std::optional<double>& value, const char* form = "{:.3g}") {
  return value ? figure(*value, form) : std::string("-");
}

TextTable levels_of(const AdapterAnalysis& adapter) {
  TextTable table({"level", "rank", "sites", "parameters", "share", "own", "norm", "stable rank",
                   "effective rank", "90 %", "99 %"},
                  {false, true, true, true, true, true, true, true, true, true, true});
  for (const analysis::LevelSummary& level : adapter.levels) {
    table.add({level.name + (level.is_shared ? ", shared" : ""), std::to_string(level.rank),
               std::to_string(level.sites), with_commas(level.parameters), figure(level.share),
               figure(level.own), figure(level.norm), figure(level.stable_rank), figure(level.effective_rank),
               figure(level.rank_90), figure(level.rank_99)});
  }
  return table;
}

TextTable stacks_of(const AdapterAnalysis& adapter) {
  TextTable table({"module", "part", "layers", "mean |cosine|", "random", "phi outputs", "random",
                   "phi inputs", "random", "in common", "at least"},
                  {false, false, true, true, true, true, true, true, true, true, true});
  for (const analysis::StackAnalysis& stack : adapter.stacks) {
    for (size_t i = 0; i < stack.spaces.size(); ++i) {
      const analysis::LayerSpaces& spaces = stack.spaces[i];
      const bool has_cosines = i < stack.cosines.size();
      table.add({stack.module, spaces.part + (spaces.is_shared ? ", shared" : ""),
                 std::to_string(stack.layers.size()),
                 has_cosines ? figure(stack.cosines[i].mean_absolute) : "-",
                 has_cosines ? figure(stack.cosines[i].random) : "-", figure(spaces.mean_left),
                 figure(spaces.random_left), figure(spaces.mean_right), figure(spaces.random_right),
                 figure(spaces.common_left), figure(spaces.common_floor)});
    }
  }
  return table;
}

TextTable sites_of(const AdapterAnalysis& adapter, const analysis::Options& options) {
  TextTable table({"site", "rank", "|dW|", "|dW|/|W0|", "amplification", "stable rank", "effective rank",
                   "99 %", "intruders", "leading values"},
                  {false, true, true, true, true, true, true, true, true, false});
  for (const analysis::SiteAnalysis& site : adapter.sites) {
    std::string values;
    for (size_t i = 0; i < std::min<size_t>(4, site.whole.values.size()); ++i)
      values += (i == 0 ? "" : " ") + figure(site.whole.values[i]);
    std::string intruders = "-";
    if (site.base && site.base->directions) {
      const auto& similarity = site.base->directions->similarity;
      intruders = std::to_string(std::count_if(similarity.begin(), similarity.end(),
                                               [&](double value) { return value < options.threshold; }));
    }
    table.add({site.path, std::to_string(site.rank), figure(site.whole.norm),
               site.base ? figure(site.base->relative_norm) : "-",
               site.base ? figure(site.base->amplification) : "-", figure(site.whole.stable_rank),
               figure(site.whole.effective_rank),
               site.whole.rank_99 ? std::to_string(*site.whole.rank_99) : "-", intruders, values});
  }
  return table;
}

TextTable curves_of(const analysis::Curves& curves) {
  TextTable table(
      {"step", "part", "S1", "norm", "share", "own", "effective rank", "phi to the end", "mean |cosine|"},
      {true, false, true, true, true, true, true, true, true});
  for (size_t row = 0; row < curves.steps.size(); ++row) {
    for (const analysis::LevelCurve& curve : curves.levels) {
      const bool is_first = &curve == &curves.levels.front();
      table.add({is_first ? std::to_string(curves.steps[row]) : "", curve.part,
                 curve.values.columns > 0 ? figure(curve.values.at(row, 0)) : "-", figure(curve.norm[row]),
                 figure(curve.share[row]), figure(curve.own[row]), figure(curve.effective_rank[row]),
                 figure(curve.phi_left[row]), is_first ? figure(curves.layer_cosine[row]) : ""});
    }
  }
  return table;
}

void print_findings(const std::vector<Finding>& findings) {
  for (const Finding& finding : findings) {
    std::cout << "  " << finding.text << "\n";
    if (finding.recipe.empty()) continue;
    std::cout << "  As a recipe:\n";
    size_t begin = 0;
    while (begin < finding.recipe.size()) {
      const size_t end = std::min(finding.recipe.find('\n', begin), finding.recipe.size());
      std::cout << "    " << finding.recipe.substr(begin, end - begin) << "\n";
      begin = end + 1;
    }
  }
}

void print_adapter(const AdapterAnalysis& adapter, const AnalyzeArguments& arguments) {
  std::cout << fmt::format("{}: {}, {} parameters\n", printable(adapter.name), adapter.line,
                           with_commas(adapter.parameters));
  for (const std::string& note : adapter.notes) std::cout << "  note: " << printable(note) << "\n";
  std::cout << "\n" << levels_of(adapter).text("  ");
  const std::string stacks = stacks_of(adapter).text("  ");
  const bool has_layers = std::any_of(adapter.stacks.begin(), adapter.stacks.end(),
                                      [](const auto& stack) { return !stack.spaces.empty(); });
  if (has_layers) std::cout << "\n" << stacks;
  if (arguments.by_site) std::cout << "\n" << sites_of(adapter, arguments.options).text("  ");
  if (adapter.curves) std::cout << "\n" << curves_of(*adapter.curves).text("  ");
  std::cout << "\n";
  print_findings(adapter.findings);
}

void analyze_command(const AnalyzeArguments& arguments, const CommonOptions& common) {
  if (!device_of(common).is_cpu())
    throw Error(ErrorCode::kUsage, "--device", "analyze computes in float64 on the CPU", "leave it out");
  use_threads(common.threads);
  AnalysisRequest request;
  request.inputs.assign(arguments.inputs.begin(), arguments.inputs.end());
  request.base = arguments.base;
  request.uses_base = !arguments.no_base;
  request.checkpoints = arguments.checkpoints;
  request.options = arguments.options;
  std::vector<double>& thresholds = request.options.thresholds;
  thresholds.push_back(arguments.options.threshold);
  std::sort(thresholds.begin(), thresholds.end());
  thresholds.erase(std::unique(thresholds.begin(), thresholds.end()), thresholds.end());
  if (!arguments.page.empty()) {  // before the work
    std::vector<std::filesystem::path> read = request.inputs;
    for (const std::filesystem::path& input : request.inputs) {
      read.insert(read.end(), {input / kPeftDirectory, input / kNativeDirectory});  // of runs
    }
    refuse_packed_name(arguments.page, "--report");
    refuse_input_as_output(arguments.page, read, "--report");
    prepare_output_file(arguments.page, arguments.overwrite);
  }
  const Report report = analyze_adapters(request, [](const std::string& what) { log_info(printable(what)); });
  if (!arguments.csv.empty()) write_csv_tables(report, arguments.csv);
  if (!arguments.page.empty()) {
    write_file_atomically(arguments.page, report::to_html(analysis::page_of(report)));
  }
  if (common.json) return print_json(analysis::to_json(report));
  for (size_t i = 0; i < report.adapters.size(); ++i) {
    if (i > 0) std::cout << "\n";
    print_adapter(report.adapters[i], arguments);
  }
  if (!report.findings.empty()) std::cout << "\nBeside each other:\n\n";
  print_findings(report.findings);
}

}  // namespace

Command add_analyze(CLI::App& program, CommonOptions& common) {
  CLI::App* command = program.add_subcommand(
      "analyze", "Singular values, subspaces and redundancy of what adapters have learned");
  auto arguments = std::make_shared<AnalyzeArguments>();
  command
      ->add_option("inputs", arguments->inputs,
                   "Run directories, or adapters in any form; several are told side by side")
      ->required()
      ->type_name("RUN|ADAPTER...");
  command
      ->add_option("--base", arguments->base,
                   "Model that the adapters were trained on, where they do not say; of config.json alone the "
                   "shapes are taken")
      ->type_name("DIR");
  command->add_flag("--no-base", arguments->no_base,
                    "Leave out what needs the base's weights: quicker, and the base need not be there");
  command->add_flag("--checkpoints", arguments->checkpoints, "Curves over the checkpoints of the runs");
  command->add_flag("--sites", arguments->by_site, "A line for each adapted layer");
  command->add_option("--top", arguments->options.top, "Leading directions that are compared")
      ->check(positive_number())
      ->type_name("K")
      ->capture_default_str();
  command
      ->add_option("--intruder-top", arguments->options.intruder_top,
                   "Leading directions of the adapted weight that may be intruders")
      ->check(positive_number())
      ->type_name("K")
      ->capture_default_str();
  command
      ->add_option("--intruder-threshold", arguments->options.threshold,
                   "A direction is an intruder when no cosine with a direction of the base reaches this")
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("EPS")
      ->capture_default_str();
  command
      ->add_option(
          "--largest-base", arguments->options.largest_base,
          "Directions of the base, and intruders, for layers whose smaller side is at most this: they "
          "need a dense decomposition")
      ->check(non_negative_number())
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--csv", arguments->csv, "Writes the numbers as tables into this directory")
      ->type_name("DIR");
  command
      ->add_option("--report", arguments->page,
                   "Writes a page with plots, one HTML file that opens anywhere, into this file")
      ->type_name("FILE.html");
  command->add_flag("--overwrite", arguments->overwrite, "Replace the file of --report where it exists");
  add_common(*command, common);
  return {command, [arguments, &common] { analyze_command(*arguments, common); }};
}

}  // namespace msplora
