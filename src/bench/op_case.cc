#include "bench/op_case.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <limits>

#include "msplora/core/random.h"

namespace msplora::bench {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// [.., width] in memory whose rows lie `gap` further apart, all NaN.
at::Tensor memory_for(at::IntArrayRef shape, int64_t gap, at::ScalarType dtype) {
  std::vector<int64_t> wide = shape.vec();
  wide.back() += gap;
  return at::full(wide, kNan, dtype);
}

void hold(const at::Tensor& whole, const at::Tensor& view, const at::Tensor& start) {
  whole.fill_(kNan);
  if (start.defined()) view.copy_(start);
}

}  // namespace

void OpRun::reset() const {
  for (const OpArray& array : arrays) {
    const bool is_read = array.kind == OpArray::Kind::kInput || array.kind == OpArray::Kind::kConstant;
    if (!is_read) hold(array.whole, array.value, array.start);
    if (array.kind == OpArray::Kind::kInput) hold(array.whole_gradient, array.gradient, array.start_gradient);
  }
}

// Standard normal numbers; those of large arrays, which are timed alone, repeat.
template <typename T>
at::Tensor OpFrame<T>::drawn(const std::string& name, at::IntArrayRef shape) const {
  constexpr int64_t kMost = 1 << 14;
  const at::Tensor tensor = at::empty(shape, at::kDouble);
  double* const values = tensor.data_ptr<double>();
  RandomStream stream(1, name);
  for (int64_t i = 0; i < std::min(kMost, tensor.numel()); ++i) values[i] = stream.normal();
  for (int64_t i = kMost; i < tensor.numel(); ++i) values[i] = values[i % kMost];
  return tensor;
}

template <typename T>
template <typename U>
typename OpFrame<T>::template Pair<U> OpFrame<T>::add(const std::string& name, OpArray::Kind kind,
                                                      at::IntArrayRef shape, int64_t gap, bool is_exact) {
  constexpr at::ScalarType kType = dtype_of<U>();
  OpArray array;
  array.name = name;
  array.kind = kind;
  const auto last = static_cast<int64_t>(shape.size()) - 1;
  const auto view_of = [&](const at::Tensor& whole) { return whole.narrow(last, 0, shape.back()); };
  array.whole = memory_for(shape, gap, kType);
  array.value = view_of(array.whole);
  // Exact arrays beside float or Bfloat16 are float: in double, too, they hold values of that type.
  const at::ScalarType values = !is_exact ? rounded : rounded == at::kDouble ? kType : at::kFloat;
  if (kind == OpArray::Kind::kInput || kind == OpArray::Kind::kConstant)
    array.value.copy_(drawn(name, shape).to(values).to(kType));
  if (kind == OpArray::Kind::kInput || kind == OpArray::Kind::kOutput) {
    array.whole_gradient = memory_for(shape, gap, kType);
    array.gradient = view_of(array.whole_gradient);
  }
  if (kind == OpArray::Kind::kOutput)
    array.gradient.copy_(drawn("gradient of " + name, shape).to(values).to(kType));
  arrays.push_back(array);
  return {static_cast<U*>(array.value.data_ptr()),
          array.gradient.defined() ? static_cast<U*>(array.gradient.data_ptr()) : nullptr};
}

#define MSPLORA_INSTANTIATE(T)                                                                              \
  template at::Tensor OpFrame<T>::drawn(const std::string&, at::IntArrayRef) const;                         \
  template OpFrame<T>::Pair<T> OpFrame<T>::add(const std::string&, OpArray::Kind, at::IntArrayRef, int64_t, \
                                               bool);
MSPLORA_INSTANTIATE(float)
MSPLORA_INSTANTIATE(kernels::Bfloat16)
MSPLORA_INSTANTIATE(double)
#undef MSPLORA_INSTANTIATE
template OpFrame<float>::Pair<double> OpFrame<float>::add(const std::string&, OpArray::Kind, at::IntArrayRef,
                                                          int64_t, bool);
template OpFrame<double>::Pair<float> OpFrame<double>::add(const std::string&, OpArray::Kind, at::IntArrayRef,
                                                           int64_t, bool);
template OpFrame<kernels::Bfloat16>::Pair<float> OpFrame<kernels::Bfloat16>::add(const std::string&,
                                                                                 OpArray::Kind,
                                                                                 at::IntArrayRef, int64_t,
                                                                                 bool);
template OpFrame<kernels::Bfloat16>::Pair<double> OpFrame<kernels::Bfloat16>::add(const std::string&,
                                                                                  OpArray::Kind,
                                                                                  at::IntArrayRef, int64_t,
                                                                                  bool);

std::unique_ptr<OpRun> OpCase::prepare(at::ScalarType dtype, at::ScalarType rounded) const {
  const auto built = [&](auto frame, const auto& build) -> std::unique_ptr<OpRun> {
    frame->rounded = rounded;
    build(*frame);
    return frame;
  };
  if (dtype == at::kDouble) return built(std::make_unique<OpFrame<double>>(), double_);
  if (dtype == at::kBFloat16) return built(std::make_unique<OpFrame<kernels::Bfloat16>>(), rounded_);
  return built(std::make_unique<OpFrame<float>>(), exact_);
}

std::unique_ptr<OpRun> OpCase::prepare(kernels::Precision precision) const {
  auto frame = std::make_unique<OpFrame<float>>();
  frame->precision = precision;
  exact_(*frame);
  return frame;
}

std::unique_ptr<OpRun> OpCase::prepare(const kernels::Table<double>& table) const {
  auto frame = std::make_unique<OpFrame<double>>();
  frame->table = &table;
  double_(*frame);
  return frame;
}

#define MSPLORA_CASES(name, Op) OpCases name##_cases();
MSPLORA_OPERATIONS(MSPLORA_CASES, MSPLORA_CASES)
#undef MSPLORA_CASES

std::vector<OpCases> op_cases() {
  std::vector<OpCases> all;
#define MSPLORA_CASES(name, Op)  \
  all.push_back(name##_cases()); \
  all.back().operation = #name;
  MSPLORA_OPERATIONS(MSPLORA_CASES, MSPLORA_CASES)
#undef MSPLORA_CASES
  return all;
}

}  // namespace msplora::bench
