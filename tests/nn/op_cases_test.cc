// What every operation in the list of kernels is held to, at its cases.
#include "bench/op_case.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <map>
#include <string>
#include <vector>

#include "msplora/nn/composed.h"
#include "nn/drawn_tensors.h"
#include "nn/pretend_device.h"

namespace msplora::bench {
namespace {

using Kind = OpArray::Kind;

/// The largest deviation over the largest magnitude.
double error_of(const at::Tensor& got, const at::Tensor& expected) {
  if (expected.numel() == 0) return 0.0;
  const at::Tensor exact = expected.to(at::kDouble);
  const double largest =
      std::max(1e-6, exact.masked_fill(exact.abs().eq(INFINITY), 0.0).abs().max().item<double>());
  const at::Tensor same = got.to(at::kDouble).eq(exact);  // infinities, too
  const double error =
      (got.to(at::kDouble) - exact).masked_fill(same, 0.0).abs().max().item<double>() / largest;
  return std::isnan(error) ? INFINITY : error;
}

/// All that lies between rows is as it was.
bool keeps_gaps(const at::Tensor& whole, const at::Tensor& view) {
  return whole.isnan().sum().item<int64_t>() == whole.numel() - view.numel();
}

void run_all(const OpRun& run) {
  run.reset();
  kernels::spoil_scratch();
  run.forward();
  if (run.has_backward()) run.backward();
}

void expect_same(const OpRun& got, const OpRun& expected, double tolerance) {
  for (size_t i = 0; i < expected.arrays.size(); ++i) {
    const OpArray &a = got.arrays[i], &b = expected.arrays[i];
    if (b.kind == Kind::kOutput || b.kind == Kind::kSaved) {
      EXPECT_LT(error_of(a.value, b.value), tolerance * b.slack) << a.name;
      EXPECT_TRUE(keeps_gaps(a.whole, a.value)) << a.name;
    }
    if (b.kind == Kind::kInput && expected.has_backward()) {
      EXPECT_LT(error_of(a.gradient, b.gradient), tolerance * b.slack) << "gradient of " << a.name;
      EXPECT_TRUE(keeps_gaps(a.whole_gradient, a.gradient)) << "gradient of " << a.name;
    }
  }
}

const std::vector<OpCases>& all_cases() {
  static const std::vector<OpCases> all = op_cases();
  return all;
}

class Operations : public ::testing::TestWithParam<size_t> {
 protected:
  const OpCases& cases() const { return all_cases()[GetParam()]; }
};

TEST_P(Operations, GiveOnEveryInstructionSetWhatPlainLoopsGive) {
  for (const OpCase& one : cases().small) {
    for (const auto& [type, tolerance] :
         {std::pair{at::kFloat, cases().float_tolerance}, {at::kBFloat16, cases().bfloat16_tolerance}}) {
      if (type == at::kBFloat16 && !one.is_rounded) continue;
      const auto expected = one.prepare(at::kDouble, type);
      run_all(*expected);
      for (const kernels::Isa isa : kernels::available_isas()) {
        const testing::LowerIsa chosen(isa);
        SCOPED_TRACE(one.what + ", " + to_string(isa) + (type == at::kFloat ? ", float" : ", bfloat16"));
        const auto got = one.prepare(type);
        run_all(*got);
        expect_same(*got, *expected, tolerance);
      }
    }
  }
}

// Where there are matrix units, products of floats in parts.
TEST_P(Operations, GiveInEveryPrecisionWhatPlainLoopsGive) {
  const testing::LowerIsa best(kernels::available_isas().back());
  if (kernels::active_isa() != kernels::Isa::kAmx) GTEST_SKIP() << "no matrix units (AMX)";
  const std::string& name = cases().operation;
  const bool is_of_parts =
      name == "attention" || name == "low_rank" || name == "pack_gemm" || name == "packed_gemm";
  const double high = is_of_parts ? 2e-6 : cases().float_tolerance, medium = is_of_parts ? 3e-5 : high;
  bool has_parts = false;
  for (const OpCase& one : cases().small) {
    const auto expected = one.prepare(at::kDouble, at::kFloat), exact = one.prepare(at::kFloat);
    run_all(*expected), run_all(*exact);
    for (const auto& [precision, tolerance] :
         {std::pair{kernels::Precision::kHigh, high}, {kernels::Precision::kMedium, medium}}) {
      SCOPED_TRACE(one.what + (precision == kernels::Precision::kHigh ? ", high" : ", medium"));
      const auto got = one.prepare(precision);
      run_all(*got);
      expect_same(*got, *expected, tolerance);
      for (size_t i = 0; i < got->arrays.size(); ++i)
        has_parts |= error_of(got->arrays[i].value, exact->arrays[i].value) > 1e-6;
    }
  }
  EXPECT_EQ(has_parts, is_of_parts);
}

TEST_P(Operations, GiveTheSameBitsOnAnyNumberOfThreads) {
  const int threads = omp_get_max_threads();
  for (const OpCase& one : cases().small) {
    SCOPED_TRACE(one.what);
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const auto alone = one.prepare(type), many = one.prepare(type);
      omp_set_num_threads(1);
      run_all(*alone);
      omp_set_num_threads(3);
      run_all(*many);
      omp_set_num_threads(threads);
      for (size_t i = 0; i < alone->arrays.size(); ++i) {
        const OpArray &a = alone->arrays[i], &b = many->arrays[i];
        EXPECT_TRUE(a.value.equal(b.value)) << a.name;
        if (a.kind == Kind::kInput && alone->has_backward()) {
          EXPECT_TRUE(a.gradient.equal(b.gradient)) << "gradient of " << a.name;
        }
      }
    }
  }
}

double loss_of(const OpRun& run) {
  run.reset();
  run.forward();
  double loss = 0;
  for (const OpArray& array : run.arrays) {
    if (array.kind == Kind::kOutput)
      loss += (array.value.to(at::kDouble) * array.gradient).sum().item<double>();
  }
  return loss;
}

/// What backward adds to the gradient of an input.
at::Tensor added(const OpArray& input) {
  return input.start_gradient.defined() ? input.gradient - input.start_gradient : input.gradient;
}

TEST_P(Operations, HaveTheGradientsOfFiniteDifferences) {
  constexpr int64_t kMostElements = 250;
  int checked = 0, with_gradient = 0;
  for (const OpCase& one : cases().small) {
    SCOPED_TRACE(one.what);
    const auto run = one.prepare(at::kDouble);
    int64_t elements = 0;
    for (const OpArray& array : run->arrays) elements += array.value.numel();
    with_gradient += run->has_backward();
    if (!run->has_backward() || elements > kMostElements) continue;
    ++checked;
    run_all(*run);
    std::vector<at::Tensor> gradients;
    for (const OpArray& array : run->arrays)
      gradients.push_back(array.kind == Kind::kInput ? added(array).clone() : at::Tensor());
    for (size_t i = 0; i < run->arrays.size(); ++i) {
      if (!gradients[i].defined()) continue;
      const at::Tensor value = run->arrays[i].value.view({-1, run->arrays[i].value.size(-1)});
      const at::Tensor gradient = gradients[i].view_as(value);
      for (int64_t row = 0; row < value.size(0); ++row) {
        for (int64_t column = 0; column < value.size(1); ++column) {
          double& element = *(value.data_ptr<double>() + row * value.stride(0) + column);
          const double kept = element, step = 1e-6;
          element = kept + step;
          const double up = loss_of(*run);
          element = kept - step;
          const double down = loss_of(*run);
          element = kept;
          ASSERT_NEAR(gradient[row][column].item<double>(), (up - down) / (2 * step), 1e-6)
              << run->arrays[i].name << " " << row << " " << column;
        }
      }
    }
  }
  EXPECT_TRUE(checked > 0 || with_gradient == 0) << "no case is small enough";
}

/// The function of nn over the arguments of a run: outputs, and gradients of inputs.
struct Outcome {
  std::vector<at::Tensor> outputs, gradients;
};

Outcome outcome_of(const OpRun& run, const c10::Device& device) {
  std::vector<at::Tensor> leaves, passed;
  for (const OpArray& array : run.arrays) {
    if (array.kind != Kind::kInput && array.kind != Kind::kConstant) continue;
    leaves.push_back(array.value.detach().clone().contiguous().to(device));
    const bool is_input = array.kind == Kind::kInput && run.has_backward();
    if (is_input) leaves.back().requires_grad_(true);
    passed.push_back(is_input ? leaves.back() * 1.0
                              : leaves.back());  // what works in place may not do so on a leaf
  }
  Outcome outcome;
  outcome.outputs = run.function(passed);
  at::Tensor loss;
  size_t at = 0;
  for (const OpArray& array : run.arrays) {
    if (array.kind != Kind::kOutput) continue;
    const at::Tensor& output = outcome.outputs.at(at++);
    const at::Tensor part = (output * array.gradient.to(output.options().requires_grad(false))).sum();
    loss = loss.defined() ? loss + part : part;
  }
  if (run.has_backward()) loss.backward();
  for (const at::Tensor& leaf : leaves) outcome.gradients.push_back(leaf.grad());
  return outcome;
}

void expect_outcome(const Outcome& got, const OpRun& expected, double tolerance) {
  size_t output = 0, argument = 0;
  for (const OpArray& array : expected.arrays) {
    if (array.kind == Kind::kOutput) {
      EXPECT_LT(error_of(got.outputs[output++].detach().cpu(), array.value), tolerance) << array.name;
    }
    if (array.kind == Kind::kConstant) ++argument;
    if (array.kind != Kind::kInput) continue;
    const at::Tensor& gradient = got.gradients[argument++];
    if (!expected.has_backward()) continue;
    ASSERT_TRUE(gradient.defined()) << array.name;
    EXPECT_LT(error_of(gradient.cpu(), added(array)), tolerance) << "gradient of " << array.name;
  }
}

TEST_P(Operations, HaveFunctionsAndCompositionsThatGiveTheSame) {
  const c10::Device cpu(c10::DeviceType::CPU);
  for (const OpCase& one : cases().small) {
    SCOPED_TRACE(one.what);
    const auto exact = one.prepare(at::kDouble);
    if (!exact->function) continue;
    run_all(*exact);
    for (const bool is_composed : {false, true}) {
      SCOPED_TRACE(is_composed ? "composed" : "kernels");
      const ComposedOperations form(is_composed);
      expect_outcome(outcome_of(*exact, cpu), *exact, 1e-9);
    }
    for (const auto& [type, tolerance] : {std::pair{at::kFloat, 2 * cases().float_tolerance},
                                          {at::kBFloat16, 4 * cases().bfloat16_tolerance}}) {
      if (type == at::kBFloat16 && !one.is_rounded) continue;
      const auto expected = one.prepare(at::kDouble, type);
      run_all(*expected);
      for (const bool is_composed : {false, true}) {
        SCOPED_TRACE(std::string(is_composed ? "composed" : "kernels") +
                     (type == at::kFloat ? ", float" : ", bfloat16"));
        const ComposedOperations form(is_composed);
        expect_outcome(outcome_of(*one.prepare(type), cpu), *expected, tolerance);
      }
    }
  }
}

TEST_P(Operations, GiveTheSameOnAnotherDevice) {
  const c10::Device device = testing::other_device();
  for (const OpCase& one : cases().small) {
    SCOPED_TRACE(one.what);
    const auto exact = one.prepare(at::kDouble);
    if (!exact->function || (exact->is_random && device.is_cuda())) continue;
    run_all(*exact);
    expect_outcome(outcome_of(*exact, device), *exact, 1e-9);
  }
}

/// The plain loops, which count how often each is called.
std::map<std::string, int>& calls() {
  static std::map<std::string, int> counts;
  return counts;
}
#define MSPLORA_KERNEL(name, Op)                              \
  void counted_##name(const kernels::Op<double>& op) {        \
    ++calls()[#name];                                         \
    kernels::table<double>(kernels::Isa::kPortable).name(op); \
  }
MSPLORA_KERNELS
#undef MSPLORA_KERNEL
#define MSPLORA_KERNEL(name, Op) &counted_##name,
constexpr kernels::Table<double> kCounting = {MSPLORA_KERNELS};
#undef MSPLORA_KERNEL

TEST(ListOfKernels, EveryKernelIsCalledByTheCasesOfItsOperation) {
  calls().clear();
  for (const OpCases& cases : all_cases()) {
    for (const OpCase& one : cases.small) run_all(*one.prepare(kCounting));
  }
#define MSPLORA_KERNEL(name, Op) EXPECT_GT(calls()[#name], 0) << #name;
  MSPLORA_KERNELS
#undef MSPLORA_KERNEL
}

// A device that brings some kernels: those are taken, the others are composed.
TEST(ListOfKernels, AnotherDeviceTakesItsOwnKernelsAndComposesTheOthers) {
  const c10::Device device = testing::pretend_device();
  if (testing::other_device() != device) GTEST_SKIP() << "the tests take the real device";
  const auto number = static_cast<int>(device.type());
  kernels::Table<double> some = kCounting;
  some.gated_activation_backward = nullptr;
  some.rotary = nullptr;
  for (const OpCases& cases : all_cases()) {
    SCOPED_TRACE(cases.operation);
    const auto exact = cases.small.front().prepare(at::kDouble);
    if (!exact->function) continue;
    run_all(*exact);
    kernels::set_device_table(number, &some);
    calls().clear();
    const Outcome outcome = outcome_of(*exact, device);
    kernels::set_device_table<double>(number, nullptr);
    expect_outcome(outcome, *exact, 1e-9);
    if (cases.operation == "residual_layer_norm" || cases.operation == "attention") {
      EXPECT_EQ(calls()[cases.operation] * calls()[cases.operation + "_backward"], 1);
    }
    if (cases.operation == "gated_activation" || cases.operation == "rotary") {
      EXPECT_EQ(calls()[cases.operation], 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Operations, ::testing::Range(size_t{0}, all_cases().size()),
                         [](const auto& info) { return all_cases()[info.param].operation; });

}  // namespace
}  // namespace msplora::bench
