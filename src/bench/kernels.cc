#include "msplora/bench/kernels.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/bench/gemm.h"
#include "msplora/core/error.h"
#include "msplora/core/random.h"
#include "msplora/kernels/decoder.h"
#include "msplora/kernels/kernels.h"
#include "nn/dispatch.h"

namespace msplora {
namespace {

using detail::data;
namespace k = kernels;

// Operations for each element: five AES rounds give the numbers of eight masks, and comparing and scaling
// follow; an exponential is a polynomial of degree 6 with its reduction.
constexpr double kMask = 3, kExp = 20;

struct Case {
  std::string name;
  double operations = 0, bytes = 0;
  std::function<void()> run;
};

/// Cases and the arrays that they work on (the closures hold the tensors).
template <typename T>
class Cases {
 public:
  explicit Cases(const KernelBenchOptions& options) : o_(options), shape_(describe(options.model)) {
    n_ = static_cast<double>(tokens() * shape_.hidden_size());
  }

  std::vector<Case> encoder() {
    add_dropout();
    add_layer_norm();
    add_gelu();
    add_attention();
    return std::move(cases_);
  }
  std::vector<Case> decoder() {
    add_rms_norm();
    add_rotary();
    add_swiglu();
    add_cross_entropy();
    return std::move(cases_);
  }

 private:
  int64_t tokens() const { return o_.batch * o_.length; }

  at::Tensor drawn(int64_t rows, int64_t columns) {
    RandomStream stream(1, fmt::format("array {}", arrays_++));
    at::Tensor tensor = at::empty({rows, columns});
    float* values = tensor.data_ptr<float>();
    for (int64_t i = 0; i < tensor.numel(); ++i) values[i] = static_cast<float>(2 * stream.uniform() - 1);
    return tensor.to(o_.dtype);
  }
  at::Tensor hidden() { return drawn(tokens(), shape_.hidden_size()); }
  at::Tensor floats(int64_t n) { return at::ones({n}); }

  void add(std::string name, double operations, double bytes, std::function<void()> run) {
    cases_.push_back({std::move(name), operations, bytes, std::move(run)});
  }

  void add_dropout() {
    const at::Tensor x = hidden(), y = hidden();
    add("dropout", kMask * n_, 2 * n_ * sizeof(T),
        [=, mask = mask()] { k::dropout<T>(data<T>(x), data<T>(y), x.numel(), mask); });
  }

  void add_layer_norm() {
    const at::Tensor x = hidden(), residual = hidden(), s = hidden(), y = hidden(), d_x = hidden(),
                     d_r = hidden();
    const at::Tensor gamma = floats(x.size(1)), beta = floats(x.size(1));
    const at::Tensor mean = floats(x.size(0)), rstd = floats(x.size(0));
    const double mask_operations = o_.dropout > 0 ? kMask : 0;
    add("norm forward", (mask_operations + 9) * n_, 4 * n_ * sizeof(T), [=, mask = mask()] {
      k::residual_layer_norm<T>({x.size(0), x.size(1), 1e-5, mask, data<T>(x), data<T>(residual),
                                 data<float>(gamma), data<float>(beta), data<T>(s), data<T>(y),
                                 data<float>(mean), data<float>(rstd)});
    });
    add("norm backward", (mask_operations + 13) * n_, 4 * n_ * sizeof(T), [=, mask = mask()] {
      k::residual_layer_norm_backward<T>({x.size(0), x.size(1), 1e-5, mask, data<T>(x), data<T>(s),
                                          data<float>(mean), data<float>(rstd), data<float>(gamma),
                                          data<T>(d_x), data<T>(d_r), nullptr, nullptr});
    });
  }

