#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench.h"
#include "bench_children.h"
#include "msplora/adapters/adapter.h"
#include "msplora/adapters/planning.h"
#include "msplora/core/error.h"
#include "msplora/train/runtime.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

struct MethodsArguments {
  BenchArguments step;
  std::string methods = "all";
  std::string reference = "lora";
  int64_t rounds = 2;
};

struct MethodRuns {
  std::string name;
  StepRuns runs;
  int64_t trainable = 0;
};

std::vector<MethodRuns> methods_of(const MethodsArguments& arguments) {
  std::vector<std::string> known;
  for (const MethodInfo& method : adapter_methods()) known.push_back(method.name);
  std::vector<std::string> names = arguments.methods == "all" ? known : split_commas(arguments.methods);
  if (std::find(names.begin(), names.end(), arguments.reference) == names.end())
    names.insert(names.begin(), arguments.reference);
  std::vector<MethodRuns> methods;
  for (const std::string& name : names) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      throw Error(ErrorCode::kUsage, "--methods", "unknown method `" + name + "`", did_you_mean(name, known));
    }
    BenchArguments step = arguments.step;
    step.method = name;
    step_options(step);  // what would be refused is refused before anything runs
    methods.push_back({name, {}, 0});
  }
  return methods;
}

bool takes_dropout(const std::string& method) {
  const std::vector<MethodInfo> methods = adapter_methods();
  return std::any_of(methods.begin(), methods.end(),
                     [&](const MethodInfo& info) { return info.name == method && info.takes_dropout; });
}

BenchArguments step_of(const MethodsArguments& arguments, const std::string& method) {
  BenchArguments step = arguments.step;
  step.method = method;
  if (!takes_dropout(method)) step.adapter_dropout = 0.0;
  AdapterConfig config;
  config.method = method;
  if (update_ranks(config, 0, /*num_layers=*/1).empty()) step.rank = config.rank;
  return step;
}

void run_methods(const MethodsArguments& arguments, const CommonOptions& common) {
  use_threads(common.threads);  // for the line about the machine
  std::vector<MethodRuns> methods = methods_of(arguments);
  for (int64_t round = 0; round < arguments.rounds; ++round) {
    for (MethodRuns& method : methods) {
      const Json facts = run_steps(step_of(arguments, method.name), common, method.runs);
      method.trainable = facts["trainable_parameters"].get<int64_t>();
    }
  }
  const auto reference = std::find_if(methods.begin(), methods.end(), [&](const MethodRuns& method) {
    return method.name == arguments.reference;
  });
  const double best = reference->runs.steps.best(), median = reference->runs.steps.median();
  Json report = {{"machine", machine_json()}, {"reference", arguments.reference}, {"methods", Json::array()}};
  TextTable table({"method", "trained parameters", "best s", "median s",
                   "of " + arguments.reference + ", best", "median", "memory"},
                  {false, true, true, true, true, true, true});
  for (const MethodRuns& method : methods) {
    const Timings& steps = method.runs.steps;
    table.add({method.name, with_commas(method.trainable), fmt::format("{:.3f}", steps.best()),
               fmt::format("{:.3f}", steps.median()), fmt::format("{:.2f}", steps.best() / best),
               fmt::format("{:.2f}", steps.median() / median), bytes_text(method.runs.peak_memory_bytes)});
    Json entry = {{"method", method.name},
                  {"trainable_parameters", method.trainable},
                  {"time_ratio", steps.best() / best},
                  {"median_time_ratio", steps.median() / median},
                  {"peak_memory_bytes", method.runs.peak_memory_bytes}};
    entry.update(timings_json(steps));
    report["methods"].push_back(std::move(entry));
  }
  if (common.json) return print_json(report);
  std::cout << machine_line() << "\n" << table.text("  ");
}

}  // namespace

Command add_bench_methods(CLI::App& bench, CommonOptions& common) {
  CLI::App* command =
      bench.add_subcommand("methods", "The step of every method, in turn, beside that of LoRA");
  auto arguments = std::make_shared<MethodsArguments>();
  add_bench_arguments(*command, arguments->step);
  command->remove_option(command->get_option("--method"));
  command->add_option("--methods", arguments->methods, "Names with commas, or `all`")
      ->type_name("A,B,...")
      ->capture_default_str();
  command->add_option("--reference", arguments->reference, "Method that the others are compared with")
      ->type_name("NAME")
      ->capture_default_str();
  command->add_option("--rounds", arguments->rounds, "Times that each method is started")
      ->check(positive_number())
      ->capture_default_str();
  add_common(*command, common);
  return {command, [arguments, &common] { run_methods(*arguments, common); }};
}

}  // namespace msplora
