#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "bench.h"
#include "bench_children.h"
#include "msplora/bench/child_process.h"
#include "msplora/core/paths.h"
#include "msplora/train/runtime.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

struct PeerArguments {
  BenchArguments step;
  std::string peer;                         // "": the one of the model
  std::string script;                       // "": that of the peer, in the source folder
  std::string python = "/usr/bin/python3";  // Debian's, whatever comes first in PATH
  std::string sharing = "published";
  int64_t pad_to = 0;
  int64_t rounds = 2;
  bool autocast = false;
};

/// The shape of BERT and RoBERTa, which the script of plain PyTorch has.
bool is_plain_encoder(const ModelConfig& config) {
  return std::set<std::string>{"bert", "roberta", "xlm-roberta"}.contains(config.model_type);
}

std::vector<std::string> sizes_of_encoder(const PeerArguments& arguments) {
  const Architecture shape = describe(step_options(arguments.step).model);
  std::vector<std::string> options = {"--sharing", arguments.sharing};
  for (const auto& [name, value] :
       std::vector<std::pair<std::string, int64_t>>{{"--hidden", shape.hidden_size()},
                                                    {"--layers", shape.num_layers()},
                                                    {"--heads", shape.heads()},
                                                    {"--ffn", shape.intermediate_size()},
                                                    {"--vocab", shape.vocab_size()},
                                                    {"--positions", shape.embeddings.position_rows}}) {
    options.insert(options.end(), {name, std::to_string(value)});
  }
  return options;
}

std::vector<std::string> config_of_model(const PeerArguments& arguments) {
  const ModelConfig config = step_options(arguments.step).model;
  const bool is_decoder = bench_task_of(config) == ModelTask::kCausalLm;
  std::vector<std::string> options = {"--config", model_config_to_json(config).dump(), "--task",
                                      is_decoder ? "causal_lm" : "sequence_classification"};
  if (arguments.step.target_modules.empty()) {
    options.insert(
        options.end(),
        {"--target-modules", fmt::format("{}", fmt::join(default_target_modules(config.model_type), ","))});
  }
  if (arguments.autocast) options.emplace_back("--autocast");
  return options;
}

/// Who is compared with. Of those that suit a model the first is taken where none is named.
struct Peer {
  std::string name, script, modules, hint;
  std::vector<std::string> methods;
  bool (*suits)(const ModelConfig& config);
  std::vector<std::string> (*options)(const PeerArguments& arguments);  // beside those of `bench step`
  bool has_autocast;
};

const std::vector<Peer>& peers() {
  static const std::vector<Peer> all = {{"pytorch",
                                         "bench/peers/pytorch.py",
                                         "torch",
                                         "install Debian's python3-torch: scripts/install-deps.sh --bench",
                                         {"lora", "msplora"},
                                         is_plain_encoder,
                                         sizes_of_encoder,
                                         false},
                                        {"transformers",
                                         "bench/peers/transformers_peft.py",
                                         "torch, transformers, peft",
                                         "name an interpreter that has them with --python",
                                         {"lora"},
                                         [](const ModelConfig&) { return true; },
                                         config_of_model,
                                         true}};
  return all;
}

std::vector<std::string> peer_names() {
  std::vector<std::string> names;
  for (const Peer& peer : peers()) names.push_back(peer.name);
  return names;
}

/// Throws Error{kUsage} for what the peer cannot do.
const Peer& peer_of(const PeerArguments& arguments) {
  const ModelConfig config = known_model_shape(arguments.step.shape);
  const Peer& peer = *std::find_if(peers().begin(), peers().end(), [&](const Peer& p) {
    return arguments.peer.empty() ? p.suits(config) : p.name == arguments.peer;
  });
  if (!peer.suits(config)) {
    throw Error(
        ErrorCode::kUsage, "--peer",
        fmt::format("{} has encoders of BERT's and RoBERTa's shape, not {}", peer.name, config.model_type),
        "take --peer transformers");
  }
  if (std::find(peer.methods.begin(), peer.methods.end(), arguments.step.method) == peer.methods.end()) {
    throw Error(
        ErrorCode::kUsage, "--method",
        fmt::format("{} has {}, not {}", peer.name, fmt::join(peer.methods, " and "), arguments.step.method));
  }
  if (arguments.autocast && !peer.has_autocast)
    throw Error(ErrorCode::kUsage, "--autocast", "is for transformers; pytorch has no other bfloat16");
  if (!arguments.step.weights.empty())
    throw Error(ErrorCode::kUsage, "--weights", "both sides draw their weights",
                "name the model with --shape");
  return peer;
}

std::string script_of(const PeerArguments& arguments, const Peer& peer) {
  return arguments.script.empty() ? peer.script : arguments.script;
}

