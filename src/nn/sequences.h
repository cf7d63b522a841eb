#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <vector>

#include "msplora/core/error.h"

namespace msplora::detail {

/// Throws Error{kUsage} unless cu_seqlens are 0 and then the end of each sequence, none before the last; none
/// at all are no sequences.
inline void require_ends(const std::vector<int32_t>& cu_seqlens) {
  constexpr const char* kExpected = "expected 0 and then the end of each sequence";
  if (!cu_seqlens.empty() && cu_seqlens.front() != 0) {
    throw Error(ErrorCode::kUsage, "cu_seqlens",
                fmt::format("{}, found {} at the beginning", kExpected, cu_seqlens.front()));
  }
  for (size_t b = 1; b < cu_seqlens.size(); ++b) {
    if (cu_seqlens[b] >= cu_seqlens[b - 1]) continue;
    throw Error(ErrorCode::kUsage, "cu_seqlens",
                fmt::format("{}, found {} after {}", kExpected, cu_seqlens[b], cu_seqlens[b - 1]));
  }
}

}  // namespace msplora::detail
