// y = x W with W in panels of kPanel columns, all of its rows one after the other, so that the innermost loop
// reads it front to back; x is read where it lies. A tile of kTileRows x kPanel sums lives in registers over
// a whole range of the inner dimension. Rows are taken in blocks whose part of x stays in the second-level
// cache while all panels pass by (Goto & van de Geijn, 2008, with the roles of the operands exchanged).
#include <cstring>
#include <type_traits>

#include "kernels/cpu/gemm_finish.h"
#include "kernels/cpu/gemm_updates.h"
#include "kernels/cpu/quantised_panel.h"

#include <omp.h>

namespace msplora::kernels::MSPLORA_ISA {
namespace {

constexpr int64_t kBlockBytes = 400 << 10;  // of x in the second-level cache
constexpr int64_t kLongestInner = 6 << 10;  // bytes of a row of x in one pass

// Where panels are formed as they are used, which costs what ten to twenty rows cost, they serve more rows,
// which then stream by.
constexpr int64_t kFewestFormedRows = 256, kMostFormedRows = 4096;
constexpr int64_t kTasksOfAThread = 8;  // so that one that is held up delays the others little

// A tile or less has little to do for each number of W: what counts is that W streams from memory. Threads
// take runs of panels, and ask for lines so many bytes ahead, also across the end of a panel.
constexpr int64_t kBytesAhead = 4 << 10;

// Products of two numbers, below which a parallel region costs more than it saves.
constexpr int64_t kParallelProducts = 1 << 16;

constexpr int kSumSlot = 0, kUpSlot = 1, kPanelSlot = 2;

// One row of W (two with pair products) times the same elements of kRows rows of x.
template <int kRows>
MSPLORA_INLINE void step(const float* x, int64_t stride, const float* w, VecF (*sums)[kVectors]) {
  VecF row[kVectors];
  for (int j = 0; j < kVectors; ++j) row[j] = load(w + j * kLanes);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    const VecF value = splat(x[i * stride]);
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) sums[i][j] += value * row[j];
  }
}
template <int kRows>
MSPLORA_INLINE void step(const Bfloat16* x, int64_t stride, const Bfloat16* w, VecF (*sums)[kVectors]) {
#if defined(__AVX512BF16__)
  __m512bh row[kVectors];
#pragma GCC unroll 3
  for (int j = 0; j < kVectors; ++j) row[j] = (__m512bh)_mm512_loadu_si512(w + 2 * j * kLanes);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    int pair;
    std::memcpy(&pair, x + i * stride, sizeof(pair));
    const __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) sums[i][j] = (VecF)_mm512_dpbf16_ps((__m512)sums[i][j], value, row[j]);
  }
#else
  VecF row[kVectors];
  for (int j = 0; j < kVectors; ++j) row[j] = load(w + j * kLanes);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    const VecF value = splat(to_float(x[i * stride]));
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) sums[i][j] += value * row[j];
  }
#endif
}

// Lines that will be turned next: the n-th is line n % kLinesOfABlock of a block. They are fetched into the
// second-level cache while tiles are computed, as turning a panel waits for nothing else.
template <typename T>
struct TurnedNext {
  static constexpr int64_t kLinesOfABlock = TurnedBlocks<T>::kBlockSize / 64;
  const char* blocks = nullptr;  // null: there are none
  int64_t stride = 0;
  int64_t line = 0, end = 0;  // those of this tile

  MSPLORA_INLINE void fetch(const TurnedNext& next, int64_t part, int64_t parts) {
    const int64_t lines = next.end - next.line;
    for (int64_t n = next.line + lines * part / parts; n < next.line + lines * (part + 1) / parts; ++n)
      __builtin_prefetch(next.blocks + n / kLinesOfABlock * next.stride + n % kLinesOfABlock * 64, 0, 2);
  }
};

// Where sums of a tile end up, whose lines are far apart and so fetched while the sums are formed: a row
// every few steps, as a burst of requests would hold up the loop.
template <typename T>
struct TileEnd {
  const PackedGemm<T>* op;  // null: the sums are not complete yet
  int64_t row, column;
  TurnedNext<T> next;
};

