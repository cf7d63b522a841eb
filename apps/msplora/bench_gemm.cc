#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bench.h"
#include "msplora/bench/gemm.h"
#include "msplora/kernels/gemm.h"
#include "msplora/train/runtime.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

struct GemmArguments {
  std::string sizes;
  std::string shape = "roberta-base";
  std::string dtypes = "float32,bfloat16";
  std::string precision = "exact";
  int64_t tokens = 4096;
  int64_t repetitions = 10;
};

/// "4096x768x3072": rows, in, out.
GemmSize parse_size(const std::string& text) {
  long long rows = 0, in = 0, out = 0;
  int used = 0;
  const bool is_whole = std::sscanf(text.c_str(), "%lldx%lldx%lld%n", &rows, &in, &out, &used) == 3 &&
                        used == static_cast<int>(text.size());
  if (!is_whole || rows < 1 || in < 1 || out < 1) {
    throw Error(ErrorCode::kUsage, "--size", "expected ROWSxINxOUT, found `" + text + "`",
                "for example 4096x768x3072");
  }
  return {rows, in, out};
}

std::vector<GemmSize> sizes_of(const GemmArguments& arguments) {
  std::vector<GemmSize> sizes;
  for (const std::string& text : split_commas(arguments.sizes)) sizes.push_back(parse_size(text));
  if (!sizes.empty()) return sizes;
  const Architecture shape = describe(known_model_shape(arguments.shape));
  const int64_t rows = arguments.tokens, hidden = shape.hidden_size(), wide = shape.intermediate_size();
  return {{rows, hidden, hidden}, {rows, hidden, wide}, {rows, wide, hidden}};
}

void bench_products(const GemmArguments& arguments, const CommonOptions& common) {
  std::vector<at::ScalarType> dtypes;
  for (const std::string& name : split_commas(arguments.dtypes)) {
    if (name == "float32") {
      dtypes.push_back(at::kFloat);
    } else if (name == "bfloat16") {
      dtypes.push_back(at::kBFloat16);
    } else {
      throw Error(ErrorCode::kUsage, "--dtype", "unknown type `" + name + "`", "float32, bfloat16");
    }
  }
  use_threads(common.threads);
  kernels::set_matmul_precision(kernels::precision_named(arguments.precision));
  const auto results = bench_gemm(sizes_of(arguments), dtypes, arguments.repetitions);
  Json report = {{"machine", machine_json()},
                 {"matmul_precision", arguments.precision},
                 {"repetitions", arguments.repetitions},
                 {"products", Json::array()}};
  TextTable table({"rows x in x out", "type", "way", "best ms", "best GFLOP/s", "of the peak",
                   "median GFLOP/s", "W, GB/s"},
                  {false, false, false, true, true, true, true, true});
  double read = 0.0;                    // where W comes from memory
  std::map<std::string, double> peaks;  // GFLOP/s
  for (const GemmResult& result : results) {
    const std::string size = fmt::format("{}x{}x{}", result.size.rows, result.size.in, result.size.out);
    const std::string dtype = result.dtype == at::kFloat ? "float32" : "bfloat16";
    peaks[dtype] = 1e-9 * result.peak_flops_per_second;
    const bool is_streaming = gemm_copies(result.size, result.dtype) > 1;
    if (is_streaming && read <= 0) read = read_bandwidth(256 << 20, arguments.repetitions);
    const std::string rate =
        is_streaming ? fmt::format("{:.1f}", 1e-9 * result.best_bytes_per_second()) : std::string();
    table.add({size, dtype, result.variant, fmt::format("{:.3g}", 1e3 * result.timings.best()),
               fmt::format("{:.0f}", 1e-9 * result.best_flops_per_second()),
               fmt::format("{:.1f}%", 100 * result.peak_share()),
               fmt::format("{:.0f}", 1e-9 * result.median_flops_per_second()), rate});
    Json entry = {{"size", size},
                  {"dtype", dtype},
                  {"way", result.variant},
                  {"best_gflops", 1e-9 * result.best_flops_per_second()},
                  {"median_gflops", 1e-9 * result.median_flops_per_second()}};
    if (is_streaming) entry["weight_bytes_per_second"] = result.best_bytes_per_second();
    entry.update(timings_json(result.timings));
    report["products"].push_back(std::move(entry));
  }
  report["peak_gflops"] = peaks;
  if (read > 0) report["read_bytes_per_second"] = read;
  if (common.json) return print_json(report);
  std::cout << machine_line() << "\n" << table.text("  ");
  for (const auto& [dtype, peak] : peaks)
    std::cout << fmt::format("operands in registers, {}: {:.0f} GFLOP/s\n", dtype, peak);
  if (read > 0) std::cout << fmt::format("memory is read at {:.1f} GB/s\n", 1e-9 * read);
}

}  // namespace

Command add_bench_gemm(CLI::App& bench, CommonOptions& common) {
  CLI::App* command = bench.add_subcommand("gemm", "Matrix products: the roof of everything else");
  auto arguments = std::make_shared<GemmArguments>();
  command->add_option("--size", arguments->sizes, "Products instead of those of --shape, e.g. 4096x768x3072")
      ->type_name("RxIxO,...");
  command->add_option("--shape", arguments->shape, "Well-known model (see inspect)")
      ->type_name("NAME")
      ->capture_default_str();
  command->add_option("--tokens", arguments->tokens, "Rows of the products of --shape")
      ->check(positive_number())
      ->type_name("T")
      ->capture_default_str();
  command->add_option("--dtype", arguments->dtypes, "Types, with commas")->capture_default_str();
  add_precision(*command, arguments->precision);
  command->add_option("--repeat", arguments->repetitions, "Runs of each product, in turn")
      ->check(positive_number())
      ->type_name("N")
      ->capture_default_str();
  add_common(*command, common);
  return {command, [arguments, &common] { bench_products(*arguments, common); }};
}

}  // namespace msplora
