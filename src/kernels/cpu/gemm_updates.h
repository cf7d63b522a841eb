#pragma once

// The low-rank updates of packed products (GemmUpdate), cut into panels.
#include "kernels/cpu/gemm_panel.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

// U in panels: the ranks that any column of a panel has, kPanel columns each, zero where a column has not.
struct PanelRanks {
  int64_t begin, end;
  const float* up;  // [end - begin, kPanel]
};

// Ranks of the updates that reach into a panel; empty where none does.
template <typename T>
PanelRanks ranks_of(const PackedGemm<T>& op, int64_t panel) {
  PanelRanks ranks{0, 0, nullptr};
  for (int64_t u = 0; u < op.num_updates; ++u) {
    const GemmUpdate& update = op.updates[u];
    if (update.column >= (panel + 1) * kPanel || update.column + update.width <= panel * kPanel) continue;
    if (ranks.end == 0) ranks.begin = update.begin;
    ranks.end = update.end;
  }
  return ranks;
}

template <typename T>
void pack_update(const PackedGemm<T>& op, const GemmUpdate& update, int64_t panel, const PanelRanks& ranks,
                 float* to) {
  const int64_t first = panel * kPanel;
  const int64_t begin = update.column > first ? update.column : first;
  const int64_t last = update.column + update.width;
  const int64_t end = last < first + kPanel ? last : first + kPanel;
  for (int64_t r = update.begin; begin < end && r < update.end; ++r) {
    std::memcpy(to + (r - ranks.begin) * kPanel + begin - first,
                update.up_t + (r - update.begin) * update.width + begin - update.column,
                sizeof(float) * static_cast<size_t>(end - begin));
  }
}

// All of U in panels, in scratch of the calling thread; panel p begins at p * op.rank * kPanel.
template <typename T>
const float* pack_updates(const PackedGemm<T>& op, int64_t panels, int slot) {
  const int64_t size = op.rank * kPanel;
  float* packed = thread_scratch(slot, panels * size);
  for (int64_t panel = 0; panel < panels; ++panel) {
    const PanelRanks ranks = ranks_of(op, panel);
    std::memset(packed + panel * size, 0,
                sizeof(float) * static_cast<size_t>((ranks.end - ranks.begin) * kPanel));
    for (int64_t u = 0; u < op.num_updates; ++u)
      pack_update(op, op.updates[u], panel, ranks, packed + panel * size);
  }
  return packed;
}

}  // namespace
}  // namespace msplora::kernels::MSPLORA_ISA
