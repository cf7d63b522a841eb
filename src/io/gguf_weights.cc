#include "msplora/io/gguf_weights.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace msplora {
namespace {

// The type of a tensor that holds the values; of quantised ones float32.
at::ScalarType tensor_dtype(GgufType type) {
  switch (type) {
    case GgufType::kF16:
      return at::kHalf;
    case GgufType::kBF16:
      return at::kBFloat16;
    case GgufType::kF64:
      return at::kDouble;
    case GgufType::kI8:
      return at::kChar;
    case GgufType::kI16:
      return at::kShort;
    case GgufType::kI32:
      return at::kInt;
    case GgufType::kI64:
      return at::kLong;
    default:
      return at::kFloat;
  }
}

bool is_plain(GgufType type) {
  return gguf_type_info(type).elements == 1;
}

// As the file has it; a view of the map where its type allows.
at::Tensor stored_values(const GgufTensor& tensor, const std::shared_ptr<const GgufFile>& file) {
  const at::ScalarType dtype = tensor_dtype(tensor.type);
  const std::vector<int64_t> shape = tensor.shape();
  if (!is_plain(tensor.type)) {
    at::Tensor values = at::empty(shape, at::kFloat);
    dequantise(tensor.type, tensor.data, tensor.elements() / gguf_type_info(tensor.type).elements,
               values.data_ptr<float>());
    return values;
  }
  const bool is_aligned = reinterpret_cast<uintptr_t>(tensor.data) % c10::elementSize(dtype) == 0;
  if (!is_aligned || tensor.bytes == 0) {
    at::Tensor values = at::empty(shape, dtype);
    if (tensor.bytes > 0) std::memcpy(values.data_ptr(), tensor.data, tensor.bytes);
    return values;
  }
  // The map is read-only; nobody writes to a tensor of a source.
  return at::from_blob(
      const_cast<std::byte*>(tensor.data), shape, [file](void*) {}, at::TensorOptions(dtype));
}

}  // namespace

at::Tensor rows_in_order(const at::Tensor& values, const std::vector<int64_t>& order) {
  at::Tensor index = at::empty({static_cast<int64_t>(order.size())}, at::kLong);
  std::copy(order.begin(), order.end(), index.data_ptr<int64_t>());
  return values.index_select(0, index);
}

GgufWeights::GgufWeights(std::shared_ptr<const GgufFile> file, const std::vector<GgufName>& known)
    : file_(std::move(file)) {
  std::set<std::string_view> used = {kGgufRopeFactors, kGgufRopeLong, kGgufRopeShort};
  for (const GgufName& name : known) {
    const GgufTensor* tensor = file_->find(name.stored);
    if (tensor == nullptr) continue;
    used.insert(tensor->name);
    entries_.emplace(name.parameter, Entry{tensor, name});
  }
  for (const GgufTensor& tensor : file_->tensors()) {
    if (used.contains(tensor.name)) continue;
    const std::string name(tensor.name);
    entries_.emplace(name, Entry{&tensor, {name, name}});
  }
}

std::vector<std::string> GgufWeights::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

bool GgufWeights::contains(const std::string& name) const {
  return entries_.contains(name);
}

const GgufWeights::Entry& GgufWeights::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    throw Error(ErrorCode::kFormat, file_->path().string() + ": tensor `" + name + "`",
                "the file has no such tensor", did_you_mean(name, names()));
  }
  return found->second;
}

const GgufTypeInfo& GgufWeights::type(const std::string& name) const {
  return gguf_type_info(entry(name).tensor->type);
}

std::vector<int64_t> GgufWeights::shape(const std::string& name) const {
  const Entry& found = entry(name);
  std::vector<int64_t> shape = found.tensor->shape();
  if (found.rule.is_transposed) std::reverse(shape.begin(), shape.end());
  return shape;
}

at::ScalarType GgufWeights::dtype(const std::string& name) const {
  return tensor_dtype(entry(name).tensor->type);
}

bool GgufWeights::is_finite(const std::string& name) const {
  const GgufTensor& tensor = *entry(name).tensor;
  return blocks_are_finite(tensor.type, tensor.data,
                           tensor.elements() / gguf_type_info(tensor.type).elements);
}

at::Tensor GgufWeights::tensor(const std::string& name) const {
  const auto& [stored, rule] = entry(name);
  at::Tensor values = stored_values(*stored, file_);
  if (rule.interleaved_heads > 0 && values.dim() > 0)
    values = rows_in_order(values, interleaved_rows(values.size(0), rule.interleaved_heads));
  if (rule.has_one_added) values = values - 1;
  return rule.is_transposed ? values.t() : values;
}

std::shared_ptr<const FrozenWeight> GgufWeights::weight(const std::string& name, at::ScalarType dtype,
                                                        bool is_transposed) const {
  const auto& [stored, rule] = entry(name);
  const bool is_direct = is_transposed == rule.is_transposed && !rule.has_one_added;
  if (!is_direct) return stored_weight(tensor(name), dtype, is_transposed, /*is_mapped=*/false);
  std::shared_ptr<const FrozenWeight> weight;
  if (is_plain(stored->type)) {
    const at::Tensor values = stored_values(*stored, file_);
    weight = stored_weight(values, dtype, /*is_transposed=*/false, values.data_ptr() == stored->data);
  } else {
    weight = block_weight({stored->type, stored->data, stored->extents[1], stored->extents[0], file_}, dtype);
  }
  if (rule.interleaved_heads == 0) return weight;
  const std::vector<int64_t> order = interleaved_rows(weight->out_features(), rule.interleaved_heads);
  return reordered_weight(std::move(weight), order);
}

double bytes_in_products(const GgufFile& file, at::ScalarType dtype) {
  std::vector<StoredMatrix> matrices;
  for (const GgufTensor& tensor : file.tensors())
    if (tensor.dimensions == 2) matrices.push_back({tensor.type, tensor.elements()});
  return bytes_in_products(matrices, dtype);
}

}  // namespace msplora
