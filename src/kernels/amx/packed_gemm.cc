// y = x W on tiles (AMX): 48 x 32 sums in six of them, x and W through the other two. Rows of x are taken in
// blocks, which are brought into the order of tiles in the second-level cache; panels of W come by. That
// cache feeds half of what the units multiply: a panel is used in passes over a few steps of the inner
// dimension, which the first-level cache holds for all rows while x is read past it. Sums are kept between
// passes, and become y in small parts while those of the next panel are formed: conversion and stores would
// take as long as a fifth of the products. y is written in whole lines that are not read before.
#include <omp.h>

#include "kernels/amx/operands.h"
#include "kernels/amx/vector_kernels.h"
#include "kernels/cpu/gemm_finish.h"
#include "kernels/cpu/quantised_panel.h"

namespace msplora::kernels::amx {
namespace {

constexpr int64_t kTilesOfRows = kTileRows / kRows;
constexpr int64_t kBlockBytes = 912 << 10;  // of x in the second-level cache
constexpr int64_t kMostBlockRows = 960;
constexpr int64_t kStepsOfAPass[] = {0, 12, 4,
                                     2};        // by parts: of W in the first-level cache, which x passes by
constexpr int64_t kLongestInner = 3072;         // in one range
constexpr int64_t kLongRange = 1152;            // of several, whose sums are kept
constexpr int64_t kRowsOfRanges = 288;          // of a block of several: W is read once for each
constexpr int64_t kSumBytes = 1 << 20;          // kept by a task, at most
constexpr int64_t kRunsOfABlock = 8;            // which threads share when others are done
constexpr int64_t kStreamedBytes = 1 << 20;     // of y, from which on it would leave the caches unread
constexpr int64_t kParallelProducts = 1 << 18;  // of two numbers: below, a region costs more than it saves
constexpr int64_t kLeastLines = 4;              // of the next panel, fetched in a step
constexpr int64_t kMostBlocks = 4096;           // more rows are larger blocks

constexpr int kXSlot = 0, kZSlot = 1, kTurnedSlot = 2, kSumSlot = 3, kUpSlot = 4, kUpTileSlot = 5;

// ---- How a product is cut

// A task is a block of rows and a run of panels, in a gated product the same run of both halves.
struct Cut {
  int64_t range;  // of the inner dimension, the same for any number of rows: all add in one order
  int64_t block_rows, blocks, panels, of_half, run, runs;
  bool has_one_range;

  int64_t halves() const { return panels / of_half; }
};

template <int kParts, typename T>
Cut cut_of(const PackedGemm<T>& op) {
  Cut cut;
  cut.has_one_range = op.inner * kParts <= kLongestInner;
  cut.range = cut.has_one_range ? whole_steps<Number>(op.inner) : kLongRange / kParts;
  cut.panels = ceil_div(op.width, kPanel);
  cut.of_half = op.gated_width > 0 ? cut.panels / 2 : cut.panels;
  int64_t largest =
      kBlockBytes / (cut.range * kParts * static_cast<int64_t>(sizeof(Number))) / kTileRows * kTileRows;
  if (!cut.has_one_range) largest = kRowsOfRanges;
  if (largest < kTileRows) largest = kTileRows;
  if (largest > kMostBlockRows) largest = kMostBlockRows;
  cut.blocks = ceil_div(op.rows, largest);
  if (cut.blocks > kMostBlocks) cut.blocks = kMostBlocks;
  cut.block_rows = ceil_div(ceil_div(op.rows, cut.blocks), kTileRows) * kTileRows;
  cut.blocks = ceil_div(op.rows, cut.block_rows);
  cut.run = ceil_div(cut.of_half, kRunsOfABlock);
  if (!cut.has_one_range) {
    // Every run brings all ranges of x into order again: few long ones, unless threads would have nothing to
    // do.
    const int64_t kept = kSumBytes / (cut.block_rows * kPanel * static_cast<int64_t>(sizeof(float))) *
                         cut.of_half / cut.panels;
    if (cut.blocks >= omp_get_max_threads()) cut.run = cut.of_half;
    if (cut.run > kept) cut.run = kept > 1 ? kept : 1;
  }
  cut.runs = ceil_div(cut.of_half, cut.run);
  return cut;
}

// ---- Sums

// Rows of an array that are read or written in a while: a line of each, a few rows at a time.
struct RowsAhead {
  const char* at = nullptr;
  int64_t stride = 0, rows = 0;