  void add_gelu() {
    const at::Tensor x = drawn(tokens(), shape_.intermediate_size()), y = drawn(tokens(), x.size(1)),
                     dx = drawn(tokens(), x.size(1));
    const double n = static_cast<double>(x.numel());
    add("gelu forward", (kExp + 17) * n, 3 * n * sizeof(T),
        [=] { k::activation<T>(k::Activation::kGelu, data<T>(x), data<T>(y), data<T>(dx), x.numel()); });
    add("gelu backward", n, 3 * n * sizeof(T),
        [=] { k::multiply<T>(data<T>(x), data<T>(y), data<T>(dx), x.numel()); });
  }

  void add_attention() {
    const at::Tensor q = hidden(), key = hidden(), v = hidden(), o = hidden(), d_o = hidden();
    const at::Tensor dq = hidden(), dk = hidden(), dv = hidden();
    const at::Tensor lse = floats(tokens() * shape_.heads());
    std::vector<int32_t> bounds;
    for (int64_t b = 0; b <= o_.batch; ++b) bounds.push_back(static_cast<int32_t>(b * o_.length));
    const double pairs = static_cast<double>(tokens() * o_.length);
    const double products = pairs * static_cast<double>(shape_.hidden_size());
    const double scores = pairs * static_cast<double>(shape_.heads());
    const double mask_operations = o_.dropout > 0 ? kMask : 0;
    const auto op = [=, mask = mask(), heads = shape_.heads()](const std::vector<int32_t>& b) {
      k::SegmentAttention<T> a;
      a.cu_seqlens = b.data();
      a.segments = static_cast<int64_t>(b.size()) - 1;
      a.heads = a.kv_heads = heads;
      a.head_dim = q.size(1) / heads;
      a.q_stride = a.k_stride = a.v_stride = a.o_stride = q.size(1);
      a.scale = 1.0 / std::sqrt(static_cast<double>(a.head_dim));
      a.mask = mask;
      a.q = data<T>(q), a.k = data<T>(key), a.v = data<T>(v), a.o = data<T>(o), a.lse = data<float>(lse);
      return a;
    };
    add("attention forward", 4 * products + (kExp + 4 + mask_operations) * scores, 4 * n_ * sizeof(T),
        [=] { k::segment_attention<T>(op(bounds)); });
    add("attention backward", 10 * products + (kExp + 6 + mask_operations) * scores, 8 * n_ * sizeof(T), [=] {
      k::segment_attention_backward<T>({op(bounds), data<T>(d_o), data<T>(dq), data<T>(dk), data<T>(dv)});
    });
  }

  void add_rms_norm() {
    const at::Tensor x = hidden(), residual = hidden(), s = hidden(), y = hidden(), d_x = hidden();
    const at::Tensor gamma = floats(x.size(1)), inverse = floats(x.size(0));
    add("rms norm forward", 5 * n_, 4 * n_ * sizeof(T), [=] {
      k::residual_rms_norm<T>({x.size(0), x.size(1), 1e-6, data<T>(x), data<T>(residual), data<float>(gamma),
                               data<T>(s), data<T>(y), data<float>(inverse)});
    });
    add("rms norm backward", 9 * n_, 4 * n_ * sizeof(T), [=] {
      k::residual_rms_norm_backward<T>({x.size(0), x.size(1), 1e-6, data<T>(x), data<T>(residual), data<T>(s),
                                        data<float>(inverse), data<float>(gamma), data<T>(d_x), nullptr});
    });
  }

  void add_rotary() {
    const at::Tensor x = hidden(), y = hidden();
    const int64_t heads = shape_.heads(), dim = x.size(1) / heads / 2 * 2;
    const at::Tensor cos = floats(o_.length * dim / 2), sin = floats(o_.length * dim / 2);
    std::vector<int32_t> positions;
    for (int64_t t = 0; t < tokens(); ++t) positions.push_back(static_cast<int32_t>(t % o_.length));
    for (const auto pairs : {k::RotaryPairs::kHalves, k::RotaryPairs::kInterleaved}) {
      const bool is_halves = pairs == k::RotaryPairs::kHalves;
      add(is_halves ? "rotary, halves" : "rotary, interleaved", 3 * n_, 2 * n_ * sizeof(T), [=] {
        k::rotary<T>({x.size(0), heads, x.size(1) / heads, dim, x.size(1), x.size(1), pairs, false,
                      positions.data(), data<float>(cos), data<float>(sin), data<T>(x), data<T>(y)});
      });
    }
  }

