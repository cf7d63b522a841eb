#include "msplora/bench/gemm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros_like.h>
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "bench/onednn_gemm.h"
#include "msplora/core/random.h"
#include "msplora/core/stopwatch.h"
#include "msplora/kernels/gemm.h"
#include "msplora/kernels/isa.h"
#include "msplora/nn/device.h"
#include "nn/packed_product.h"

namespace msplora {
namespace {

// The values do not matter for the time, as long as none is denormal: a short drawn pattern, repeated.
at::Tensor drawn(int64_t rows, int64_t columns, const char* name, at::ScalarType dtype) {
  constexpr int64_t kPattern = 4093;  // a prime, so that rows differ
  RandomStream stream(1, name);
  at::Tensor pattern = at::empty({kPattern});
  for (int64_t i = 0; i < kPattern; ++i)
    pattern.data_ptr<float>()[i] = static_cast<float>(stream.uniform() - 0.5);
  const int64_t copies = (rows * columns + kPattern - 1) / kPattern;
  return pattern.repeat({copies}).slice(0, 0, rows * columns).view({rows, columns}).to(dtype);
}

class AtLinear : public GemmVariant {
 public:
  AtLinear(at::Tensor x, std::vector<at::Tensor> weights, at::Tensor y)
      : x_(std::move(x)), weights_(std::move(weights)), y_(std::move(y)) {}
  std::string name() const override { return "at::linear"; }
  void run() override {
    for (const at::Tensor& weight : weights_) at::linear_out(y_, x_, weight);
    synchronize(y_.device());
  }
  at::Tensor result() const override { return y_; }

 private:
  at::Tensor x_;
  std::vector<at::Tensor> weights_;
  at::Tensor y_;
};

using detail::Direction;

class PackedKernel : public GemmVariant {
 public:
  /// Backward: the weight is given as its transpose, so that the result is the same.
  PackedKernel(at::Tensor x, const at::Tensor& weight, at::Tensor y, Direction direction, int64_t copies = 1)
      : x_(std::move(x)), y_(std::move(y)), direction_(direction) {
    for (int64_t copy = 0; copy < copies; ++copy) {
      products_.push_back(detail::make_kernel_product(
          {weight.size(0), weight.size(1), weight.scalar_type(),
           [weight](int64_t begin, int64_t end) { return weight.slice(0, begin, end); }, nullptr}));
    }
  }
  std::string name() const override {
    return direction_ == Direction::kForward ? "packed weight" : "packed weight, turned";
  }
  void run() override {
    detail::ProductCall call;
    call.x = x_.data_ptr();
    call.rows = x_.size(0);
    call.y = y_.data_ptr();
    for (const auto& product : products_) product->run(direction_, call);
  }
  at::Tensor result() const override { return y_; }

