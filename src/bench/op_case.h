#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/table.h"
#include "msplora/models/architecture.h"
#include "nn/dispatch.h"

/// Calls of every operation in the list of kernels: arguments of odd sizes and with options in pairs, to
/// which the tests hold kernels, plain loops and compositions on every device (tests/nn/op_cases_test.cc),
/// and arguments of the size of a model, at which `msplora bench kernels` times them. One file of op_cases/
/// for each operation.
namespace msplora::bench {

/// An argument of a call: what a kernel reads or writes, and its gradient.
struct OpArray {
  enum class Kind {
    kInput,     // read; backward writes its gradient
    kConstant,  // read
    kOutput,    // written; backward reads its gradient
    kSaved,     // written for backward
  };
  std::string name;
  Kind kind = Kind::kInput;
  at::Tensor value, gradient;        // views where rows lie apart
  at::Tensor whole, whole_gradient;  // the memory under them
  at::Tensor start, start_gradient;  // what they hold before the call; undefined: NaN
  double slack = 1.0;                // of the tolerance
};

/// Bytes, each array counted once; operations of floats (also of integers, for masks); and those of products
/// of numbers of the case's own type, for which there may be faster instructions.
struct OpCost {
  double operations = 0.0, bytes = 0.0, products = 0.0;
};

/// The arguments of one call, drawn. Of type T, see OpFrame.
class OpRun {
 public:
  /// The operation in nn: inputs and constants, in the order in which they were named, to outputs.
  using Function = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

  virtual ~OpRun() = default;
  /// On the kernels of the CPU, in the instruction set that is active.
  virtual void forward() const = 0;
  virtual void backward() const = 0;
  virtual bool has_backward() const = 0;

  /// Everything that is written holds what it held before the first call.
  void reset() const;
  std::vector<OpArray> arrays;
  Function function;       // null: there is none, or it draws other numbers on the CPU
  bool is_random = false;  // on a CUDA device other numbers are drawn
  OpCost forward_cost, backward_cost;
};

/// What a case builds: names its arguments and says how to call the kernels of a table.
template <typename T>
class OpFrame : public OpRun {
 public:
  using Exact = kernels::Exact<T>;
  using Call = std::function<void(const kernels::Table<T>&)>;
  template <typename U>
  struct Pair {
    U *value, *gradient;
  };

  /// Rows lie `gap` elements further apart than they are wide; nobody may touch what lies between.
  Pair<T> input(const std::string& name, at::IntArrayRef shape, int64_t gap = 0) {
    return add<T>(name, OpArray::Kind::kInput, shape, gap);
  }
  /// One whose gradient is added to what its array holds.
  Pair<T> input_onto(const std::string& name, at::IntArrayRef shape) {
    const Pair<T> pair = input(name, shape);
    arrays.back().start_gradient = drawn(name + " before", shape).to(dtype_of<T>());
    return pair;
  }
  Pair<Exact> exact_input(const std::string& name, at::IntArrayRef shape) {
    return add<Exact>(name, OpArray::Kind::kInput, shape, 0, true);
  }
  T* constant(const std::string& name, at::IntArrayRef shape) {
    return add<T>(name, OpArray::Kind::kConstant, shape, 0).value;
  }
  float* float_constant(const std::string& name, at::IntArrayRef shape) {
    return add<float>(name, OpArray::Kind::kConstant, shape, 0, true).value;
  }
  Exact* exact_constant(const std::string& name, at::IntArrayRef shape) {
    return add<Exact>(name, OpArray::Kind::kConstant, shape, 0, true).value;
  }
  Pair<T> output(const std::string& name, at::IntArrayRef shape, int64_t gap = 0) {
    return add<T>(name, OpArray::Kind::kOutput, shape, gap);
  }
  /// One that is added to.
  Pair<T> output_onto(const std::string& name, at::IntArrayRef shape, int64_t gap = 0) {
    const Pair<T> pair = output(name, shape, gap);
    arrays.back().start = drawn(name + " before", shape).to(dtype_of<T>());
    return pair;
  }
  /// Losses, whose gradients are 1.
  double* losses(const std::string& name, at::IntArrayRef shape) {
    double* const value = add<double>(name, OpArray::Kind::kOutput, shape, 0, true).value;
    arrays.back().gradient.fill_(1.0);
    return value;
  }
  template <typename U>
  U* saved(const std::string& name, at::IntArrayRef shape) {
    return add<U>(name, OpArray::Kind::kSaved, shape, 0).value;
  }
  float* saved_floats(const std::string& name, at::IntArrayRef shape) { return saved<float>(name, shape); }

