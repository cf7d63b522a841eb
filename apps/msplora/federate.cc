#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "msplora/core/log.h"
#include "msplora/runs/federated_run.h"
#include "panel.h"
#include "program.h"
#include "recipe_arguments.h"
#include "report_text.h"

namespace msplora {
namespace {

struct FederateArguments {
  RecipeArguments recipe;
  bool resume = false;
};

std::string aggregation_line(const FederatedOptions& options) {
  std::string text = options.aggregator;
  if (const auto& line = aggregator_kind(options.aggregator).line) text += line(options.own());
  text += options.weighting == "examples" ? ", clients weighed by their examples"
                                          : ", all clients weigh the same";
  if (options.client_ranks.empty()) return text;
  return text + fmt::format(", ranks {}", fmt::join(options.client_ranks, " "));
}

std::string rounds_line(const FederatedRun& run) {
  const TrainOptions& train = run.recipe.train;
  const std::string work =
      train.max_steps > 0 ? fmt::format("{} steps", train.max_steps) : fmt::format("{} epochs", train.epochs);
  return fmt::format("{} of {} for each of {:.0f}% of the clients", run.federated.rounds, work,
                     100 * run.federated.fraction);
}

/// "10, dirichlet 0.3: 412 to 9120 examples; effective classes 1.2 to 2.0, total variation from iid 0.31".
std::string clients_line(const ClientSplit& split, const FederatedOptions& options) {
  const auto [fewest, most] = std::minmax_element(split.sizes.begin(), split.sizes.end());
  std::string kind = options.partition.kind;
  if (kind == "dirichlet") kind += fmt::format(" {}", options.partition.alpha);
  std::string text = fmt::format("{}, {}: {} to {} examples", split.sizes.size(), kind, *fewest, *most);
  const std::vector<double>& effective = split.report.effective_classes;
  if (effective.empty()) return text;
  const auto [least, largest] = std::minmax_element(effective.begin(), effective.end());
  return text + fmt::format("; effective classes {:.2f} to {:.2f}, total variation from iid {:.3f}", *least,
                            *largest, split.report.mean_total_variation);
}

std::string panel_of(const FederatedRun& run) {
  const Recipe& recipe = run.recipe;
  Panel panel;
  panel.add("model", model_line(*run.model, recipe.model.path, recipe.model.random_init));
  const std::string head = head_line(run);
  if (!head.empty()) panel.add("head", head);
  panel.add("method", method_line(recipe.adapter));
  panel.add("server", aggregation_line(run.federated));
  panel.add("rounds", rounds_line(run));
  for (const std::string& note : run.data.notes) panel.add("data", note);
  panel.add("train", part_line(run.data.train));
  panel.add("clients", clients_line(run.split, run.federated));
  for (const auto* parts : {&run.data.validation, &run.data.test}) {
    for (const EncodedPart& part : *parts) panel.add(part.name, part_line(part));
  }
  panel.add("optimizer", optimizer_line(recipe.train) + ", over all rounds");
  panel.add("batch", batch_line(recipe.train, run.data.train.summary.mean()));
  panel.add("compute", compute_line(recipe.train, run.threads));
  panel.add("output", recipe.output.dir);
  return panel.text();
}

std::string line_of(const RoundReport& report, int64_t rounds) {
  std::string text = fmt::format("round {}/{}", report.round, rounds);
  text +=
      report.skipped ? "  skipped: too few usable updates" : fmt::format("  loss {:.4f}", report.train_loss);
  if (report.global) text += "  " + format_metrics(*report.global);
  if (report.client_scores) {
    text += fmt::format("  clients {:.4f} (worst {:.4f})", report.client_scores->mean,
                        report.client_scores->worst);
  }
  if (!report.skipped) text += fmt::format("  aggregation error {:.2g}", report.aggregation.error);
  return text + fmt::format("  down {}  up {}  {:.1f} s", bytes_text(report.down.total()),
                            bytes_text(report.up.total()), report.seconds);
}

void federate(const FederateArguments& arguments, const CommonOptions& common) {
  const auto recipe =
      load_recipe<FederateRecipe>(arguments.recipe.file, changes_of(arguments.recipe, common));
  FederatedRun run = open_run(recipe, {.resume = arguments.resume});
  say(common, "msplora federate " + arguments.recipe.file + "\n" + panel_of(run));
  const auto on_round = [&](const RoundReport& report) {
    for (const Rejection& entry : report.rejected) {
      log_warning(
          fmt::format("round {}: client {} is left out: {}", report.round, entry.client, entry.reason));
    }
    log_info(line_of(report, run.federated.rounds));
  };
  const auto on_begin = [&](int64_t done) {
    if (!arguments.resume) return;
    log_info(done > 0 ? fmt::format("resumed after round {}", done)
                      : std::string("no round to resume from; starting at the beginning"));
  };
  const RunReport report = run_rounds(run, on_round, on_begin);
  if (!print_report(report, common)) return;
  std::cout << closing_lines(report, *run.directory)
            << fmt::format("  {:<15} {}\n", "rounds", (run.directory->path() / kRoundsFile).string());
}

}  // namespace

Command add_federate(CLI::App& program, CommonOptions& common) {
  CLI::App* command =
      program.add_subcommand("federate", "Fine-tune on the data of many clients, in one process");
  auto arguments = std::make_shared<FederateArguments>();
  add_recipe_arguments(*command, arguments->recipe, /*writes=*/true);
  command->add_flag("--resume", arguments->resume, "Continue after the newest round of the run directory");
  add_recipe_help<FederateRecipe>(*command);
  add_common(*command, common);
  return {command, [arguments, &common] { federate(*arguments, common); }, kLessMemoryInTraining};
}

}  // namespace msplora
