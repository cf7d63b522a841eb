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

/// Runs body(tile, of_thread) over the heads of all other segments that have queries, where every thread has
/// an OfThread of its own.
template <typename OfThread, typename T, typename Body>
void for_heads(const Attention<T>& op, const Body& body) {
  const TaskOrder order(op);
  ThreadErrors errors;
#pragma omp parallel if (is_parallel(op))
  {
    OfThread of_thread;
#pragma omp for schedule(dynamic, order.chunk)
    for (int64_t task = 0; task < order.count; ++task) {
      const int64_t segment = order.segment(task);
      const Tile tile = make_tile(op, segment, order.head(task));
      if (tile.queries > 0 && !has_few_queries(op, op.segments[segment]))
        errors.run([&] { body(tile, of_thread); });
    }
  }
  errors.rethrow();
}

/// Computes the segments of which has_few_queries holds (attention_few.cc). False: there are no others.
template <typename T>
bool attention_of_few(const Attention<T>& op);

}  // namespace msplora::kernels::MSPLORA_ISA
