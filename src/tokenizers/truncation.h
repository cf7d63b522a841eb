#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "msplora/tokenizers/tokenizer.h"
#include "tokenizers/json_view.h"

namespace msplora::detail {

using msplora::TruncationStrategy;

/// tokenizer.json's "truncation".
struct Truncation {
  size_t max_length = 0;
  TruncationStrategy strategy = TruncationStrategy::kLongestFirst;
  bool from_left = false;
  size_t stride = 0;  // by how much windows overlap; all but the first are dropped here
};

/// tokenizer.json's "padding".
struct Padding {
  std::optional<size_t> fixed;  // nothing: to the longest of the batch
  std::optional<size_t> multiple_of;
  bool on_left = false;
  int32_t id = 0;
  int32_t type_id = 0;
  std::string token;
};

std::optional<Truncation> read_truncation(const JsonView& tokenizer);
std::optional<Padding> read_padding(const JsonView& tokenizer);

struct Lengths {
  size_t first = 0;
  size_t second = 0;
};

/// Throws Error{kConfig} at `where` when Hugging Face's library would refuse the stride: it must be smaller
/// than what is kept of a text, and than `room_of_one`, the length left for a single text.
void check_stride(size_t stride, Lengths lengths, Lengths kept, size_t room_of_one, const std::string& where);

/// How many tokens of each text stay when both together may have `room`; what Hugging Face's
/// truncate_encodings keeps. Throws Error{kData} when a strategy that touches one text only cannot reach the
/// length.
Lengths truncated_lengths(Lengths lengths, bool is_pair, size_t room, TruncationStrategy strategy);

}  // namespace msplora::detail
