#include <fmt/format.h>

#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench.h"
#include "bench_children.h"
#include "msplora/bench/load.h"
#include "msplora/train/runtime.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

struct MemoryArguments {
  BenchArguments step;
  std::string shapes = "roberta-base,llama-160m";
  std::string methods = "lora,full";
  std::string dtypes = "bfloat16,float32";
};

/// Every combination that is asked for, with and without checkpointing.
std::vector<BenchArguments> cases_of(const MemoryArguments& arguments) {
  std::vector<BenchArguments> cases;
  for (const std::string& shape : split_commas(arguments.shapes)) {
    for (const std::string& dtype : split_commas(arguments.dtypes)) {
      for (const std::string& method : split_commas(arguments.methods)) {
        for (const bool checkpoint : {false, true}) {
          BenchArguments step = arguments.step;
          step.shape = shape;
          step.dtype = dtype;
          step.method = method;
          step.checkpoint_activations = checkpoint;
          step_options(step);  // what would be refused is refused before anything runs
          cases.push_back(std::move(step));
        }
      }
    }
  }
  return cases;
}

void run_memory(const MemoryArguments& arguments, const CommonOptions& common) {
  use_threads(common.threads);
  std::map<std::string, std::unique_ptr<BenchCheckpoint>> checkpoints;
  Json report = {{"machine", machine_json()}, {"cases", Json::array()}};
  TextTable table({"shape", "type", "method", "activations", "loaded", "taken", "estimate", "of taken"},
                  {false, false, false, false, true, true, true, true});
  for (BenchArguments& step : cases_of(arguments)) {
    auto& checkpoint = checkpoints[step.shape];
    if (!checkpoint) checkpoint = std::make_unique<BenchCheckpoint>(step_options(step));
    step.weights = checkpoint->directory().string();
    StepRuns runs;
    const Json memory = run_steps(step, common, runs)["memory"];
    const auto taken = memory["taken_bytes"].get<int64_t>(),
               estimate = memory["estimated_bytes"].get<int64_t>();
    const double share = static_cast<double>(estimate) / static_cast<double>(taken);
    const std::string kept = step.checkpoint_activations ? "checkpoints" : "all";
    table.add({step.shape, step.dtype, step.method, kept, bytes_text(memory["loaded_bytes"].get<int64_t>()),
               bytes_text(taken), bytes_text(estimate), fmt::format("{:.2f}", share)});
    Json entry = {{"shape", step.shape},
                  {"dtype", step.dtype},
                  {"method", step.method},
                  {"checkpoint_activations", step.checkpoint_activations}};
    entry.update(memory);
    report["cases"].push_back(std::move(entry));
  }
  if (common.json) return print_json(report);
  std::cout << machine_line() << "\n"
            << fmt::format("  {} x {} tokens, checkpoints in float32\n", arguments.step.batch,
                           arguments.step.seq)
            << table.text("  ");
}

}  // namespace

Command add_bench_memory(CLI::App& bench, CommonOptions& common) {
  CLI::App* command = bench.add_subcommand(
      "memory", "Memory of a model read from a file and trained, beside the estimate of `inspect`");
  auto arguments = std::make_shared<MemoryArguments>();
  add_bench_arguments(*command, arguments->step);
  for (const char* replaced : {"--shape", "--method", "--dtype", "--checkpoint-activations"})
    command->remove_option(command->get_option(replaced));
  const auto add = [&](const char* name, std::string& value, const char* help) {
    command->add_option(name, value, help)->type_name("A,B,...")->capture_default_str();
  };
  add("--shapes", arguments->shapes, "Known model shapes");
  add("--methods", arguments->methods, "Methods; `full` trains the whole base");
  add("--dtypes", arguments->dtypes, "Types of frozen weights and activations");
  add_common(*command, common);
  return {command, [arguments, &common] { run_memory(*arguments, common); }};
}

}  // namespace msplora
