#include "msplora/train/optimizer.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include <ATen/TensorOperators.h>
#include <fmt/ranges.h>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/nn/dtype.h"

namespace msplora {
namespace {

// Below this a thread team costs more than the loop.
constexpr int64_t kParallelElements = 1 << 15;

/// The constants of one step of one tensor.
template <typename T>
struct StepConstants {
  T decay;           // 1 - lr wd
  T beta1, beta2;    //
  T rest1, rest2;    // 1 - beta, rounded once: 1 - 0.999f is off by 1.3e-5
  T step_size;       // lr / (1 - beta1^t)
  T inverse_root_2;  // 1 / sqrt(1 - beta2^t)
  T eps;
  T gradient_scale;
};

template <typename T>
void update(T* p, const T* g, T* m, T* v, int64_t count, const StepConstants<T>& c) {
#pragma omp parallel for simd schedule(static) if (count >= kParallelElements)
  for (int64_t i = 0; i < count; ++i) {
    const T gradient = g[i] * c.gradient_scale;
    const T first = c.beta1 * m[i] + c.rest1 * gradient;
    const T second = c.beta2 * v[i] + c.rest2 * gradient * gradient;
    m[i] = first;
    v[i] = second;
    p[i] = c.decay * p[i] - c.step_size * first / (std::sqrt(second) * c.inverse_root_2 + c.eps);
  }
}

template <typename T>
void update_tensor(at::Tensor& parameter, const at::Tensor& gradient, at::Tensor& first, at::Tensor& second,
                   const AdamWOptions& options, double lr, double weight_decay, double gradient_scale,
                   int64_t steps) {
  StepConstants<T> c;
  c.decay = static_cast<T>(1.0 - lr * weight_decay);
  c.beta1 = static_cast<T>(options.beta1);
  c.beta2 = static_cast<T>(options.beta2);
  c.rest1 = static_cast<T>(1.0 - options.beta1);
  c.rest2 = static_cast<T>(1.0 - options.beta2);
  c.step_size = static_cast<T>(lr / (1.0 - std::pow(options.beta1, static_cast<double>(steps))));
  c.inverse_root_2 =
      static_cast<T>(1.0 / std::sqrt(1.0 - std::pow(options.beta2, static_cast<double>(steps))));
  c.eps = static_cast<T>(options.eps);
  c.gradient_scale = static_cast<T>(gradient_scale);
  update<T>(parameter.data_ptr<T>(), gradient.data_ptr<T>(), first.data_ptr<T>(), second.data_ptr<T>(),
            parameter.numel(), c);
  parameter.unsafeGetTensorImpl()->bump_version();  // as libtorch's own operations in place do
}

/// The same by libtorch's operations, for tensors that are not on the CPU.
void update_elsewhere(at::Tensor& parameter, const at::Tensor& gradient_in, at::Tensor& first,
                      at::Tensor& second, const AdamWOptions& options, double lr, double weight_decay,
                      double gradient_scale, int64_t steps) {
  const at::Tensor gradient = gradient_in * gradient_scale;
  const auto power = [&](double beta) { return 1.0 - std::pow(beta, static_cast<double>(steps)); };
  first.mul_(options.beta1).add_(gradient, 1.0 - options.beta1);
  second.mul_(options.beta2).addcmul_(gradient, gradient, 1.0 - options.beta2);
  const at::Tensor root = second.sqrt().div_(std::sqrt(power(options.beta2))).add_(options.eps);
  parameter.mul_(1.0 - lr * weight_decay).addcdiv_(first, root, -lr / power(options.beta1));
}

void check_parameter(const NamedTensor& parameter) {
  const auto dtype = parameter.tensor.scalar_type();
  if (dtype != at::kFloat && dtype != at::kDouble) {
    throw Error(ErrorCode::kUsage, parameter.name,
                fmt::format("trained tensors are float32, found {}", dtype_name(dtype)));
  }
  if (!parameter.tensor.is_contiguous()) {
    throw Error(ErrorCode::kUsage, parameter.name, "trained tensors must be contiguous");
  }
}

std::vector<OptimizerGroup> checked(std::vector<OptimizerGroup> groups) {
  std::set<std::string> names;
  for (const OptimizerGroup& group : groups) {
    for (const NamedTensor& parameter : group.tensors) {
      check_parameter(parameter);
      if (!names.insert(parameter.name).second) {
        throw Error(ErrorCode::kUsage, parameter.name, "given to the optimizer twice");
      }
    }
  }
  return groups;
}

std::string shape_text(const at::Tensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.sizes(), ", "));
}

}  // namespace

AdamW::AdamW(AdamWOptions options, std::vector<OptimizerGroup> groups)
    : options_(options), groups_(checked(std::move(groups))) {
  for (size_t index = 0; index < groups_.size(); ++index) {
    for (const NamedTensor& parameter : groups_[index].tensors) {
      const at::Tensor detached = parameter.tensor.detach();
      slots_.push_back(
          {parameter.name, parameter.tensor, at::zeros_like(detached), at::zeros_like(detached), 0, index});
    }
  }
}