  void forward(OpCost cost, Call call) {
    forward_cost = cost;
    forward_ = std::move(call);
  }
  void backward(OpCost cost, Call call) {
    backward_cost = cost;
    backward_ = std::move(call);
  }

  void forward() const override { forward_(used()); }
  void backward() const override { backward_(used()); }
  bool has_backward() const override { return backward_ != nullptr; }

  /// Instead of the kernels of the CPU; null: those.
  const kernels::Table<T>* table = nullptr;
  at::ScalarType rounded = dtype_of<T>();                     // inputs and constants are values of this type
  kernels::Precision precision = kernels::Precision::kExact;  // of products of floats

 private:
  template <typename U>
  static constexpr at::ScalarType dtype_of() {
    if constexpr (std::is_same_v<U, float>) return at::kFloat;
    if constexpr (std::is_same_v<U, double>) return at::kDouble;
    return at::kBFloat16;
  }
  const kernels::Table<T>& used() const {
    return table != nullptr ? *table : kernels::table<T>(kernels::active_isa());
  }
  at::Tensor drawn(const std::string& name, at::IntArrayRef shape) const;
  template <typename U>
  Pair<U> add(const std::string& name, OpArray::Kind kind, at::IntArrayRef shape, int64_t gap,
              bool is_exact = false);

  Call forward_, backward_;
};

/// One call of an operation, for activations of every type.
class OpCase {
 public:
  /// build(frame) for an OpFrame of float, Bfloat16 and double.
  template <typename Build>
  OpCase(std::string name, Build build)
      : what(std::move(name)), exact_(build), rounded_(build), double_(std::move(build)) {}

  /// Arguments in `dtype`, drawn as values of the type `rounded`.
  std::unique_ptr<OpRun> prepare(at::ScalarType dtype, at::ScalarType rounded) const;
  std::unique_ptr<OpRun> prepare(at::ScalarType dtype) const { return prepare(dtype, dtype); }
  /// The same for float.
  std::unique_ptr<OpRun> prepare(kernels::Precision precision) const;
  /// The same for double, with the kernels of `table`.
  std::unique_ptr<OpRun> prepare(const kernels::Table<double>& table) const;

  std::string what;
  bool is_rounded = true;  // false: rounding to bfloat16 leaves nothing to compare

 private:
  template <typename T>
  using BuildFor = std::function<void(OpFrame<T>&)>;
  BuildFor<float> exact_;
  BuildFor<kernels::Bfloat16> rounded_;
  BuildFor<double> double_;
};

/// What one block of a model gives kernels to do.
struct OpSizes {
  Architecture model;
  int64_t batch = 1, length = 1;  // sequences, tokens of each
  double dropout = 0.0;

  int64_t tokens() const { return batch * length; }
  int64_t width() const { return model.hidden_size(); }
};

struct OpCases {
  std::string operation;
  std::vector<OpCase> small;
  std::function<std::vector<OpCase>(const OpSizes&)> of_model;
  /// Of the largest value, from double with the same arguments.
  double float_tolerance = 1e-5, bfloat16_tolerance = 2e-2;
};

/// Those of every operation in the list of kernels, in its order.
std::vector<OpCases> op_cases();

// Operations of an element: five AES rounds give the numbers of eight masks, and comparing and scaling
// follow; an exponential is a polynomial of degree 6 with its reduction.
inline constexpr double kMaskOperations = 3, kExpOperations = 20;

}  // namespace msplora::bench
