#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data_arguments.h"
#include "model_arguments.h"
#include "msplora/core/log.h"
#include "msplora/core/progress.h"
#include "msplora/metrics/significance.h"
#include "msplora/runs/landscape.h"
#include "msplora/tasks/evaluator.h"
#include "msplora/train/runtime.h"
#include "program.h"
#include "report_text.h"

namespace msplora {
namespace {

struct EvalArguments {
  ModelArguments model;
  DataArguments data;
  bool ablate_levels = false;
  bool landscape = false;
};

Evaluation evaluate_file(const std::string& file, TunedModel& tuned, const DataArguments& arguments) {
  std::vector<std::string> notes;
  std::optional<Progress> progress;
  const auto show = [&](int64_t done, int64_t total) {
    if (!progress) progress.emplace(file, total);
    progress->update(done);
  };
  const Evaluation evaluation = evaluate(tuned, file, merged_data_config(tuned.facts.data, arguments),
                                         arguments.max_length, arguments.batch_tokens, show, &notes);
  progress.reset();
  for (const std::string& note : notes) log_info(note);
  return evaluation;
}

/// "  without mid: accuracy 0.81 (-0.02)" a line.
std::string ablation_text(const std::vector<LevelAblation>& ablations, const Evaluation& whole) {
  std::string text;
  for (const LevelAblation& ablation : ablations) {
    text += fmt::format("  without {}: ", ablation.level);
    for (size_t i = 0; i < whole.metrics.size(); ++i) {
      const auto& [name, value] = ablation.evaluation.metrics[i];
      text += fmt::format("{}{} {:.4f} ({:+.4f})", i == 0 ? "" : ", ", name, value,
                          value - whole.metrics[i].second);
    }
    text += "\n";
  }
  return text;
}

nlohmann::ordered_json ablation_json(const std::vector<LevelAblation>& ablations) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const LevelAblation& ablation : ablations) {
    for (const auto& [name, value] : ablation.evaluation.metrics) json[ablation.level][name] = value;
  }
  return json;
}

Landscape landscape_of(const std::string& file, TunedModel& tuned, const EvalArguments& arguments) {
  const TaskRows rows = read_task_rows(tuned, file, merged_data_config(tuned.facts.data, arguments.data),
                                       arguments.data.max_length);
  LandscapeOptions options;
  options.batch_tokens = arguments.data.batch_tokens;
  return measure_landscape(*tuned.model, *tuned.adapter, *rows.task, all_of(rows.encoded.examples), options);
}

/// How much of a gradient a step along a change with this cosine misses.
double missed_share(double cosine) {
  return std::sqrt(std::max(0.0, 1.0 - cosine * cosine));
}

std::string landscape_text(const Landscape& landscape) {
  std::string text = fmt::format("  loss {:.4f}; with noise on the adapted weights:\n", landscape.loss);
  for (const Landscape::Around& around : landscape.around) {
    text += fmt::format("    {:>4.0f} % of a row: {:+.4f} ± {:.4f}, uphill with a tenth of it {:+.4f}\n",
                        100 * around.strength, mean_of(around.random) - landscape.loss,
                        sample_deviation(around.random), around.uphill - landscape.loss);
  }
  if (landscape.plain_cosine) {
    text += fmt::format("  of the gradient of the weights a step of the factors misses {:.1f} %",
                        100 * missed_share(*landscape.plain_cosine));
    if (landscape.nearest_cosine)
      text += fmt::format(", the nearest one {:.1f} %", 100 * missed_share(*landscape.nearest_cosine));
    text += "\n";
  }
  for (const Landscape::Layers& stack : landscape.layers)
    text += fmt::format("  mean cosine of the gradients of {}, layer by layer: {:+.4f}\n", stack.module,
                        stack.mean);
  return text;
}