 private:
  at::Tensor x_, y_;
  std::vector<std::unique_ptr<detail::PackedProduct>> products_;
  Direction direction_;
};

double weight_bytes(const GemmSize& size, at::ScalarType dtype) {
  return static_cast<double>(size.in * size.out) * static_cast<double>(c10::elementSize(dtype));
}

}  // namespace

std::vector<std::unique_ptr<GemmVariant>> gemm_variants(const GemmSize& size, at::ScalarType dtype,
                                                        const at::Device& device) {
  const at::Tensor x = drawn(size.rows, size.in, "x", dtype).to(device),
                   weight = drawn(size.out, size.in, "w", dtype).to(device);
  const at::Tensor y = at::empty({size.rows, size.out}, x.options());
  std::vector<std::unique_ptr<GemmVariant>> variants;
  const int64_t copies = gemm_copies(size, dtype);
  std::vector<at::Tensor> weights = {weight};
  while (static_cast<int64_t>(weights.size()) < copies) weights.push_back(weight.clone());
  variants.push_back(std::make_unique<AtLinear>(x, std::move(weights), y));
  if (!device.is_cpu()) return variants;
  if (detail::suits_kernel_product(dtype, size.out, size.in)) {
    variants.push_back(std::make_unique<PackedKernel>(x, weight, y, Direction::kForward, copies));
    if (copies > 1) return variants;
    variants.push_back(std::make_unique<PackedKernel>(x, weight.t().contiguous(), y, Direction::kBackward));
  }
  if (auto packed = detail::onednn_packed_gemm(x, weight, y)) variants.push_back(std::move(packed));
  return variants;
}

int64_t gemm_copies(const GemmSize& size, at::ScalarType dtype) {
  constexpr int64_t kFewRows = 16;
  constexpr double kBeyondCaches = 256 << 20;
  if (size.rows > kFewRows) return 1;
  return static_cast<int64_t>(std::ceil(kBeyondCaches / weight_bytes(size, dtype)));
}

void InstructionPeak::measure() {
  constexpr int64_t kRounds = 20'000;
  constexpr double kSeconds = 0.01;
  const kernels::Isa isa = kernels::available_isas().back();
  int64_t operations = 0;
  const double seconds = time_of([&] {
#pragma omp parallel reduction(+ : operations)
    for (const Stopwatch watch; watch.seconds() < kSeconds;) {
      operations += dtype_ == at::kFloat ? kernels::multiply_registers<float>(isa, kRounds)
                                         : kernels::multiply_registers<kernels::Bfloat16>(isa, kRounds);
    }
  });
  best_ = std::max(best_, static_cast<double>(operations) / seconds);
}

double GemmResult::best_bytes_per_second() const {
  return weight_bytes(size, dtype) / timings.best();
}

std::vector<GemmResult> bench_gemm(const std::vector<GemmSize>& sizes,
                                   const std::vector<at::ScalarType>& dtypes, int64_t repetitions) {
  std::vector<std::unique_ptr<GemmVariant>> variants;
  std::vector<GemmResult> results;
  std::map<at::ScalarType, InstructionPeak> peaks;
  for (const at::ScalarType dtype : dtypes) peaks.emplace(dtype, dtype);
  for (const GemmSize& size : sizes) {
    for (const at::ScalarType dtype : dtypes) {
      for (auto& variant : gemm_variants(size, dtype)) {
        results.push_back({size, dtype, variant->name(), {}, 0.0});
        variant->run();
        variants.push_back(std::move(variant));
      }
    }
  }
  for (int64_t repetition = 0; repetition < repetitions; ++repetition) {
    for (auto& [dtype, peak] : peaks) peak.measure();
    for (size_t i = 0; i < variants.size(); ++i) {
      const double seconds = time_of([&] { variants[i]->run(); });
      results[i].timings.seconds.push_back(
          seconds / static_cast<double>(gemm_copies(results[i].size, results[i].dtype)));
    }
  }
  for (GemmResult& result : results) result.peak_flops_per_second = peaks.at(result.dtype).flops_per_second();
  return results;
}

GemmRoof::GemmRoof(const GemmSize& size, at::ScalarType dtype, const at::Device& device)
    : is_cpu_(device.is_cpu()), peak_(dtype), variants_(gemm_variants(size, dtype, device)) {
  for (const auto& variant : variants_) {
    results_.push_back({size, dtype, variant->name(), {}, 0.0});
    variant->run();
  }
}

void GemmRoof::measure() {
  if (is_cpu_) peak_.measure();
  for (size_t i = 0; i < variants_.size(); ++i)
    results_[i].timings.seconds.push_back(time_of([&] { variants_[i]->run(); }));
}

double GemmRoof::flops_per_second() const {
  double best = 0.0;
  for (const GemmResult& result : results_) {
    if (!result.timings.seconds.empty()) best = std::max(best, result.best_flops_per_second());
  }
  return best;
}

double GemmRoof::median_flops_per_second() const {
  double best = 0.0;
  for (const GemmResult& result : results_) {
    if (!result.timings.seconds.empty()) best = std::max(best, result.median_flops_per_second());
  }
  return best;
}

const std::string& GemmRoof::variant() const {
  const auto slower = [](const GemmResult& a, const GemmResult& b) {
    return a.timings.best() > b.timings.best();
  };
  return std::max_element(results_.begin(), results_.end(), slower)->variant;
}

double copy_bandwidth(int64_t bytes, int64_t repetitions) {
  const at::Tensor from = at::ones({bytes / 4});
  at::Tensor to = at::zeros_like(from);
  double best = 0.0;
  for (int64_t i = 0; i < repetitions; ++i) {
    const double seconds = time_of([&] { to.copy_(from); });
    best = std::max(best, 2.0 * static_cast<double>(bytes) / seconds);
  }
  return best;
}

namespace {

// A page ahead, which the processor alone does not look.
int64_t sum_of(const int64_t* numbers, int64_t count) {
  constexpr int64_t kLine = 8, kAhead = 512;
  int64_t sums[kLine] = {};
  for (int64_t i = 0; i + kLine <= count; i += kLine) {
    __builtin_prefetch(numbers + i + kAhead, 0);
#pragma GCC unroll 8
    for (int64_t j = 0; j < kLine; ++j) sums[j] += numbers[i + j];
  }
  return std::accumulate(sums, sums + kLine, int64_t{0});
}

}  // namespace

double read_bandwidth(int64_t bytes, int64_t repetitions) {
  constexpr int64_t kPart = 8 << 10;  // numbers
  const at::Tensor array = at::ones({bytes / (8 * kPart) * kPart}, at::kLong);
  const int64_t* const numbers = array.data_ptr<int64_t>();
  const int64_t parts = array.numel() / kPart;
  double best = 0.0;
  int64_t sum = 0;
  for (int64_t i = 0; i < repetitions; ++i) {
    const double seconds = time_of([&] {
#pragma omp parallel for schedule(static) reduction(+ : sum)
      for (int64_t part = 0; part < parts; ++part) sum += sum_of(numbers + part * kPart, kPart);
    });
    best = std::max(best, static_cast<double>(array.nbytes()) / seconds);
  }
  TORCH_INTERNAL_ASSERT(sum == array.numel() * repetitions);  // and so it was read
  return best;
}

}  // namespace msplora