void AdamW::step(double lr_factor, double gradient_scale, const std::set<std::string>& frozen,
                 const std::map<std::string, double>& lr_factors) {
  for (Slot& slot : slots_) {
    const at::Tensor& gradient = slot.parameter.grad();
    if (!gradient.defined() || frozen.contains(slot.name)) continue;
    const OptimizerGroup& group = groups_[slot.group];
    const auto found = lr_factors.find(slot.name);
    const double lr = group.lr * lr_factor * (found == lr_factors.end() ? 1.0 : found->second);
    ++slot.steps;
    at::Tensor value = slot.parameter.detach();
    const at::Tensor dense = gradient.contiguous();
    const bool is_double = slot.parameter.scalar_type() == at::kDouble;
    const auto run = !value.device().is_cpu() ? update_elsewhere
                     : is_double              ? update_tensor<double>
                                              : update_tensor<float>;
    run(value, dense, slot.first, slot.second, options_, lr, group.weight_decay, gradient_scale, slot.steps);
  }
}

void AdamW::reset(const std::string& name) {
  for (Slot& slot : slots_) {
    if (slot.name != name) continue;
    slot.first.zero_();
    slot.second.zero_();
    slot.steps = 0;
    return;
  }
  throw Error(ErrorCode::kUsage, name, "the optimizer has no such tensor");
}

void AdamW::zero_grad() {
  for (Slot& slot : slots_) slot.parameter.mutable_grad().reset();
}

std::vector<NamedTensor> AdamW::state() const {
  std::vector<NamedTensor> state;
  for (const Slot& slot : slots_) {
    state.push_back({slot.name + ".exp_avg", slot.first});
    state.push_back({slot.name + ".exp_avg_sq", slot.second});
    state.push_back({slot.name + ".step", at::full({1}, slot.steps, at::kLong)});
  }
  return state;
}

void AdamW::load_state(const std::vector<NamedTensor>& state, const std::string& where) {
  std::map<std::string, at::Tensor> entries;
  for (const NamedTensor& entry : state) entries[entry.name] = entry.tensor;
  ErrorList errors;
  const auto take = [&](const std::string& name, const at::Tensor& like) {
    const auto found = entries.find(name);
    if (found == entries.end()) {
      errors.add(name, "missing");
      return at::Tensor();
    }
    at::Tensor tensor = found->second;
    entries.erase(found);
    if (tensor.sizes() == like.sizes() && tensor.scalar_type() == like.scalar_type()) return tensor;
    errors.add(name, fmt::format("expected {} {}, found {} {}", dtype_name(like.scalar_type()),
                                 shape_text(like), dtype_name(tensor.scalar_type()), shape_text(tensor)));
    return at::Tensor();
  };
  const at::Tensor one_step = at::zeros({1}, at::kLong);
  std::vector<std::array<at::Tensor, 3>> taken;
  for (const Slot& slot : slots_) {
    taken.push_back({take(slot.name + ".exp_avg", slot.first), take(slot.name + ".exp_avg_sq", slot.second),
                     take(slot.name + ".step", one_step)});
  }
  for (const auto& [name, tensor] : entries) errors.add(name, "unexpected");
  errors.throw_if_any(ErrorCode::kModel, where + ": the optimizer state does not fit");
  for (size_t i = 0; i < slots_.size(); ++i) {
    slots_[i].first.copy_(taken[i][0]);
    slots_[i].second.copy_(taken[i][1]);
    slots_[i].steps = taken[i][2].item<int64_t>();
  }
}

Sgd::Sgd(std::vector<OptimizerGroup> groups) : groups_(checked(std::move(groups))) {}

void Sgd::step(double lr_factor, double gradient_scale, const std::set<std::string>& frozen,
               const std::map<std::string, double>& lr_factors) {
  for (const OptimizerGroup& group : groups_) {
    for (const NamedTensor& parameter : group.tensors) {
      const at::Tensor& gradient = parameter.tensor.grad();
      if (!gradient.defined() || frozen.contains(parameter.name)) continue;
      const auto found = lr_factors.find(parameter.name);
      const double lr = group.lr * lr_factor * (found == lr_factors.end() ? 1.0 : found->second);
      parameter.tensor.detach().mul_(1.0 - lr * group.weight_decay).sub_(gradient, lr * gradient_scale);
    }
  }
}

void Sgd::reset(const std::string& name) {
  for (const OptimizerGroup& group : groups_) {
    for (const NamedTensor& parameter : group.tensors) {
      if (parameter.name == name) return;
    }
  }
  throw Error(ErrorCode::kUsage, name, "the optimizer has no such tensor");
}

void Sgd::zero_grad() {
  for (const OptimizerGroup& group : groups_) {
    for (const NamedTensor& parameter : group.tensors) parameter.tensor.mutable_grad().reset();
  }
}

void Sgd::load_state(const std::vector<NamedTensor>& state, const std::string& where) {
  ErrorList errors;
  for (const NamedTensor& entry : state) errors.add(entry.name, "unexpected");
  errors.throw_if_any(ErrorCode::kModel, where + ": the optimizer state does not fit");
}

}  // namespace msplora