nlohmann::ordered_json landscape_json(const Landscape& landscape) {
  nlohmann::ordered_json around = nlohmann::ordered_json::array();
  for (const Landscape::Around& one : landscape.around)
    around.push_back({{"strength", one.strength}, {"random", one.random}, {"uphill", one.uphill}});
  nlohmann::ordered_json json = {{"loss", landscape.loss},
                                 {"targets", landscape.targets},
                                 {"around", around},
                                 {"gradient_norm", landscape.gradient_norm}};
  for (const Landscape::Layers& stack : landscape.layers) {
    json["gradients_of_layers"][stack.module] = {
        {"layers", stack.layers}, {"mean", stack.mean}, {"cosines", stack.cosines}};
  }
  const auto add_step = [&](const std::string& step, const std::optional<double>& cosine) {
    if (!cosine) return;
    json[step + "_cosine"] = *cosine;
    json[step + "_missed"] = missed_share(*cosine);
  };
  add_step("plain", landscape.plain_cosine);
  add_step("nearest", landscape.nearest_cosine);
  return json;
}

void eval(const EvalArguments& arguments, const CommonOptions& common) {
  use_threads(common.threads);
  if (arguments.landscape && arguments.model.adapter.empty())
    throw Error(ErrorCode::kUsage, "--landscape", "there is no adapter", "--adapter names one");
  TunedModel tuned = open_tuned(arguments.model, common);
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
  for (const std::string& file : arguments.data.files) {
    const Evaluation evaluation = evaluate_file(file, tuned, arguments.data);
    nlohmann::ordered_json result = {{"file", file}, {"examples", evaluation.examples}};
    for (const auto& [name, value] : evaluation.metrics) result["metrics"][name] = value;
    if (tuned.labels) result["classes"] = class_report(evaluation, tuned.labels->names());
    if (!evaluation.note.empty()) result["note"] = evaluation.note;
    std::vector<LevelAblation> ablations;
    if (arguments.ablate_levels) {
      ablations = ablate_levels(tuned, [&] { return evaluate_file(file, tuned, arguments.data); });
      result["without"] = ablation_json(ablations);
    }
    std::optional<Landscape> landscape;
    if (arguments.landscape) {
      landscape = landscape_of(file, tuned, arguments);
      result["landscape"] = landscape_json(*landscape);
    }
    result["seconds"] = evaluation.seconds;
    result["tokens_per_second"] =
        evaluation.seconds > 0 ? static_cast<double>(evaluation.tokens) / evaluation.seconds : 0.0;
    if (!common.json) {
      std::cout << fmt::format("{}: {}  ({} examples, {:.1f} s)\n", file, format_metrics(evaluation),
                               evaluation.examples, evaluation.seconds);
      std::cout << ablation_text(ablations, evaluation);
      if (landscape) std::cout << landscape_text(*landscape);
      if (tuned.labels) std::cout << class_report_text(evaluation, tuned.labels->names());
      if (!evaluation.note.empty()) std::cout << "  " << printable(evaluation.note) << "\n";
    }
    results.push_back(std::move(result));
  }
  if (common.json) {
    print_json(
        {{"model", arguments.model.model}, {"adapter", arguments.model.adapter}, {"results", results}});
  }
}

}  // namespace

Command add_eval(CLI::App& program, CommonOptions& common) {
  CLI::App* command = program.add_subcommand("eval", "Score a model and its adapter on labelled files");
  auto arguments = std::make_shared<EvalArguments>();
  add_model_arguments(*command, arguments->model, /*adapter_required=*/false);
  command
      ->add_option("--task", arguments->model.task,
                   "What a language model whose files name no task is scored on: texts (causal_lm) or "
                   "conversations (sft)")
      ->check(CLI::IsMember({"causal_lm", "sft"}));
  command->add_option("--data", arguments->data.files, "Labelled files")->required()->type_name("FILE...");
  command->add_option("--format", arguments->data.format, "Form of the files")
      ->check(CLI::IsMember({"auto", "tsv", "csv", "jsonl"}));
  add_data_arguments(*command, arguments->data, /*with_labels=*/true);
  command->add_flag("--ablate-levels", arguments->ablate_levels,
                    "Also score the adapter with each of its levels left out");
  command->add_flag(
      "--landscape", arguments->landscape,
      "Also the loss around the adapted weights (noise, uphill), and how much of their gradient "
      "the adapter's factors can follow");
  add_common(*command, common);
  return {command,
          [arguments, &common] {
            find_files(arguments->model);
            eval(*arguments, common);
          },
          kLessMemoryInEvaluation};
}

}  // namespace msplora