template <int kIsWritten, typename T>
MSPLORA_INLINE void fetch_panel(const T* p) {
  fetch_lines<kIsWritten, 3>(p, kPanel);
}
template <typename T>
MSPLORA_INLINE void fetch(const TileEnd<T>& end, int64_t row) {
  const PackedGemm<T>& op = *end.op;
  const int64_t begin = (end.row + row) * op.width + end.column;
  if (op.gated_width > 0) {  // by_gate is there since the gate
    fetch_panel<1>(op.y + (end.row + row) * op.gated_width + end.column - op.width / 2);
    fetch_panel<1>(op.derivative + begin);
  } else if (op.half_width > 0) {
    for (int64_t at = 2 * (end.row + row) * op.half_width + end.column, half = 0; half < 2;
         ++half, at += op.half_width) {
      fetch_panel<1>(op.y + at);
      fetch_panel<0>(op.factor + at);
    }
  } else {
    fetch_panel<1>(op.y + begin);
    if (op.factor) fetch_panel<0>(op.factor + begin);
    if (op.derivative) fetch_panel<1>(op.derivative + begin);
  }
}

// sums[kRows, kPanel] (+)= x[kRows, inner] times a panel. Sums of a range begin at zero and are added whole:
// of a vocabulary's many small terms, each would lose its last bits in the sum of all before it.
template <int kRows, typename T>
void tile(const T* x, int64_t stride, int64_t inner, const T* panel, bool is_first, float* to,
          const TileEnd<T>& end) {
  VecF sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) sums[i][j] = splat(0.0f);
  int64_t k = 0;
  if constexpr (kRows < kTileRows) {
    for (; k < inner; k += kStep<T>) {
      const char* ahead = reinterpret_cast<const char*>(panel + k * kPanel) + kBytesAhead;
#pragma GCC unroll 3
      for (size_t line = 0; line < kStep<T> * kPanel * sizeof(T); line += 64)
        __builtin_prefetch(ahead + line, 0);
      step<kRows>(x + k, stride, panel + k * kPanel, sums);
    }
  } else {
    for (int64_t i = 0; i < kRows; ++i) {
      const int64_t until = inner * (i + 1) / (2 * kTileRows);
      for (; k < until; k += kStep<T>) step<kRows>(x + k, stride, panel + k * kPanel, sums);
      if (end.op) fetch(end, i);
      if (end.next.blocks) TurnedNext<T>::fetch(end.next, i, kRows);
    }
    for (; k < inner; k += kStep<T>) step<kRows>(x + k, stride, panel + k * kPanel, sums);
  }
  if (!is_first) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; ++j) sums[i][j] += load(to + i * kPanel + j * kLanes);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) store(to + i * kPanel + j * kLanes, sums[i][j]);
}

template <int kRows, typename T>
void tile_of(int64_t rows, const T* x, int64_t stride, int64_t inner, const T* panel, bool is_first,
             float* to, const TileEnd<T>& end) {
  if (rows == kRows) return tile<kRows>(x, stride, inner, panel, is_first, to, end);
  if constexpr (kRows > 1) tile_of<kRows - 1>(rows, x, stride, inner, panel, is_first, to, end);
}

// The same with numbers that are formed out of codes two rows at a time, for no more rows than a tile has.
template <int kRows, bool kFourBits, typename T>
void tile_of_codes(const T* x, int64_t stride, int64_t inner, CodeRows<kFourBits> codes, bool is_first,
                   float* to) {
  VecF sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) sums[i][j] = splat(0.0f);
  for (int64_t k = 0; k < inner; k += 2) {
    alignas(64) T rows[2 * kPanel];
    codes.next(rows);
    for (int s = 0; s < 2; s += kStep<T>) step<kRows>(x + k + s, stride, rows + s * kPanel, sums);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) {
      float* const at = to + i * kPanel + j * kLanes;
      store(at, is_first ? sums[i][j] : sums[i][j] + load(at));
    }
}

template <int kRows, bool kFourBits, typename T>
void some_of_codes(int64_t rows, const T* x, int64_t stride, int64_t inner, const CodeRows<kFourBits>& codes,
                   bool is_first, float* to) {
  if (rows == kRows) return tile_of_codes<kRows, kFourBits>(x, stride, inner, codes, is_first, to);
  if constexpr (kRows > 1) some_of_codes<kRows - 1, kFourBits>(rows, x, stride, inner, codes, is_first, to);
}

// sums[rows, kPanel] += z U.
template <int kRows>
MSPLORA_INLINE void add_update(const float* z, int64_t stride, const PanelRanks& ranks, float* to) {
  VecF sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) sums[i][j] = load(to + i * kPanel + j * kLanes);
  for (int64_t r = ranks.begin; r < ranks.end; ++r)
    step<kRows>(z + r, stride, ranks.up + (r - ranks.begin) * kPanel, sums);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) store(to + i * kPanel + j * kLanes, sums[i][j]);
}

