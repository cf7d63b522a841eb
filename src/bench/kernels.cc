#include "msplora/bench/kernels.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/op_case.h"
#include "msplora/bench/gemm.h"
#include "msplora/core/error.h"

namespace msplora {
namespace {

struct TimedCall {
  std::string name;
  bench::OpCost cost;
  std::function<void()> run;
};

std::vector<TimedCall> timed_calls(const KernelBenchOptions& options) {
  const bench::OpSizes sizes{describe(options.model), options.batch, options.length, options.dropout};
  std::vector<TimedCall> calls;
  for (const bench::OpCases& cases : bench::op_cases()) {
    if (!cases.of_model) continue;
    for (const bench::OpCase& one : cases.of_model(sizes)) {
      const std::shared_ptr<bench::OpRun> run = one.prepare(options.dtype);
      run->reset();
      const bool is_pair = run->has_backward();
      calls.push_back({one.what + (is_pair ? " forward" : ""), run->forward_cost, [run] { run->forward(); }});
      if (is_pair) calls.push_back({one.what + " backward", run->backward_cost, [run] { run->backward(); }});
    }
  }
  return calls;
}

}  // namespace

KernelReport bench_kernels(const KernelBenchOptions& options) {
  KernelReport report;
  if (options.dtype != at::kFloat && options.dtype != at::kBFloat16)
    throw Error(ErrorCode::kConfig, "bench kernels", "kernels are built for float32 and bfloat16");
  const std::vector<TimedCall> calls = timed_calls(options);
  for (const TimedCall& call : calls) {
    report.kernels.push_back({call.name, call.cost.operations, call.cost.products, call.cost.bytes, 0.0, {}});
    call.run();
  }
  InstructionPeak of_floats(at::kFloat), of_products(options.dtype);
  constexpr int64_t kBeyondCaches = 256 << 20;
  for (int64_t repetition = 0; repetition < options.repetitions; ++repetition) {
    for (size_t i = 0; i < calls.size(); ++i)
      report.kernels[i].timings.seconds.push_back(time_of(calls[i].run));
    of_floats.measure(), of_products.measure();
  }
  const KernelRoofs& roofs = report.roofs = {of_floats.flops_per_second(), of_products.flops_per_second(),
                                             copy_bandwidth(kBeyondCaches, options.repetitions)};
  for (KernelResult& kernel : report.kernels) {
    kernel.floor_seconds = std::max(
        kernel.operations / roofs.flops_per_second + kernel.products / roofs.product_flops_per_second,
        kernel.bytes / roofs.bytes_per_second);
  }
  return report;
}

}  // namespace msplora
