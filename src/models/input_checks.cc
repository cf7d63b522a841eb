#include "models/input_checks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/aminmax.h>
#include <fmt/format.h>
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "nn/int64_vector.h"
#include "nn/sequences.h"

namespace msplora {
namespace {

constexpr const char* kEachToken = "the input_ids";

/// Both texts of a pair go into the only segment of a model with one, or with none.
constexpr int64_t kSegmentsOfTokenizers = 2;

void check_sequences(const std::vector<int32_t>& cu_seqlens, int64_t tokens, int64_t longest) {
  if (cu_seqlens.size() < 2) {
    throw Error(ErrorCode::kUsage, "cu_seqlens",
                "expected 0 and then the end of each sequence, found no sequence",
                "a batch has at least one");
  }
  detail::require_ends(cu_seqlens);
  if (cu_seqlens.back() != tokens) {
    throw Error(ErrorCode::kUsage, "cu_seqlens",
                fmt::format("expected the last sequence to end at {}, the number of input_ids, found {}",
                            tokens, cu_seqlens.back()));
  }
  for (size_t b = 1; b < cu_seqlens.size(); ++b) {
    const int64_t length = cu_seqlens[b] - cu_seqlens[b - 1];
    if (length >= 1 && length <= longest) continue;
    throw Error(ErrorCode::kData, fmt::format("sequence {} of the batch", b - 1),
                fmt::format("has {} tokens, the model takes 1 to {}", length, longest),
                length < 1 ? "leave it out" : fmt::format("set data.max_length to {} or less", longest));
  }
}

std::pair<int64_t, int64_t> range_of(const at::Tensor& values) {
  const auto [low, high] = at::aminmax(values);
  return {low.item<int64_t>(), high.item<int64_t>()};
}

void check_ids(const at::Tensor& ids, int64_t limit, const char* name) {
  const auto [low, high] = range_of(ids);
  if (low >= 0 && high < limit) return;
  throw Error(ErrorCode::kData, name,
              fmt::format("ids run from {} to {}, the model knows 0 to {}", low, high, limit - 1),
              "does the tokenizer belong to this model?");
}

void check_output_rows(const at::Tensor& rows, int64_t tokens) {
  detail::require_int64_vector(rows, "output_rows");
  if (rows.numel() == 0) return;
  const auto [low, high] = range_of(rows);
  if (low >= 0 && high < tokens) return;
  throw Error(ErrorCode::kUsage, "output_rows",
              fmt::format("expected rows from 0 to {}, found {}", tokens - 1, low < 0 ? low : high));
}

}  // namespace

void check_input(const PackedInput& input, const Architecture& architecture) {
  detail::require_int64_vector(input.input_ids, "input_ids");
  const int64_t tokens = input.input_ids.size(0);
  check_sequences(input.cu_seqlens, tokens, architecture.longest);
  check_ids(input.input_ids, architecture.vocab_size(), "input_ids");
  if (input.token_type_ids.defined()) {
    detail::require_int64_vector(input.token_type_ids, "token_type_ids", tokens, kEachToken);
    check_ids(input.token_type_ids, std::max(architecture.embeddings.type_rows, kSegmentsOfTokenizers),
              "token_type_ids");
  }
  if (input.output_rows.defined()) check_output_rows(input.output_rows, tokens);
}

int64_t output_row_count(const PackedInput& input) {
  return input.output_rows.defined() ? input.output_rows.size(0) : input.tokens();
}

}  // namespace msplora