// For a tile of up to kTileRows rows from `row` on.
template <typename T>
void add_update_to(const PackedGemm<T>& op, int64_t row, int64_t rows, const PanelRanks& ranks, float* to) {
  const float* z = op.z + row * op.rank;
  if (rows == kTileRows) return add_update<kTileRows>(z, op.rank, ranks, to);
  for (int64_t i = 0; i < rows; ++i) add_update<1>(z + i * op.rank, op.rank, ranks, to + i * kPanel);
}

// How a product is cut: rows in blocks, the inner dimension in ranges. A task is a block and a run of panels,
// in a gated product the same run of both halves.
struct Cut {
  int64_t block_rows, blocks, range, panels, of_half, run;
};

template <typename T>
bool forms_panels(const PackedGemm<T>& op) {
  return op.is_transposed || op.quantised != nullptr;
}

template <typename T>
int64_t most_rows(const PackedGemm<T>& op, const Cut& cut) {
  if (!forms_panels(op)) return kBlockBytes / (cut.range * static_cast<int64_t>(sizeof(T)));
  const int64_t blocks = ceil_div(kTasksOfAThread * omp_get_max_threads(), cut.panels);
  const int64_t rows = ceil_div(op.rows, blocks);
  return rows < kFewestFormedRows ? kFewestFormedRows : rows < kMostFormedRows ? rows : kMostFormedRows;
}

template <typename T>
Cut cut_of(const PackedGemm<T>& op) {
  Cut cut;
  const int64_t ranges = ceil_div(op.inner, kLongestInner / static_cast<int64_t>(sizeof(T)));
  // The same for every way that a product is computed, so that all add in one order.
  cut.range = ceil_div(ceil_div(op.inner, ranges), kPanel) * kPanel;
  cut.panels = ceil_div(op.width, kPanel);
  cut.of_half = op.gated_width > 0 ? cut.panels / 2 : cut.panels;
  const int64_t fitting = most_rows(op, cut);
  const int64_t largest = fitting > kTileRows ? fitting / kTileRows * kTileRows : kTileRows;
  cut.blocks = ceil_div(op.rows, largest);
  cut.block_rows = ceil_div(ceil_div(op.rows, cut.blocks), kTileRows) * kTileRows;
  cut.blocks = ceil_div(op.rows, cut.block_rows);
  cut.run = 1;
  if (op.rows <= kTileRows && !op.is_transposed) {
    cut.run = ceil_div(cut.of_half, kTasksOfAThread * omp_get_max_threads());
  }
  return cut;
}

template <typename T>
T* scratch_of(int slot, int64_t elements) {
  return reinterpret_cast<T*>(
      thread_scratch(slot, ceil_div(elements * static_cast<int64_t>(sizeof(T)), sizeof(float))));
}

// What is turned after the rows before `k` of a panel: the next range of it, or, as tasks go out in turn, the
// first range of the panel that this thread probably gets.
template <typename T>
TurnedNext<T> next_turned(const PackedGemm<T>& op, const Cut& cut, int64_t panel, int64_t k) {
  if (k >= op.inner) {
    k = 0;
    panel = (panel + omp_get_num_threads()) % cut.panels;
  }
  const TurnedBlocks<T> blocks(op.packed, op.width, panel * kPanel);
  const int64_t rows = op.inner - k < cut.range ? op.inner - k : cut.range;
  return {blocks.first + k / kPanel * blocks.stride, blocks.stride, 0,
          ceil_div(rows, kPanel) * TurnedNext<T>::kLinesOfABlock};
}

// Rows [k, k + cut.range) of a panel, of which `inner` are there, that are not packed as they are used.
template <typename T>
void form_panel(const PackedGemm<T>& op, const Cut& cut, int64_t panel, int64_t k, int64_t inner, T* to) {
  const int64_t column = panel * kPanel;
  if (op.quantised == nullptr) {
    fill_from_transposed(op.packed, op.inner, op.width, column, k, cut.range, to);
  } else if (op.is_transposed) {
    fill_from_transposed_codes(*op.quantised, column, k, cut.range, to);
  } else {
    fill_from_codes(*op.quantised, panel, k, k + inner, to);
  }
}

