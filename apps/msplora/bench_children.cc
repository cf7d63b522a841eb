#include "bench_children.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "msplora/bench/child_process.h"
#include "msplora/core/error.h"
#include "msplora/core/paths.h"

namespace msplora {

std::vector<std::string> step_options_of(const BenchArguments& a, const CommonOptions& common) {
  std::vector<std::string> options;
  const auto add = [&](const char* name, const std::string& value) {
    options.push_back(std::string("--") + name);
    options.push_back(value);
  };
  add("method", a.method);
  add("rank", std::to_string(a.rank));
  add("levels", std::to_string(a.levels));
  if (!a.target_modules.empty()) add("target-modules", a.target_modules);
  add("dtype", a.dtype);
  add("batch", std::to_string(a.batch));
  add("seq", std::to_string(a.seq));
  add("min-seq", std::to_string(a.min_seq));
  add("dropout", fmt::format("{}", a.dropout));
  add("adapter-dropout", fmt::format("{}", a.adapter_dropout));
  add("steps", std::to_string(a.steps));
  add("seed", std::to_string(a.seed));
  add("threads", std::to_string(common.threads));
  return options;
}

std::string output_of(const std::vector<std::string>& command, StepRuns& runs) {
  const ChildResult child = run_child(command);
  if (child.exit_code != 0) {
    throw Error(ErrorCode::kIo, command.front(), fmt::format("ended with exit code {}", child.exit_code));
  }
  runs.peak_memory_bytes = std::max(runs.peak_memory_bytes, child.peak_memory_bytes);
  return child.output;
}

nlohmann::ordered_json run_steps(const BenchArguments& arguments, const CommonOptions& common,
                                 StepRuns& runs) {
  std::vector<std::string> command = {path_of_program().string(),
                                      "bench",
                                      "step",
                                      "--json",
                                      "--no-roof",  // its arrays are no memory of training
                                      "--shape",
                                      arguments.shape};
  for (std::string& option : step_options_of(arguments, common)) command.push_back(std::move(option));
  if (!arguments.weights.empty()) command.insert(command.end(), {"--weights", arguments.weights});
  command.insert(command.end(), {"--matmul-precision", arguments.matmul_precision});
  if (arguments.checkpoint_activations) command.emplace_back("--checkpoint-activations");
  if (!common.device.empty()) command.insert(command.end(), {"--device", common.device});
  auto facts = nlohmann::ordered_json::parse(output_of(command, runs));
  for (const auto& seconds : facts["step"]["seconds"]) runs.steps.seconds.push_back(seconds.get<double>());
  return facts;
}

}  // namespace msplora