  MSPLORA_INLINE void fetch(RowsAhead& ahead, int64_t count) {
    for (int64_t i = 0; i < count && ahead.rows > 0; ++i, --ahead.rows, ahead.at += ahead.stride)
      __builtin_prefetch(ahead.at, 0, 2);
  }
};

// Sums of a panel that wait to become y.
template <typename T>
struct Ending {
  const HalfEnd<T>* end = nullptr;
  const float *sums = nullptr, *gates = nullptr;
  int64_t row = 0, rows = 0, column = 0, columns = 0;

  MSPLORA_INLINE void some(Ending& ending, int64_t count) {
    if (ending.rows == 0) return;
    if (count > ending.rows) count = ending.rows;
    ending.end->finish(ending.end->op, ending.sums, ending.gates, ending.row, count, ending.column,
                       ending.columns, ending.end->is_streamed);
    ending.sums += count * kPanel;
    if (ending.gates) ending.gates += count * kPanel;
    ending.row += count;
    ending.rows -= count;
  }
};

// What is read next, a few lines at a time.
struct Ahead {
  const char *at = nullptr, *end = nullptr;

  MSPLORA_INLINE void fetch(Ahead& ahead, int64_t lines) {
    for (int64_t i = 0; i < lines && ahead.at < ahead.end; ++i, ahead.at += 64)
      __builtin_prefetch(ahead.at, 0, 2);
  }
};

// What the loop over the inner dimension does beside: the ending of the panel before, and bringing what the
// next panel and the ending of this one will read.
template <typename T>
struct Beside {
  Ending<T> ending;
  Ahead ahead;
  RowsAhead operands[2];
  int64_t rows = 0, lines = 0;  // of each in a step

  MSPLORA_INLINE void bring(Beside& beside) {
    Ahead::fetch(beside.ahead, beside.lines);
    for (RowsAhead& operand : beside.operands) RowsAhead::fetch(operand, beside.rows);
  }
};

// In which order the parts of 16 rows of x meet those of a panel's two columns of tiles: small parts of x
// first, each with all of W that it meets.
template <int kParts>
struct StepOrder {
  static constexpr int kCount = kParts * (kParts + 1);
  int left[kCount] = {}, right[kCount] = {}, column[kCount] = {};

