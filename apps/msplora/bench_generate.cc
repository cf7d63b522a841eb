#include <fmt/format.h>

#include <iostream>
#include <memory>

#include "bench.h"
#include "msplora/bench/generate.h"
#include "msplora/models/model.h"
#include "msplora/runs/model_files.h"
#include "msplora/train/runtime.h"

namespace msplora {
namespace {

struct GenerateArguments {
  GenerateBenchOptions options;
  std::string shape = "smollm2-135m";
  std::string weights;
  std::string dtype = "bfloat16";
  bool no_roof = false;
};

nlohmann::ordered_json generate_json(const GenerateArguments& arguments, const GenerateBenchResult& result) {
  const GenerateBenchOptions& options = arguments.options;
  nlohmann::ordered_json report = {{"model", arguments.weights.empty() ? arguments.shape : arguments.weights},
                                   {"dtype", arguments.dtype},
                                   {"machine", machine_json()},
                                   {"texts", options.texts},
                                   {"prompt", options.prompt},
                                   {"generated", options.generated},
                                   {"prompt_tokens_per_second", result.prompt_tokens_per_second()},
                                   {"generated_tokens_per_second", result.tokens_per_second()},
                                   {"prompt_flops", result.prompt_flops},
                                   {"weight_bytes", result.weight_bytes},
                                   {"cache_bytes", result.cache_bytes},
                                   {"prompts", timings_json(result.prompts)},
                                   {"tokens", timings_json(result.tokens)}};
  if (!arguments.weights.empty()) report["ready_seconds"] = result.ready_seconds;
  if (result.roof_flops_per_second > 0) {
    report["roof_flops_per_second"] = result.roof_flops_per_second;
    report["roof_share"] = result.roof_share();
    report["read_bytes_per_second"] = result.read_bytes_per_second;
    report["read_share"] = result.read_share();
  }
  return report;
}

void run_bench_generate(GenerateArguments arguments, const CommonOptions& common) {
  use_threads(common.threads);
  GenerateBenchOptions& options = arguments.options;
  options.model = arguments.weights.empty() ? known_model_shape(arguments.shape)
                                            : load_supported_config(arguments.weights);
  options.weights = arguments.weights;
  options.dtype = parse_dtype(arguments.dtype);
  options.measures_roofs = !arguments.no_roof;
  const GenerateBenchResult result = bench_generate(options);
  if (common.json) return print_json(generate_json(arguments, result));
  const double bytes = result.weight_bytes + result.cache_bytes;
  std::cout << machine_line() << "\n";
  if (!arguments.weights.empty())
    std::cout << fmt::format("  first token after {:.3f} s\n", result.ready_seconds);
  std::cout << fmt::format(
      "  prompts    {:.0f} tokens/s, {:.3f} s for {} x {} (best {:.3f} s), {:.0f} GFLOP/s",
      result.prompt_tokens_per_second(), result.prompts.median(), options.texts, options.prompt,
      result.prompts.best(), 1e-9 * result.prompt_flops / result.prompts.median());
  if (options.measures_roofs) {
    std::cout << fmt::format(", {:.1f}% of the roof of {:.0f}", 100 * result.roof_share(),
                             1e-9 * result.roof_flops_per_second);
  }
  std::cout << fmt::format(
      "\n  generated  {:.1f} tokens/s, {:.2f} ms for {} x 1 (best {:.2f} ms), {:.1f} GB/s",
      result.tokens_per_second(), 1e3 * result.tokens.median(), options.texts, 1e3 * result.tokens.best(),
      1e-9 * bytes / result.tokens.median());
  if (options.measures_roofs) {
    std::cout << fmt::format(", {:.1f}% of the memory's {:.1f}", 100 * result.read_share(),
                             1e-9 * result.read_bytes_per_second);
  }
  std::cout << "\n";
}

}  // namespace

Command add_bench_generate(CLI::App& bench, CommonOptions& common) {
  CLI::App* command =
      bench.add_subcommand("generate", "Reading prompts and writing texts, beside their floors");
  auto arguments = std::make_shared<GenerateArguments>();
  GenerateBenchOptions& options = arguments->options;
  const auto number = [&](const char* name, int64_t& value, const char* what) {
    command->add_option(name, value, what)->check(positive_number())->type_name("N")->capture_default_str();
  };
  command->add_option("--shape", arguments->shape, "Well-known decoder (see inspect); its weights are drawn")
      ->type_name("NAME")
      ->capture_default_str();
  command->add_option("--weights", arguments->weights, "Checkpoint instead of --shape")->type_name("PATH");
  command->add_option("--dtype", arguments->dtype, "Type of activations, weights and kept keys")
      ->transform(dtype_choice({"float32", "bfloat16"}))
      ->capture_default_str();
  number("--texts", options.texts, "Texts that are written together");
  number("--prompt", options.prompt, "Tokens of each prompt");
  number("--new", options.generated, "Tokens of each text");
  number("--rounds", options.rounds, "Times that the prompts are read and the texts written");
  command->add_flag("--draw", options.draws, "Draw tokens with top_p 0.95 instead of taking the likeliest");
  command->add_flag("--no-roof", arguments->no_roof, "Measure neither products nor the memory");
  add_common(*command, common);
  return {command, [arguments, &common] { run_bench_generate(*arguments, common); }};
}

}  // namespace msplora