// A panel of a product with codes and no more rows than a tile has, whose sums stay where they are.
template <bool kFourBits, typename T>
void one_panel_of_codes(const HalfEnd<T>& end_of, const Cut& cut, int64_t panel, const PanelRanks& ranks) {
  const PackedGemm<T>& op = end_of.op;
  float* sums = thread_scratch(kSumSlot, kTileRows * kPanel);
  const int64_t column = panel * kPanel;
  const int64_t columns = op.width - column < kPanel ? op.width - column : kPanel;
  for (int64_t k = 0; k < op.inner; k += cut.range) {
    const int64_t inner = op.inner - k < cut.range ? op.inner - k : cut.range;
    const CodeRows<kFourBits> codes(*op.quantised, panel, k);
    some_of_codes<kTileRows, kFourBits>(op.rows, op.x + k, op.inner, inner, codes, k == 0, sums);
  }
  if (ranks.end > ranks.begin) add_update_to(op, 0, op.rows, ranks, sums);
  end_of.finish(op, sums, nullptr, 0, op.rows, column, columns, {});
}

template <typename T>
void one_panel(const HalfEnd<T>& end_of, const Cut& cut, int64_t first, int64_t last, int64_t panel,
               const PanelRanks& ranks) {
  const PackedGemm<T>& op = end_of.op;
  const bool is_whole = cut.range >= op.inner;
  float* sums = thread_scratch(kSumSlot, is_whole ? kTileRows * kPanel : cut.block_rows * kPanel);
  const int64_t column = panel * kPanel;
  const int64_t columns = op.width - column < kPanel ? op.width - column : kPanel;
  T* formed = forms_panels(op) ? scratch_of<T>(kPanelSlot, cut.range * kPanel) : nullptr;
  for (int64_t k = 0; k < op.inner; k += cut.range) {
    const int64_t inner = op.inner - k < cut.range ? op.inner - k : cut.range;
    const bool is_last = k + inner == op.inner;
    if (formed) form_panel(op, cut, panel, k, inner, formed);
    const bool is_turned = op.is_transposed && op.quantised == nullptr;
    const TurnedNext<T> next = is_turned ? next_turned(op, cut, panel, k + cut.range) : TurnedNext<T>{};
    const T* part = formed ? formed : op.packed + (panel * whole_steps<T>(op.inner) + k) * kPanel;
    for (int64_t row = first; row < last; row += kTileRows) {
      const int64_t rows = last - row < kTileRows ? last - row : kTileRows;
      float* to = is_whole ? sums : sums + (row - first) * kPanel;
      TileEnd<T> end{is_last ? &op : nullptr, row, column, next};
      end.next.line = next.end * (row - first) / (last - first);
      end.next.end = next.end * (row + rows - first) / (last - first);
      tile_of<kTileRows>(rows, op.x + row * op.inner + k, op.inner, inner, part, k == 0, to, end);
      if (is_last && ranks.end > ranks.begin) add_update_to(op, row, rows, ranks, to);
      if (is_last) end_of.finish(op, to, nullptr, row, rows, column, columns, {});
    }
  }
}

}  // namespace

template <typename T>
void packed_gemm(const PackedGemm<T>& op) {
  if (op.rows == 0 || op.width == 0) return;
  const Cut cut = cut_of(op);
  const Ends<T> ends(op);
  const float* up = op.num_updates > 0 ? pack_updates(op, cut.panels, kUpSlot) : nullptr;
  const int64_t runs = ceil_div(cut.of_half, cut.run);
  const bool is_streamed = op.quantised && !op.is_transposed && op.rows <= kTileRows;
  const auto run_task = [&](int64_t task) {
    const int64_t first = task / runs * cut.block_rows, begin = task % runs * cut.run;
    const int64_t last = first + cut.block_rows < op.rows ? first + cut.block_rows : op.rows;
    const int64_t end = begin + cut.run < cut.of_half ? begin + cut.run : cut.of_half;
    for (int64_t half = 0; half < ends.count; ++half) {
      for (int64_t panel = half * cut.of_half + begin; panel < half * cut.of_half + end; ++panel) {
        PanelRanks ranks = ranks_of(op, panel);
        if (up) ranks.up = up + panel * op.rank * kPanel;
        if (is_streamed && op.quantised->values) {
          one_panel_of_codes<true>(ends.half[half], cut, panel, ranks);
        } else if (is_streamed) {
          one_panel_of_codes<false>(ends.half[half], cut, panel, ranks);
        } else {
          one_panel(ends.half[half], cut, first, last, panel, ranks);
        }
      }
    }
  };
  ThreadErrors errors;
#pragma omp parallel for schedule(dynamic, 1) if (op.rows * op.inner * op.width > kParallelProducts)
  for (int64_t task = 0; task < cut.blocks * runs; ++task) errors.run([&] { run_task(task); });
  errors.rethrow();
}

MSPLORA_DEFINED(packed_gemm, PackedGemm)

}  // namespace msplora::kernels::MSPLORA_ISA
