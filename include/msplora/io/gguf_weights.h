#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "msplora/gguf/file.h"
#include "msplora/gguf/naming.h"
#include "msplora/io/weight_source.h"

namespace msplora {

/// The tensors of a GGUF file as Hugging Face's files have them: under their names, in their order of rows
/// and their layout. Tensors that `known` does not name keep the file's names, so that they are noticed;
/// those of rotary angles belong to the settings of the model and are left out.
class GgufWeights : public WeightSource {
 public:
  GgufWeights(std::shared_ptr<const GgufFile> file, const std::vector<GgufName>& known);

  std::vector<std::string> names() const override;
  bool contains(const std::string& name) const override;
  std::vector<int64_t> shape(const std::string& name) const override;
  at::ScalarType dtype(const std::string& name) const override;
  bool is_finite(const std::string& name) const override;
  at::Tensor tensor(const std::string& name) const override;
  std::shared_ptr<const FrozenWeight> weight(const std::string& name, at::ScalarType dtype,
                                             bool is_transposed) const override;

  /// How the file keeps it: "Q4_K".
  const GgufTypeInfo& type(const std::string& name) const;

 private:
  struct Entry {
    const GgufTensor* tensor;
    GgufName rule;
  };
  const Entry& entry(const std::string& name) const;

  std::shared_ptr<const GgufFile> file_;
  std::map<std::string, Entry> entries_;  // by Hugging Face's name
};

/// Bytes that products keep for a number of the file's matrices, on average (nn/weight.h).
double bytes_in_products(const GgufFile& file, at::ScalarType dtype);

/// The rows of `values` by their numbers in `order`.
at::Tensor rows_in_order(const at::Tensor& values, const std::vector<int64_t>& order);

}  // namespace msplora
