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

/// The chosen rows of x, or all where no rows are given; undefined stays undefined. `rows` may lie on the
/// CPU.
at::Tensor rows_or_all(const at::Tensor& x, const at::Tensor& rows);

/// The angles of positions below `positions`, for each of the architecture's kinds of rotary positions.
std::vector<RotaryTable> rotary_tables(const Architecture& architecture, int64_t positions,
                                       at::ScalarType compute_dtype, at::Device device);

/// Throws Error{kData} when a sequence has none or more than `longest` tokens.
void check_lengths(const PackedInput& input, int64_t longest);
/// Throws Error{kData} when an id is not in [0, limit); `what` names the ids.
void check_ids(const at::Tensor& ids, int64_t limit, const char* what);

}  // namespace msplora
