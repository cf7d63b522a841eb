#pragma once

#include "kernels/cpu/attention_tile.h"

namespace msplora::kernels::MSPLORA_ISA {

/// Whether attention_of_few computes a segment: a few queries over more keys, as a model that writes asks
/// for them, with neither dropout nor relative terms.
template <typename T>
inline bool has_few_queries(const Attention<T>& op, const AttentionSegment& segment) {
  constexpr int32_t kFew = 4;
  return segment.q_count > 0 && segment.q_count <= kFew && segment.q_count < segment.k_count &&
         !op.mask.active() && op.relative == nullptr;
}

/// Computes the segments of which has_few_queries holds (attention_few.cc). False: there are no others.
template <typename T>
bool attention_of_few(const Attention<T>& op);

}  // namespace msplora::kernels::MSPLORA_ISA
