#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "bench.h"
#include "msplora/kernels/gemm.h"
#include "msplora/train/runtime.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

Json flops_json(const StepFlops& flops) {
  return {{"total", flops.total()},
          {"linear_forward", flops.linear_forward},
          {"linear_backward", flops.linear_backward},
          {"attention_forward", flops.attention_forward},
          {"attention_backward", flops.attention_backward},
          {"low_rank", flops.low_rank},
          {"recomputation", flops.recomputation}};
}

void print_profile(const StepBenchResult& result, std::ostream& out) {
  double total = 0;
  for (const ProfileEntry& entry : result.profile) total += entry.self_seconds;
  const double steps = static_cast<double>(result.steps.seconds.size());
  TextTable table({"where", "calls", "ms a step", "share"}, {false, true, true, true});
  for (const ProfileEntry& entry : result.profile) {
    table.add({entry.name, fmt::format("{:.0f}", static_cast<double>(entry.calls) / steps),
               fmt::format("{:.1f}", 1e3 * entry.self_seconds / steps),
               fmt::format("{:.1f}%", 100 * entry.self_seconds / total)});
  }
  out << "\ntime of the thread that trains, mean of the steps:\n" << table.text("  ");
}

void print_report(const BenchArguments& arguments, const StepBenchResult& result, std::ostream& out) {
  const auto line = [&](const char* subject, const std::string& text) {
    out << fmt::format("  {:<11} {}\n", subject, text);
  };
  line("step", fmt::format("{:.3f} s best, {:.3f} s median of {}", result.steps.best(), result.steps.median(),
                           result.steps.seconds.size()));
  line("tokens/s",
       fmt::format("{:.0f} best, {:.0f} median ({} tokens a step; padded they would be {})",
                   result.tokens_per_second(), static_cast<double>(result.tokens) / result.steps.median(),
                   result.tokens, result.padded_tokens));
  line("products", fmt::format("{:.3f} TFLOP needed a step", 1e-12 * result.flops.total()));
  if (result.roof_flops_per_second > 0) {
    line("roof", fmt::format("{:.0f} GFLOP/s ({}), measured between the steps",
                             1e-9 * result.roof_flops_per_second, result.roof_variant));
    line("roof_share", fmt::format("{:.1f}% best, {:.1f}% of the medians", 100 * result.roof_share(),
                                   100 * result.median_roof_share()));
  }
  if (result.peak_flops_per_second > 0) {
    line("peak", fmt::format("{:.0f} GFLOP/s with operands in registers; the step has {:.1f}% of it",
                             1e-9 * result.peak_flops_per_second, 100 * result.peak_share()));
  }
  line("memory", fmt::format("{} at most, weights and what the roof needs included",
                             bytes_text(result.peak_memory_bytes)));
  line("trained", with_commas(result.trainable_parameters) + " parameters");
  print_profile(result, out);
}

void run_step(const BenchArguments& arguments, const CommonOptions& common) {
  StepBenchOptions options = step_options(arguments);
  options.device = device_of(common);
  use_threads(common.threads);
  kernels::set_matmul_precision(kernels::precision_named(arguments.matmul_precision));
  say(common, fmt::format("{}, {}, {} x {} tokens, {}\n{}\n", arguments.shape, arguments.method,
                          arguments.batch, arguments.seq, arguments.dtype, machine_line()));
  const StepBenchResult result = bench_step(options, [&](int64_t step, double seconds) {
    say(common, fmt::format("  step {}: {:.3f} s{}\n", step, seconds,
                            step <= options.warmup ? " (not counted)" : ""));
  });
  if (common.json) return print_json(step_json(arguments, result));
  print_report(arguments, result, std::cout);
}

}  // namespace

Json step_json(const BenchArguments& arguments, const StepBenchResult& result) {
  Json profile = Json::array();
  for (const ProfileEntry& entry : result.profile) {
    profile.push_back({{"name", entry.name},
                       {"calls", entry.calls},
                       {"seconds", entry.seconds},
                       {"self_seconds", entry.self_seconds}});
  }
  Json report = {{"shape", arguments.shape},
                 {"method", arguments.method},
                 {"rank", arguments.rank},
                 {"levels", arguments.levels},
                 {"dtype", arguments.dtype},
                 {"matmul_precision", arguments.matmul_precision},
                 {"batch", arguments.batch},
                 {"seq", arguments.seq},
                 {"dropout", arguments.dropout},
                 {"adapter_dropout", arguments.adapter_dropout},
                 {"checkpoint_activations", arguments.checkpoint_activations},
                 {"machine", machine_json()},
                 {"tokens", result.tokens},
                 {"padded_tokens", result.padded_tokens},
                 {"trainable_parameters", result.trainable_parameters},
                 {"step", timings_json(result.steps)},
                 {"tokens_per_second", result.tokens_per_second()},
                 {"flops", flops_json(result.flops)},
                 {"peak_memory_bytes", result.peak_memory_bytes},
                 {"memory",
                  {{"loaded_bytes", result.loaded_memory_bytes},
                   {"taken_bytes", result.taken_memory_bytes},
                   {"estimated_bytes", result.estimate.total()},
                   {"estimated_weights_bytes", result.estimate.weights},
                   {"estimated_trainable_bytes", result.estimate.trainable},
                   {"estimated_activation_bytes", result.estimate.activations}}},
                 {"first_loss", result.first_loss},
                 {"last_loss", result.last_loss},
                 {"profile", std::move(profile)}};
  if (result.roof_flops_per_second > 0) {
    report["roof_gflops"] = 1e-9 * result.roof_flops_per_second;
    report["roof_way"] = result.roof_variant;
    report["roof_share"] = result.roof_share();
    report["median_roof_gflops"] = 1e-9 * result.median_roof_flops_per_second;
    report["median_roof_share"] = result.median_roof_share();
  }
  if (result.peak_flops_per_second > 0) {
    report["peak_gflops"] = 1e-9 * result.peak_flops_per_second;
    report["peak_share"] = result.peak_share();
  }
  return report;
}

Command add_bench_step(CLI::App& bench, CommonOptions& common) {
  CLI::App* command = bench.add_subcommand("step", "Training steps of a model with drawn weights and tokens");
  auto arguments = std::make_shared<BenchArguments>();
  add_bench_arguments(*command, *arguments);
  command->add_option("--weights", arguments->weights, "A checkpoint instead of drawn weights of --shape")
      ->type_name("DIR");
  add_precision(*command, arguments->matmul_precision);
  command->add_flag("--no-roof", arguments->no_roof, "Leave out the products that the share is measured by");
  add_common(*command, common);
  return {command, [arguments, &common] { run_step(*arguments, common); }};
}

}  // namespace msplora
