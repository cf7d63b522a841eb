#include "msplora/tasks/inputs.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <cstring>
#include <vector>

namespace msplora {
namespace {

template <typename T>
at::Tensor tensor_of(const std::vector<T>& values, at::ScalarType dtype) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, dtype);
  if (!values.empty()) std::memcpy(tensor.data_ptr(), values.data(), values.size() * sizeof(T));
  return tensor;
}

}  // namespace

PackedInput packed_input(const Batch& batch) {
  PackedInput input;
  input.input_ids = tensor_of(batch.input_ids, at::kLong);
  if (!batch.token_type_ids.empty()) input.token_type_ids = tensor_of(batch.token_type_ids, at::kLong);
  input.cu_seqlens = batch.cu_seqlens;
  return input;
}

PackedInput packed_input_with_labels(const Batch& batch, at::Tensor& labels) {
  std::vector<int64_t> rows;
  std::vector<int64_t> chosen;
  for (size_t i = 0; i < batch.labels.size(); ++i) {
    if (batch.labels[i] == kIgnoredLabel) continue;
    rows.push_back(static_cast<int64_t>(i));
    chosen.push_back(batch.labels[i]);
  }
  labels = tensor_of(chosen, at::kLong);
  PackedInput input = packed_input(batch);
  input.output_rows = tensor_of(rows, at::kLong);
  return input;
}

at::Tensor label_tensor(const Batch& batch) {
  return tensor_of(batch.labels, at::kLong);
}
at::Tensor target_tensor(const Batch& batch) {
  return tensor_of(batch.targets, at::kFloat);
}

}  // namespace msplora
