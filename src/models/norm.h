#pragma once

#include <string>
#include <vector>

#include "models/parameter_store.h"
#include "msplora/models/architecture.h"
#include "msplora/nn/decoder_functional.h"
#include "msplora/nn/functional.h"
#include "msplora/nn/named_tensor.h"

namespace msplora {

/// A norm with its parameters; of kind kNone it is the identity.
class Norm {
 public:
  Norm() = default;
  /// `prefix` is what stands in front of the module's name.
  Norm(const NormSpec& spec, const std::string& prefix, int64_t width, ParameterStore& store,
       ParameterStore::Role role = ParameterStore::Role::kExact);

  explicit operator bool() const { return static_cast<bool>(spec_); }

  /// Of every row of x [T, width].
  at::Tensor operator()(const at::Tensor& x) const;
  /// sum = x + residual (may be undefined), normed = norm(sum).
  NormedSum of_sum(const at::Tensor& x, const at::Tensor& residual) const;
  /// norm(dropout(y) + residual) in one operation; layer norms only.
  at::Tensor of_dropped_sum(const at::Tensor& y, const at::Tensor& residual,
                            const kernels::DropoutMask& mask) const;

  void append_parameters(std::vector<Parameter>& parameters) const;

 private:
  NormSpec spec_;
  at::Tensor scale() const;  // what multiplies: the weight, or 1 + the weight

  std::string path_;
  at::Tensor weight_, bias_;
};

}  // namespace msplora
