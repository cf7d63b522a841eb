#include "bench.h"

#include <fmt/format.h>
#include <algorithm>
#include <string>
#include <vector>

#include "msplora/adapters/planning.h"
#include "msplora/kernels/gemm.h"
#include "msplora/models/model.h"
#include "msplora/runs/model_files.h"

namespace msplora {

using Json = nlohmann::ordered_json;

void add_model_bench_arguments(CLI::App& command, BenchArguments& arguments) {
  command.add_option("--shape", arguments.shape, "Well-known model (see inspect); its weights are drawn")
      ->type_name("NAME")
      ->capture_default_str();
  command.add_option("--method", arguments.method, "Method; `full` trains all parameters")
      ->type_name("NAME")
      ->capture_default_str();
  command.add_option("--rank", arguments.rank, "Rank (msplora: of the first level)")
      ->check(positive_number())
      ->type_name("R")
      ->capture_default_str();
  command.add_option("--levels", arguments.levels, "msplora: number of levels")
      ->check(positive_number())
      ->type_name("N")
      ->capture_default_str();
  command
      .add_option("--target-modules", arguments.target_modules,
                  "Modules to adapt, e.g. query,value; those of the family when absent")
      ->type_name("A,B,...");
  command.add_option("--dtype", arguments.dtype, "Type of activations and frozen weights")
      ->transform(dtype_choice({"float32", "bfloat16"}))
      ->capture_default_str();
  command.add_option("--dropout", arguments.dropout, "Dropout of the model (hidden states and attention)")
      ->check(CLI::Range(0.0, 0.99))
      ->capture_default_str();
  command.add_option("--adapter-dropout", arguments.adapter_dropout, "Dropout on the input of the update")
      ->check(CLI::Range(0.0, 0.99))
      ->capture_default_str();
  command.add_flag("--checkpoint-activations", arguments.checkpoint_activations,
                   "Keep the inputs of blocks alone (train.checkpoint_activations)");
  command.add_option("--seed", arguments.seed, "Seed of weights, tokens and dropout")
      ->check(non_negative_number())
      ->type_name("N");
}

void add_bench_arguments(CLI::App& command, BenchArguments& arguments) {
  add_model_bench_arguments(command, arguments);
  command.add_option("--batch", arguments.batch, "Sequences of a step")
      ->check(positive_number())
      ->type_name("B")
      ->capture_default_str();
  command.add_option("--seq", arguments.seq, "Tokens of the longest sequence")
      ->check(positive_number())
      ->type_name("S")
      ->capture_default_str();
  command
      .add_option("--min-seq", arguments.min_seq,
                  "Tokens of the shortest, the others evenly between; 0: all are equally long")
      ->check(non_negative_number())
      ->type_name("S")
      ->capture_default_str();
  command.add_option("--steps", arguments.steps, "Steps that count, after two that do not")
      ->check(positive_number())
      ->type_name("N")
      ->capture_default_str();
}

StepBenchOptions step_options(const BenchArguments& arguments) {
  StepBenchOptions options;
  options.model = arguments.weights.empty() ? known_model_shape(arguments.shape)
                                            : load_supported_config(arguments.weights);
  options.weights = arguments.weights;
  options.dropout = arguments.dropout;
  // Rotary positions have no weights, so any length may be measured.
  Architecture architecture = describe(options.model);
  if (!architecture.rotaries.empty() && arguments.seq > architecture.longest) {
    options.model.raw["max_position_embeddings"] = arguments.seq;
    architecture.longest = arguments.seq;
  }
  options.adapter.method = arguments.method;
  options.adapter.rank = arguments.rank;
  options.adapter.levels = arguments.levels;
  options.adapter.dropout = arguments.adapter_dropout;
  options.adapter.target_modules = arguments.target_modules.empty()
                                       ? default_target_modules(options.model.model_type)
                                       : split_commas(arguments.target_modules);
  options.adapter = settled_without_data(options.adapter, architecture.num_layers());
  options.dtype = parse_dtype(arguments.dtype);
  options.batch = arguments.batch;
  options.longest = arguments.seq;
  options.shortest = arguments.min_seq;
  options.steps = arguments.steps;
  options.seed = static_cast<uint64_t>(arguments.seed);
  options.checkpoint_activations = arguments.checkpoint_activations;
  if (arguments.no_roof) options.roof_repetitions = 0;
  if (arguments.seq > architecture.longest) {
    throw Error(ErrorCode::kUsage, "--seq",
                fmt::format("{} tokens, but {} takes at most {}", arguments.seq, arguments.shape,
                            architecture.longest));
  }
  return options;
}

void add_precision(CLI::App& command, std::string& precision) {
  command.add_option("--matmul-precision", precision, "Of float32, as train.matmul_precision has it")
      ->check(CLI::IsMember(kernels::precision_names()))
      ->capture_default_str();
}

Json machine_json() {
  const Machine machine = this_machine();
  return {{"processor", machine.processor},
          {"threads", machine.threads},
          {"isa", machine.isa},
          {"bf16_products", machine.has_bf16_products},
          {"load_average", load_average()}};
}

std::string machine_line() {
  const Machine machine = this_machine();
  return fmt::format("{}, {} threads, {}{}, load {:.1f}", machine.processor, machine.threads, machine.isa,
                     machine.has_bf16_products ? " with bfloat16 products" : "", load_average());
}

Json timings_json(const Timings& timings) {
  return {
      {"best_seconds", timings.best()}, {"median_seconds", timings.median()}, {"seconds", timings.seconds}};
}

}  // namespace msplora
