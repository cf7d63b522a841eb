#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "msplora/nn/weight.h"

namespace msplora {

/// Where the numbers of a model come from, under the names that the file gives them. A format of model files
/// is one class (io/safetensors.h, io/gguf_weights.h). What is returned keeps the file's memory alive.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual std::vector<std::string> names() const = 0;
  virtual bool contains(const std::string& name) const = 0;
  // The following throw Error{kFormat} for a name that is not there.
  virtual std::vector<int64_t> shape(const std::string& name) const = 0;
  /// Type of tensor().
  virtual at::ScalarType dtype(const std::string& name) const = 0;
  /// Whether every number is finite. Of a floating type.
  virtual bool is_finite(const std::string& name) const = 0;
  /// As a tensor of the stored type, quantised ones in float32; may be a view of the file, not to be written
  /// to.
  virtual at::Tensor tensor(const std::string& name) const = 0;
  /// A matrix that stays in the form that the file has, to multiply activations of `dtype`. The file holds
  /// [out, in], or [in, out] with `is_transposed`.
  virtual std::shared_ptr<const FrozenWeight> weight(const std::string& name, at::ScalarType dtype,
                                                     bool is_transposed) const = 0;
};

/// Whether every number of a tensor is finite; no second copy of it is formed.
bool is_finite(const at::Tensor& tensor);

}  // namespace msplora
