#pragma once

#include <cstdint>
#include <vector>

#include "msplora/models/model.h"
#include "msplora/nn/decoder_functional.h"

/// Small parts of the models.
namespace msplora {

void append_linear(const Linear& linear, std::vector<Parameter>& parameters);
Site make_site(Linear& linear, int64_t layer, const LinearSpec& spec);

/// Row of the first and of the last token of every sequence, int64 [B].
at::Tensor first_token_rows(const PackedInput& input);
at::Tensor last_token_rows(const PackedInput& input);

/// Positions of the tokens of a pass as rows of a table whose angles of long texts begin at row `first_long`;
/// undefined where no text is long.
template <class IsLong>
at::Tensor rows_of_long_texts(const at::Tensor& positions, const std::vector<int32_t>& cu_seqlens,
                              int64_t first_long, const IsLong& is_long) {
  at::Tensor rows;
  for (size_t text = 0; text + 1 < cu_seqlens.size(); ++text) {
    if (!is_long(text)) continue;
    if (!rows.defined()) rows = positions.clone();
    rows.slice(0, cu_seqlens[text], cu_seqlens[text + 1]).add_(first_long);
  }
  return rows;
}

/// The mean of the rows of every sequence [B, width], in float32 (float64 beside float64).
at::Tensor sequence_means(const at::Tensor& x, const PackedInput& input);

/// The chosen rows of x, or all where no rows are given; undefined stays undefined. `rows` may lie on the
/// CPU.
at::Tensor rows_or_all(const at::Tensor& x, const at::Tensor& rows);

/// The angles of positions below `positions`, for each of the architecture's kinds of rotary positions. Those
/// of long texts, where they differ, follow from row `positions` on.
std::vector<RotaryTable> rotary_tables(const Architecture& architecture, int64_t positions,
                                       at::ScalarType compute_dtype, at::Device device);

}  // namespace msplora