  constexpr StepOrder() {
    int at = 0;
    for (int part = kParts - 1; part >= 0; --part)
      for (int i = 0; i < 2 * (kParts - part); ++i, ++at)
        left[at] = part, right[at] = i / 2, column[at] = i % 2;
  }
};

// Sums 2 kRow and 2 kRow + 1 += 16 rows of x by a panel, of one step. W is read from the first-level cache,
// which x passes by, as each of its tiles is read once for a panel. Odd rows go through the order backwards:
// the tile of W is there.
template <int kParts, int kRow, int kAt = 0>
MSPLORA_INLINE void add_row(const Number* x, const Number* w) {
  constexpr StepOrder<kParts> order;
  if constexpr (kAt < order.kCount) {
    constexpr int at = kRow % 2 == 0 ? kAt : order.kCount - 1 - kAt;
    constexpr int before = kAt == 0 ? at : kRow % 2 == 0 ? at - 1 : at + 1;
    constexpr int left = order.left[at], right = order.right[at], column = order.column[at];
    if constexpr (kAt == 0 || left != order.left[before]) pass_tile<7>(x + left * kTileInner, kRowBytes);
    if constexpr (kAt == 0 ? kRow == 0 : right != order.right[before] || column != order.column[before])
      load_tile<6>(w + right * kStepOfPanel + column * kInner, kPanel * 4);
    multiply_tiles<2 * kRow + column, 7, 6>();
    add_row<kParts, kRow, kAt + 1>(x, w);
  }
}

struct Factors {
  const Number* x;     // tiles of rows
  int64_t row_stride;  // numbers from 16 rows to the next
  const Number* w;     // of a panel
  int64_t steps;
};

template <int kTiles, int kParts, typename T>
MSPLORA_INLINE void add_product(const Factors& f, Beside<T>& beside) {
  const Number *x = f.x, *w = f.w;
  for (int64_t s = 0; s < f.steps; ++s, x += kParts * kTileInner, w += kParts * kStepOfPanel) {
    add_row<kParts, 0>(x, w);
    Ending<T>::some(beside.ending, beside.rows);
    if constexpr (kTiles > 1) add_row<kParts, 1>(x + f.row_stride, w);
    if constexpr (kTiles > 2) add_row<kParts, 2>(x + 2 * f.row_stride, w);
    Beside<T>::bring(beside);
  }
}

template <int kTiles>
MSPLORA_INLINE void take_sums(const float* sums) {
  constexpr int64_t kStride = kPanel * static_cast<int64_t>(sizeof(float)), kNext = kRows * kPanel;
  if (sums == nullptr) {
    zero_tile<0>(), zero_tile<1>();
    if constexpr (kTiles > 1) zero_tile<2>(), zero_tile<3>();
    if constexpr (kTiles > 2) zero_tile<4>(), zero_tile<5>();
    return;
  }
  load_tile<0>(sums, kStride), load_tile<1>(sums + kSums, kStride);
  if constexpr (kTiles > 1) load_tile<3>(sums + kNext + kSums, kStride), load_tile<2>(sums + kNext, kStride);
  if constexpr (kTiles > 2)
    load_tile<4>(sums + 2 * kNext, kStride), load_tile<5>(sums + 2 * kNext + kSums, kStride);
}

template <int kTiles>
MSPLORA_INLINE void put_sums(float* sums) {
  constexpr int64_t kStride = kPanel * static_cast<int64_t>(sizeof(float)), kNext = kRows * kPanel;
  store_tile<0>(sums, kStride), store_tile<1>(sums + kSums, kStride);
  if constexpr (kTiles > 1)
    store_tile<3>(sums + kNext + kSums, kStride), store_tile<2>(sums + kNext, kStride);
  if constexpr (kTiles > 2)
    store_tile<4>(sums + 2 * kNext, kStride), store_tile<5>(sums + 2 * kNext + kSums, kStride);
}

// to[16 kTiles, kPanel] = both products, on top of the sums `from` that are there already; null: none.
template <int kTiles, int kParts, typename T>
void form_sums(const Factors& main, const Factors& update, const float* from, float* to, Beside<T>& beside) {
  take_sums<kTiles>(from);
  add_product<kTiles, kParts>(main, beside);
  add_product<kTiles, 1>(update, beside);
  put_sums<kTiles>(to);
}

template <int kParts, typename T>
void form_sums_of(int64_t tiles, const Factors& main, const Factors& update, const float* from, float* to,
                  Beside<T>& beside) {
  if (tiles == 3) return form_sums<3, kParts>(main, update, from, to, beside);
  if (tiles == 2) return form_sums<2, kParts>(main, update, from, to, beside);
  form_sums<1, kParts>(main, update, from, to, beside);
}

// ---- Tasks

// A block of rows and a range of the inner dimension, which a thread has in the order of tiles.
template <int kParts, typename T>
struct Rows {
  using Update = UpdateForm<kParts>;
  const PackedGemm<T>& op;
  const Cut& cut;
  const Number* up;  // as pack_up has it; null: no updates
  int64_t first = 0, count = 0;
  int64_t k = -1, inner = 0;  // the range; -1: none yet
  Number* x = nullptr;
  Number* z = nullptr;

  void take_block(int64_t block) {
    first = block * cut.block_rows;
    count = op.rows - first < cut.block_rows ? op.rows - first : cut.block_rows;
    k = -1;
    x = reinterpret_cast<Number*>(thread_scratch(kXSlot, cut.block_rows * cut.range * kParts / 2));
    if (up == nullptr) return;
    const int64_t numbers = cut.block_rows * Update::steps(op.rank) * kInner;
    z = reinterpret_cast<Number*>(thread_scratch(kZSlot, numbers / 2));
    Update::pack_z(op.z + first * op.rank, op.rank, count, z);
  }
  void take_range(int64_t begin) {
    if (k == begin) return;
    k = begin;
    inner = op.inner - k < cut.range ? op.inner - k : cut.range;
    pack_rows<kParts>(op.x + first * op.inner, op.inner, count, k, inner, x);
  }

