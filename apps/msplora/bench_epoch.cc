#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "bench.h"
#include "msplora/bench/epoch.h"
#include "msplora/runs/model_files.h"
#include "msplora/runs/run_data.h"
#include "msplora/train/runtime.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

struct EpochArguments {
  BenchArguments step;
  std::string data;
  std::string text = "text";
  std::string label = "label";
  std::string glue_task;
  std::string dir;
  std::string tokenizer;
  int64_t max_length = 128;
  int64_t token_budget = 4096;
  int64_t batch_size = 0;
  int64_t max_steps = 0;
};

Recipe recipe_of(const EpochArguments& arguments) {
  if (arguments.data.empty() == arguments.glue_task.empty()) {
    throw Error(ErrorCode::kUsage, "bench epoch",
                "expected either --data FILE or --glue-task NAME --dir DIR");
  }
  if (!arguments.glue_task.empty() && arguments.dir.empty()) {
    throw Error(ErrorCode::kUsage, "bench epoch", "--glue-task needs --dir, the folder of the task's files");
  }
  Recipe recipe;
  if (arguments.glue_task.empty()) {
    recipe.data.train = arguments.data;
    recipe.data.text = arguments.text;
    recipe.data.label = arguments.label;
  } else {
    recipe.data.glue_task = arguments.glue_task;
    recipe.data.dir = arguments.dir;
  }
  recipe.data.max_length = arguments.max_length;
  return recipe;
}

void run_epoch(const EpochArguments& arguments, const CommonOptions& common) {
  EpochBenchOptions options;
  options.step = step_options(arguments.step);
  options.step.device = device_of(common);
  options.token_budget = arguments.token_budget;
  options.batch_size = arguments.batch_size;
  options.max_steps = arguments.max_steps;
  use_threads(common.threads);
  const auto tokenizer = load_tokenizer(arguments.tokenizer, options.step.model);
  const RunData data = read_run_data(recipe_of(arguments), options.step.model, tokenizer);
  options.num_labels = data.task->num_outputs();
  say(common, data.train.summary.text() + "\n" + machine_line() + "\n");
  const EpochBenchResult result = bench_epoch(options, data.train.examples, [&](int64_t step, int64_t of) {
    if (step % 50 == 0) say(common, fmt::format("  step {} of {}\n", step, of));
  });
  const int64_t examples = data.train.summary.examples;
  const double share = static_cast<double>(result.steps) / static_cast<double>(result.epoch_steps);
  if (common.json) {
    return print_json({{"shape", arguments.step.shape},
                       {"method", arguments.step.method},
                       {"dtype", arguments.step.dtype},
                       {"machine", machine_json()},
                       {"examples", examples},
                       {"token_budget", arguments.batch_size > 0 ? 0 : arguments.token_budget},
                       {"batch_size", arguments.batch_size},
                       {"steps", result.steps},
                       {"epoch_steps", result.epoch_steps},
                       {"tokens", result.tokens},
                       {"tokens_padded_to_batch", result.padded_tokens},
                       {"tokens_padded_to_max_length", examples * arguments.max_length},
                       {"seconds", result.seconds},
                       {"tokens_per_second", result.tokens_per_second()},
                       {"flops", result.flops},
                       {"roof_gflops", 1e-9 * result.roof_flops_per_second},
                       {"roof_share", result.roof_share()},
                       {"peak_memory_bytes", result.peak_memory_bytes},
                       {"last_loss", result.last_loss}});
  }
  std::cout << fmt::format("  {:<11} {:.1f} s for {} of {} steps; the whole pass: {:.1f} s\n", "time",
                           result.seconds, result.steps, result.epoch_steps, result.seconds / share)
            << fmt::format("  {:<11} {} ({:.0f} a second); padded to the longest of each batch {}\n",
                           "tokens", with_commas(result.tokens), result.tokens_per_second(),
                           with_commas(result.padded_tokens))
            << fmt::format("  {:<11} the pass padded to {} tokens: {}\n", "", arguments.max_length,
                           with_commas(examples * arguments.max_length))
            << fmt::format("  {:<11} {:.1f}% of {:.0f} GFLOP/s\n", "roof_share", 100 * result.roof_share(),
                           1e-9 * result.roof_flops_per_second)
            << fmt::format("  {:<11} {} at most\n", "memory", bytes_text(result.peak_memory_bytes));
}

}  // namespace

Command add_bench_epoch(CLI::App& bench, CommonOptions& common) {
  CLI::App* command = bench.add_subcommand("epoch", "One pass over labelled text, with drawn weights");
  auto arguments = std::make_shared<EpochArguments>();
  command->add_option("--data", arguments->data, "File of labelled text (TSV, CSV, JSONL)")
      ->type_name("FILE");
  command->add_option("--text", arguments->text, "Its column of text")->capture_default_str();
  command->add_option("--label", arguments->label, "Its column of labels")->capture_default_str();
  command->add_option("--glue-task", arguments->glue_task, "GLUE task instead, e.g. sst2")->type_name("NAME");
  command->add_option("--dir", arguments->dir, "Folder of the GLUE task")->type_name("DIR");
  command
      ->add_option("--tokenizer", arguments->tokenizer,
                   "Model directory whose tokenizer is used; its ids must be known to --shape")
      ->type_name("DIR")
      ->required();
  command->add_option("--max-length", arguments->max_length, "Longest sequence in tokens")
      ->check(positive_number())
      ->capture_default_str();
  command->add_option("--token-budget", arguments->token_budget, "Tokens of a batch")
      ->check(positive_number())
      ->capture_default_str();
  command
      ->add_option("--batch-size", arguments->batch_size, "Sequences of a batch, instead of --token-budget")
      ->check(non_negative_number())
      ->capture_default_str();
  command->add_option("--max-steps", arguments->max_steps, "Stop after this many steps; 0: the whole pass")
      ->check(non_negative_number())
      ->capture_default_str();
  add_model_bench_arguments(*command, arguments->step);
  add_common(*command, common);
  return {command, [arguments, &common] { run_epoch(*arguments, common); }};
}

}  // namespace msplora