  void add_swiglu() {
    const int64_t width = shape_.intermediate_size();
    const at::Tensor gate = drawn(tokens(), width), up = drawn(tokens(), width), y = drawn(tokens(), width),
                     d_gate = drawn(tokens(), width), d_up = drawn(tokens(), width);
    const double n = static_cast<double>(gate.numel());
    const k::SwiGlu<T> op{gate.size(0), width, width, width, width, data<T>(gate), data<T>(up), data<T>(y)};
    add("swiglu forward", (kExp + 4) * n, 3 * n * sizeof(T),
        [op, held = std::vector<at::Tensor>{gate, up, y}] { k::swiglu<T>(op); });
    add("swiglu backward", (kExp + 9) * n, 5 * n * sizeof(T),
        [op, y, d_gate, d_up, held = std::vector<at::Tensor>{gate, up}] {
          k::swiglu_backward<T>({op, data<T>(y), data<T>(d_gate), data<T>(d_up)});
        });
  }

  // Gradients are logits of the next run: the values differ, the work does not.
  void add_cross_entropy() {
    const int64_t rows = std::min<int64_t>(64, tokens()), classes = shape_.vocab_size();
    const at::Tensor logits = drawn(rows, classes);
    const auto losses = std::make_shared<std::vector<double>>(static_cast<size_t>(rows));
    const std::vector<int64_t> labels(static_cast<size_t>(rows), classes / 2);
    const double n = static_cast<double>(rows * classes);
    add(fmt::format("cross entropy, {} rows", rows), 2 * (kExp + 2) * n, 2 * n * sizeof(T), [=] {
      k::cross_entropy_rows<T>({rows, classes, labels.data(), true, data<T>(logits), losses->data()});
    });
  }

  k::DropoutMask mask() const { return {7, o_.dropout}; }

  const KernelBenchOptions& o_;
  Architecture shape_;
  double n_ = 0;  // elements of the hidden states
  int arrays_ = 0;
  std::vector<Case> cases_;
};

template <typename T>
std::vector<Case> cases_of(const KernelBenchOptions& options) {
  std::vector<Case> all = Cases<T>(options).encoder();
  for (Case& one : Cases<T>(options).decoder()) all.push_back(std::move(one));
  return all;
}

std::vector<Case> cases_of_dtype(const KernelBenchOptions& options) {
  if (options.dtype == at::kFloat) return cases_of<float>(options);
  if (options.dtype == at::kBFloat16) return cases_of<k::Bfloat16>(options);
  throw Error(ErrorCode::kConfig, "bench kernels", "kernels are built for float32 and bfloat16");
}

}  // namespace

KernelReport bench_kernels(const KernelBenchOptions& options) {
  KernelReport report;
  const std::vector<Case> cases = cases_of_dtype(options);
  for (const Case& one : cases) {
    report.kernels.push_back({one.name, one.operations, one.bytes, 0.0, {}});
    one.run();
  }
  const Architecture shape = describe(options.model);
  GemmRoof roof({1024, shape.hidden_size(), shape.intermediate_size()}, at::kFloat);
  constexpr int64_t kBeyondCaches = 256 << 20;
  for (int64_t repetition = 0; repetition < options.repetitions; ++repetition) {
    for (size_t i = 0; i < cases.size(); ++i)
      report.kernels[i].timings.seconds.push_back(time_of(cases[i].run));
    roof.measure();
  }
  report.roofs = {roof.flops_per_second(), copy_bandwidth(kBeyondCaches, options.repetitions)};
  for (KernelResult& kernel : report.kernels) {
    kernel.floor_seconds = std::max(kernel.operations / report.roofs.flops_per_second,
                                    kernel.bytes / report.roofs.bytes_per_second);
  }
  return report;
}

}  // namespace msplora