  bool forms_panels() const { return op.is_transposed || op.quantised != nullptr; }
  const Number* panel(int64_t at) const {
    const int64_t begin = (at * whole_steps<Number>(op.inner) + k) * kPanel * kParts;
    if (!forms_panels()) return reinterpret_cast<const Number*>(op.packed) + begin;
    auto* const turned = reinterpret_cast<Number*>(thread_scratch(kTurnedSlot, cut.range * kPanel / 2));
    const int64_t column = at * kPanel, whole = whole_steps<Number>(inner);
    if (op.quantised == nullptr) {
      fill_from_transposed(reinterpret_cast<const Number*>(op.packed), op.inner, op.width, column, k, whole,
                           turned);
    } else if (op.is_transposed) {
      fill_from_transposed_codes(*op.quantised, column, k, whole, turned);
    } else {
      fill_from_codes(*op.quantised, at, k, k + inner, turned);
    }
    return turned;
  }
  // The steps of an update that reaches into a panel.
  Factors update(int64_t at, int64_t tile) const {
    const PanelRanks ranks = up ? ranks_of(op, at) : PanelRanks{0, 0, nullptr};
    if (ranks.end == ranks.begin) return {nullptr, 0, nullptr, 0};
    const int64_t steps = Update::steps(op.rank), begin = Update::kPlaces * ranks.begin / kInner;
    return {z + (tile * steps + begin) * kTileInner, steps * kTileInner,
            up + (at * steps + begin) * kStepOfPanel, ceil_div(Update::kPlaces * ranks.end, kInner) - begin};
  }
};

// The panel's part in the first-level cache, times all rows: steps [first, first + count) of the range.
template <int kParts, typename T>
void one_pass(const Rows<kParts, T>& rows, int64_t panel, const Number* w, int64_t first, int64_t count,
              float* sums, Beside<T>& beside) {
  const int64_t steps = ceil_div(rows.inner, kInner), stride = steps * kParts * kTileInner;
  const bool is_first = rows.k + first == 0;
  const bool is_last = first + count == steps && rows.k + rows.inner == rows.op.inner;
  for (int64_t row = 0; row < rows.count; row += kTileRows) {
    const int64_t left = rows.count - row < kTileRows ? rows.count - row : kTileRows, tile = row / kRows;
    const Factors main{rows.x + tile * stride + first * kParts * kTileInner, stride,
                       w + first * kParts * kStepOfPanel, count};
    const Factors update = is_last ? rows.update(panel, tile) : Factors{nullptr, 0, nullptr, 0};
    float* const of_rows = sums + row * kPanel;
    form_sums_of<kParts>(ceil_div(left, kRows), main, update, is_first ? nullptr : of_rows, of_rows, beside);
  }
}

// What the ending of a panel reads of each row: a line of factor, both halves of it, or what it adds to.
template <typename T>
void foresee(const HalfEnd<T>& end, int64_t first, int64_t rows, int64_t column, RowsAhead (&operands)[2]) {
  const PackedGemm<T>& op = end.op;
  constexpr auto kElement = static_cast<int64_t>(sizeof(T));
  const auto set = [&](int i, const T* array, int64_t width, int64_t at) {
    operands[i] = {reinterpret_cast<const char*>(array + first * width + at), width * kElement, rows};
  };
  operands[0] = operands[1] = {};
  if (op.half_width > 0) {
    set(0, op.factor, 2 * op.half_width, column);
    set(1, op.factor, 2 * op.half_width, op.half_width + column);
    return;
  }
  if (op.factor) set(0, op.factor, op.width, column);
  if (op.add) set(1, op.y, op.width, column);
}

// A panel times the range of the rows that are there, onto `sums` of all of them; `next` is the one after it.
template <int kParts, typename T>
void one_panel(const Rows<kParts, T>& rows, int64_t panel, int64_t next, float* sums, Beside<T>& beside) {
  const Number* const w = rows.panel(panel);
  const int64_t steps = ceil_div(rows.inner, kInner), rounds = ceil_div(rows.count, kTileRows) * steps;
  if (!rows.forms_panels() && next < rows.cut.panels) {
    const int64_t bytes = steps * kStepOfPanel * kParts * static_cast<int64_t>(sizeof(Number));
    const char* const lines = reinterpret_cast<const char*>(rows.panel(next));
    beside.ahead = {lines, lines + bytes};
    beside.lines = ceil_div(bytes / 64, rounds);
    if (beside.lines < kLeastLines) beside.lines = kLeastLines;
  }
  const int64_t passes = ceil_div(steps, kStepsOfAPass[kParts]);
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = pass * steps / passes;
    one_pass(rows, panel, w, first, (pass + 1) * steps / passes - first, sums, beside);
  }
}

template <int kParts, typename T>
void one_run(Rows<kParts, T>& rows, int64_t run, const HalfEnd<T>& end) {
  const PackedGemm<T>& op = rows.op;
  const Cut& cut = rows.cut;
  const int64_t first = run * cut.run, last = first + cut.run < cut.of_half ? first + cut.run : cut.of_half;
  const int64_t halves = cut.halves();
  // Sums of all panels where x comes in ranges, else of those at hand and those before, which become y.
  const int64_t size = cut.block_rows * kPanel, kept = halves * (cut.has_one_range ? 2 : cut.run);
  float* const sums = thread_scratch(kSumSlot, kept * size);
  Beside<T> beside;
  for (int64_t k = 0; k < op.inner; k += cut.range) {
    rows.take_range(k);
    beside.rows = ceil_div(kTileRows, halves * ceil_div(rows.inner, kInner));
    for (int64_t panel = first, at = 0; panel < last; ++panel, ++at) {
      const int64_t column = ((halves - 1) * cut.of_half + panel) * kPanel;
      float* const of_panel = sums + at * halves % kept * size;
      const bool is_last = k + rows.inner == op.inner;
      if (is_last) foresee(end, rows.first, rows.count, column, beside.operands);
      if (halves > 1) one_panel(rows, panel, cut.of_half + panel, of_panel, beside);
      float* const ended = of_panel + (halves - 1) * size;
      one_panel(rows, (halves - 1) * cut.of_half + panel, panel + 1, ended, beside);
      if (!is_last) continue;
      Ending<T>::some(beside.ending, rows.count);  // what the steps had no room for
      beside.ending = {&end,
                       ended,
                       halves > 1 ? of_panel : nullptr,
                       rows.first,
                       rows.count,
                       column,
                       op.width - column < kPanel ? op.width - column : kPanel};
    }
  }
  Ending<T>::some(beside.ending, cut.block_rows);
}

bool begins_line(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 64 == 0;
}

template <typename T>
bool is_streamed(const PackedGemm<T>& op) {
  constexpr auto kElement = static_cast<int64_t>(sizeof(T));
  const int64_t width = op.gated_width > 0  ? op.gated_width
                        : op.half_width > 0 ? 2 * op.half_width
                                            : op.width;
  return !op.add && op.rows * width * kElement >= kStreamedBytes && width * kElement % 64 == 0 &&
         begins_line(op.y) && begins_line(op.derivative);
}

// Runs of a block go to whoever asks; a thread asks first for those of its own share of the blocks.
template <int kParts, typename T>
void run_share(const PackedGemm<T>& op, const Cut& cut, const Number* up, const HalfEnd<T>& end,
               int64_t* next_runs) {
  const int64_t own = omp_get_thread_num() * cut.blocks / omp_get_num_threads();
  const Tiles tiles;
  Rows<kParts, T> rows{op, cut, up};
  for (int64_t i = 0; i < cut.blocks; ++i) {
    const int64_t block = (own + i) % cut.blocks;
    bool is_packed = false;
    for (int64_t run; (run = __atomic_fetch_add(next_runs + block, 1, __ATOMIC_RELAXED)) < cut.runs;
         is_packed = true) {
      if (!is_packed) rows.take_block(block);
      one_run(rows, run, end);
    }
  }
  if (end.is_streamed) _mm_sfence();
}

template <int kParts, typename T>
void product(const PackedGemm<T>& op) {
  if (op.rows == 0 || op.width == 0) return;
  const Cut cut = cut_of<kParts>(op);
  const Number* const up =
      op.num_updates > 0 ? UpdateForm<kParts>::pack_up(op, cut.panels, kUpSlot, kUpTileSlot) : nullptr;
  HalfEnd<T> end(op);
  end.is_streamed = is_streamed(op);
  int64_t next_runs[kMostBlocks];
  std::memset(next_runs, 0, sizeof(int64_t) * static_cast<size_t>(cut.blocks));
  ThreadErrors errors;
#pragma omp parallel if (op.rows * op.inner * op.width > kParallelProducts)
  errors.run([&] { run_share<kParts>(op, cut, up, end, next_runs); });
  errors.rethrow();
}

}  // namespace

template <>
void packed_gemm(const PackedGemm<Bfloat16>& op) {
  product<1>(op);
}

template <>
void packed_gemm(const PackedGemm<float>& op) {
  in_precision(
      op.precision, [&] { avx512bf16::packed_gemm(op); }, [&]<int kParts> { product<kParts>(op); });
}

}  // namespace msplora::kernels::amx