void check_peer(const PeerArguments& arguments, const Peer& peer) {
  const std::string script = script_of(arguments, peer);
  if (!path_exists(script)) {
    throw Error(ErrorCode::kIo, script, "no such file",
                "run this in the source folder, or name the script with --script");
  }
  if (run_child({arguments.python, "-c", "import " + peer.modules}).exit_code != 0)
    throw Error(ErrorCode::kUsage, arguments.python, "cannot import " + peer.modules, peer.hint);
}

std::vector<std::string> peer_command(const PeerArguments& arguments, const Peer& peer,
                                      const CommonOptions& common) {
  std::vector<std::string> command = {arguments.python, script_of(arguments, peer)};
  for (const auto& options : {step_options_of(arguments.step, common),
                              peer.options(arguments),
                              {"--pad-to", std::to_string(arguments.pad_to)}}) {
    command.insert(command.end(), options.begin(), options.end());
  }
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
  add("peer", peer, peer_facts, "padded_tokens");
  std::cout << machine_line() << "\npeer: " << peer_facts["peer"].get<std::string>() << "\n"
            << table.text("  ");
}

void run_peers(const PeerArguments& arguments, const CommonOptions& given) {
  step_options(arguments.step);  // what we would refuse is refused before anything runs
  const Peer& other = peer_of(arguments);
  check_peer(arguments, other);
  if (!device_of(given).is_cpu())
    throw Error(ErrorCode::kUsage, "--device", "bench peers compares on the CPU alone");
  // Both sides are told: PyTorch's own choice may be half of the processors.
  CommonOptions common = given;
  common.threads = use_threads(given.threads);
  StepRuns ours, peer;
  Json our_facts, peer_facts;
  for (int64_t round = 0; round < arguments.rounds; ++round) {
    our_facts = run_steps(arguments.step, common, ours);
    take_peer(output_of(peer_command(arguments, other, common), peer), peer, peer_facts);
  }
  const double time_ratio = peer.steps.best() / ours.steps.best();
  const double median_ratio = peer.steps.median() / ours.steps.median();
  const double memory_ratio =
      static_cast<double>(peer.peak_memory_bytes) / static_cast<double>(ours.peak_memory_bytes);
  if (common.json) {
    return print_json({{"machine", machine_json()},
                       {"msplora", side_json(ours, our_facts)},
                       {"peer", side_json(peer, peer_facts)},
                       {"peer_name", peer_facts["peer"]},
                       {"peer_threads", peer_facts["threads"]},
                       {"peer_padded_tokens", peer_facts["padded_tokens"]},
                       {"time_ratio", time_ratio},
                       {"median_time_ratio", median_ratio},
                       {"memory_ratio", memory_ratio}});
  }
  print_sides(ours, peer, our_facts, peer_facts);
  std::cout << fmt::format(
      "  the peer takes {:.2f} times as long (medians: {:.2f}) and {:.2f} times the memory\n", time_ratio,
      median_ratio, memory_ratio);
}

}  // namespace

Command add_bench_peers(CLI::App& bench, CommonOptions& common) {
  CLI::App* command = bench.add_subcommand(
      "peers", "Our step and that of plain PyTorch, or of transformers and PEFT, in turn");
  auto arguments = std::make_shared<PeerArguments>();
  add_bench_arguments(*command, arguments->step);
  add_precision(*command, arguments->step.matmul_precision);
  command
      ->add_option("--peer", arguments->peer,
                   "pytorch: our own plain script, of encoders like BERT and RoBERTa, which are compared "
                   "with it unless "
                   "told otherwise; transformers: with PEFT, all models")
      ->check(CLI::IsMember(peer_names()));
  command->add_flag(
      "--autocast", arguments->autocast,
      "transformers: weights in float32 and products in bfloat16, in place of weights in bfloat16");
  command->add_option("--pad-to", arguments->pad_to, "Tokens that the peer pads to; 0: the longest sequence")
      ->check(non_negative_number())
      ->capture_default_str();
  command->add_option("--sharing", arguments->sharing, "Sharing of the peer's levels")
      ->check(CLI::IsMember({"published", "owner_only"}))
      ->capture_default_str();
  command->add_option("--rounds", arguments->rounds, "Times that each side is started")
      ->check(positive_number())
      ->capture_default_str();
  command->add_option("--script", arguments->script, "The peer's program; bench/peers/ has them");
  command->add_option("--python", arguments->python, "Interpreter that has the peer's modules")
      ->capture_default_str();
  add_common(*command, common);
  return {command, [arguments, &common] { run_peers(*arguments, common); }};
}

}  // namespace msplora
