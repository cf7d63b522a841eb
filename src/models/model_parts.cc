#include "models/model_parts.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace msplora {

void append_linear(const Linear& linear, std::vector<Parameter>& parameters) {
  parameters.push_back({linear.name() + ".weight", linear.weight});
  if (linear.bias.defined()) parameters.push_back({linear.name() + ".bias", linear.bias});
}

Site make_site(Linear& linear, int64_t layer, const LinearSpec& spec) {
  const std::string& path = linear.name();
  return {path,
          path.substr(path.rfind('.') + 1),
          layer,
          spec.in,
          spec.out,
          &linear,
          linear.bias.defined(),
          spec.role,
          spec.is_transposed};
}

at::Tensor first_token_rows(const PackedInput& input) {
  at::Tensor rows = at::empty({input.sequences()}, at::kLong);
  std::copy(input.cu_seqlens.begin(), input.cu_seqlens.end() - 1, rows.data_ptr<int64_t>());
  return rows;
}

at::Tensor last_token_rows(const PackedInput& input) {
  at::Tensor rows = at::empty({input.sequences()}, at::kLong);
  std::transform(input.cu_seqlens.begin() + 1, input.cu_seqlens.end(), rows.data_ptr<int64_t>(),
                 [](int32_t end) { return int64_t{end} - 1; });
  return rows;
}

at::Tensor sequence_means(const at::Tensor& x, const PackedInput& input) {
  std::vector<int64_t> lengths;
  for (size_t b = 1; b < input.cu_seqlens.size(); ++b)
    lengths.push_back(input.cu_seqlens[b] - input.cu_seqlens[b - 1]);
  const at::Tensor exact = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
  std::vector<at::Tensor> means;
  for (const at::Tensor& part : exact.split_with_sizes(lengths)) means.push_back(part.mean(0));
  return at::stack(means);
}

at::Tensor rows_or_all(const at::Tensor& x, const at::Tensor& rows) {
  return x.defined() && rows.defined() ? x.index_select(0, rows.to(x.device())) : x;
}

std::vector<RotaryTable> rotary_tables(const Architecture& architecture, int64_t positions,
                                       at::ScalarType compute_dtype, at::Device device) {
  std::vector<RotaryTable> tables;
  for (const RotarySpec& spec : architecture.rotaries) {
    RotaryTable table = make_rotary_table(positions, spec.frequencies, compute_dtype, spec.attention_factor);
    if (!spec.long_frequencies.empty()) {
      const RotaryTable of_long =
          make_rotary_table(positions, spec.long_frequencies, compute_dtype, spec.attention_factor);
      table.cos = at::cat({table.cos, of_long.cos});
      table.sin = at::cat({table.sin, of_long.sin});
    }
    table.cos = table.cos.to(device);
    table.sin = table.sin.to(device);
    tables.push_back(std::move(table));
  }
  return tables;
}

}  // namespace msplora
