#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench.h"
#include "bench_children.h"
#include "msplora/bench/child_process.h"
#include "msplora/train/runtime.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

struct PeerArguments {
  BenchArguments step;
  std::string script = "bench/peers/peers.py";
  std::string python = "/usr/bin/python3";  // Debian's, whatever comes first in PATH
  std::string sharing = "published";
  int64_t pad_to = 0;
  int64_t rounds = 2;
};

void check_peer(const PeerArguments& arguments) {
  if (arguments.step.method != "lora" && arguments.step.method != "msplora") {
    throw Error(ErrorCode::kUsage, "--method", "the peer has lora and msplora, not " + arguments.step.method);
  }
  if (!fs::exists(arguments.script)) {
    throw Error(ErrorCode::kIo, arguments.script, "no such file",
                "run this in the source folder, or name the script with --script");
  }
  if (run_child({arguments.python, "-c", "import torch"}).exit_code != 0) {
    throw Error(ErrorCode::kUsage, arguments.python, "cannot import torch",
                "install Debian's python3-torch: scripts/install-deps.sh --bench");
  }
}

std::vector<std::string> peer_command(const PeerArguments& arguments, const CommonOptions& common) {
  const Architecture shape = describe(known_model_shape(arguments.step.shape));
  std::vector<std::string> command = {arguments.python, arguments.script};
  for (std::string& option : step_options_of(arguments.step, common)) command.push_back(std::move(option));
  for (const auto& [name, value] :
       std::vector<std::pair<std::string, int64_t>>{{"--hidden", shape.hidden_size()},
                                                    {"--layers", shape.num_layers()},
                                                    {"--heads", shape.heads()},
                                                    {"--ffn", shape.intermediate_size()},
                                                    {"--vocab", shape.vocab_size()},
                                                    {"--positions", shape.embeddings.position_rows},
                                                    {"--pad-to", arguments.pad_to}}) {
    command.push_back(name);
    command.push_back(std::to_string(value));
  }
  command.push_back("--sharing");
  command.push_back(arguments.sharing);
  return command;
}

/// One JSON object a line; the last one has the facts.
void take_peer(const std::string& output, StepRuns& side, Json& facts) {
  for (size_t begin = 0; begin < output.size();) {
    const size_t end = std::min(output.find('\n', begin), output.size());
    const Json line = Json::parse(output.substr(begin, end - begin));
    if (!line.contains("step")) facts = line;
    if (line.value("counts", false)) side.steps.seconds.push_back(line["seconds"].get<double>());
    begin = end + 1;
  }
}

Json side_json(const StepRuns& side, const Json& facts) {
  Json json = timings_json(side.steps);
  json["peak_memory_bytes"] = side.peak_memory_bytes;
  json["tokens"] = facts["tokens"];
  json["trainable_parameters"] = facts["trainable_parameters"];
  return json;
}

void print_sides(const StepRuns& ours, const StepRuns& peer, const Json& our_facts, const Json& peer_facts) {
  TextTable table({"", "best s", "median s", "tokens/s", "computed tokens", "memory"},
                  {false, true, true, true, true, true});
  const auto add = [&](const std::string& name, const StepRuns& side, const Json& facts,
                       const char* computed) {
    const double tokens = facts["tokens"].get<double>();
    table.add({name, fmt::format("{:.3f}", side.steps.best()), fmt::format("{:.3f}", side.steps.median()),
               fmt::format("{:.0f}", tokens / side.steps.best()), with_commas(facts[computed].get<int64_t>()),
               bytes_text(side.peak_memory_bytes)});
  };
  add("msplora", ours, our_facts, "tokens");
  add("PyTorch " + peer_facts["torch"].get<std::string>(), peer, peer_facts, "padded_tokens");
  std::cout << machine_line() << "\n" << table.text("  ");
}

void run_peers(const PeerArguments& arguments, const CommonOptions& given) {
  step_options(arguments.step);  // what we would refuse is refused before anything runs
  check_peer(arguments);
  if (!device_of(given).is_cpu())
    throw Error(ErrorCode::kUsage, "--device", "bench peers compares on the CPU alone");
  // Both sides are told: PyTorch's own choice may be half of the processors.
  CommonOptions common = given;
  common.threads = use_threads(given.threads);
  StepRuns ours, peer;
  Json our_facts, peer_facts;
  for (int64_t round = 0; round < arguments.rounds; ++round) {
    our_facts = run_steps(arguments.step, common, ours);
    take_peer(output_of(peer_command(arguments, common), peer), peer, peer_facts);
  }
  const double time_ratio = peer.steps.best() / ours.steps.best();
  const double median_ratio = peer.steps.median() / ours.steps.median();
  const double memory_ratio =
      static_cast<double>(peer.peak_memory_bytes) / static_cast<double>(ours.peak_memory_bytes);
  if (common.json) {
    return print_json({{"machine", machine_json()},
                       {"msplora", side_json(ours, our_facts)},
                       {"peer", side_json(peer, peer_facts)},
                       {"peer_torch", peer_facts["torch"]},
                       {"peer_threads", peer_facts["threads"]},
                       {"peer_padded_tokens", peer_facts["padded_tokens"]},
                       {"time_ratio", time_ratio},
                       {"median_time_ratio", median_ratio},
                       {"memory_ratio", memory_ratio}});
  }
  print_sides(ours, peer, our_facts, peer_facts);
  std::cout << fmt::format(
      "  PyTorch takes {:.2f} times as long (medians: {:.2f}) and {:.2f} times the memory\n", time_ratio,
      median_ratio, memory_ratio);
}

}  // namespace

Command add_bench_peers(CLI::App& bench, CommonOptions& common) {
  CLI::App* command = bench.add_subcommand("peers", "Our step and that of plain PyTorch, in turn");
  auto arguments = std::make_shared<PeerArguments>();
  add_bench_arguments(*command, arguments->step);
  command->add_option("--pad-to", arguments->pad_to, "Tokens that the peer pads to; 0: the longest sequence")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--sharing", arguments->sharing, "Sharing of the peer's levels")
      ->check(CLI::IsMember({"published", "owner_only"}))
      ->capture_default_str();
  command->add_option("--rounds", arguments->rounds, "Times that each side is started")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--script", arguments->script, "The peer")->capture_default_str();
  command->add_option("--python", arguments->python, "Interpreter that has torch")->capture_default_str();
  add_common(*command, common);
  return {command, [arguments, &common] { run_peers(*arguments, common); }};
}

}  // namespace msplora
