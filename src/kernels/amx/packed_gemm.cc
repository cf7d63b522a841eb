// y = x W on tiles (AMX): 48 x 32 sums in six of them, x and W through the other two. Rows of x are taken in
// blocks, which are brought into the order of tiles in the second-level cache; panels of W pass by. Sums
// leave their tiles for the first-level cache, and on to y in small parts while the next ones are formed:
// conversion and stores would take as long as a fifth of the products. y is written in whole lines that are
// not read before.
#include <omp.h>

#include "kernels/amx/operands.h"
#include "kernels/amx/vector_kernels.h"
#include "kernels/cpu/gemm_finish.h"

namespace msplora::kernels::amx {
namespace {

constexpr int64_t kTilesOfRows = kTileRows / kRows;
constexpr int64_t kBlockBytes = 768 << 10;      // of x in the second-level cache
constexpr int64_t kLongestInner = 3072;         // in one range
constexpr int64_t kLongRange = 1024;            // of several, whose sums are kept
constexpr int64_t kRowsOfRanges = 288;          // of a block of several: W is read once for each
constexpr int64_t kSumBytes = 1 << 20;          // kept by a task, at most
constexpr int64_t kRunsOfABlock = 8;            // which threads share when others are done
constexpr int64_t kStreamedBytes = 1 << 20;     // of y, from which on it would leave the caches unread
constexpr int64_t kParallelProducts = 1 << 18;  // of two numbers: below, a region costs more than it saves
constexpr int64_t kLeastLines = 4;              // of the next panel, fetched in a step
constexpr int64_t kMostBlocks = 4096;           // more rows are larger blocks

constexpr int kXSlot = 0, kZSlot = 1, kTurnedSlot = 2, kSumSlot = 3, kKeptSlot = 4, kUpSlot = 5,
              kUpTileSlot = 6;

// ---- How a product is cut

// A task is a block of rows and a run of panels, in a gated product the same run of both halves.
struct Cut {
  int64_t range;  // of the inner dimension, the same for any number of rows: all add in one order
  int64_t block_rows, blocks, panels, of_half, run, runs;
  bool has_one_range;
};

template <int kParts, typename T>
Cut cut_of(const PackedGemm<T>& op) {
  Cut cut;
  cut.has_one_range = op.inner <= kLongestInner;
  cut.range = cut.has_one_range ? whole_steps<Number>(op.inner) : kLongRange;
  cut.panels = ceil_div(op.width, kPanel);
  cut.of_half = op.gated_width > 0 ? cut.panels / 2 : cut.panels;
  int64_t largest =
      kBlockBytes / (cut.range * kParts * static_cast<int64_t>(sizeof(Number))) / kTileRows * kTileRows;
  if (!cut.has_one_range) largest = kRowsOfRanges;
  if (largest < kTileRows) largest = kTileRows;
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

// Sums that wait to become y.
template <typename T>
struct Ending {
  const HalfEnd<T>* end = nullptr;
  const float* sums = nullptr;
  int64_t row = 0, rows = 0, column = 0, columns = 0;

  MSPLORA_INLINE void some(Ending& ending, int64_t count) {
    if (ending.rows == 0) return;
    if (count > ending.rows) count = ending.rows;
    ending.end->finish(ending.end->op, ending.sums, ending.row, count, ending.column, ending.columns,
                       ending.end->is_streamed);
    ending.sums += count * kPanel;
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

// What the loop over the inner dimension does beside.
template <typename T>
struct Beside {
  Ending<T> ending;
  Ahead ahead;
  int64_t rows = 0, lines = 0;  // of each in a step
  bool is_odd = false;          // which of two buffers gets sums
};

// Tiles 0 to 2 kTiles - 1 += x W of one step and one part of each: kTiles tiles of rows, `row_stride` numbers
// apart, by a panel.
template <int kTiles>
MSPLORA_INLINE void add_left_columns(const Number* x, int64_t row_stride, const Number* w) {
  load_tile<7>(w, kPanel * 4);
  load_tile<6>(x, kRowBytes);
  multiply_tiles<0, 6, 7>();
  if constexpr (kTiles > 1) {
    load_tile<6>(x + row_stride, kRowBytes);
    multiply_tiles<2, 6, 7>();
  }
  if constexpr (kTiles > 2) {
    load_tile<6>(x + 2 * row_stride, kRowBytes);
    multiply_tiles<4, 6, 7>();
  }
}
// The rows come back in the other order: the last is still there.
template <int kTiles>
MSPLORA_INLINE void add_right_columns(const Number* x, int64_t row_stride, const Number* w) {
  load_tile<7>(w + kRowBytes / sizeof(Number), kPanel * 4);
  multiply_tiles<2 * kTiles - 1, 6, 7>();
  if constexpr (kTiles > 2) {
    load_tile<6>(x + row_stride, kRowBytes);
    multiply_tiles<3, 6, 7>();
  }
  if constexpr (kTiles > 1) {
    load_tile<6>(x, kRowBytes);
    multiply_tiles<1, 6, 7>();
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
  using Meet = Meeting<kParts>;
  const Number *x = f.x, *w = f.w;
  for (int64_t s = 0; s < f.steps; ++s, x += kParts * kTileInner, w += kParts * kStepOfPanel) {
#pragma GCC unroll 6
    for (int i = 0; i < Meet::kCount; ++i) {
      const Number *left = x + Meet::kLeft[i] * kTileInner, *right = w + Meet::kRight[i] * kStepOfPanel;
      add_left_columns<kTiles>(left, f.row_stride, right);
      if (i == 0) Ending<T>::some(beside.ending, beside.rows);
      add_right_columns<kTiles>(left, f.row_stride, right);
    }
    Ahead::fetch(beside.ahead, beside.lines);
  }
}

// sums[16 kTiles, kPanel] = the sum of both products.
template <int kTiles, int kParts, typename T>
void form_sums(const Factors& main, const Factors& update, float* sums, Beside<T>& beside) {
  zero_tile<0>(), zero_tile<1>();
  if constexpr (kTiles > 1) zero_tile<2>(), zero_tile<3>();
  if constexpr (kTiles > 2) zero_tile<4>(), zero_tile<5>();
  add_product<kTiles, kParts>(main, beside);
  add_product<kTiles, 1>(update, beside);
  constexpr int64_t kStride = kPanel * static_cast<int64_t>(sizeof(float)), kNext = kRows * kPanel;
  store_tile<0>(sums, kStride), store_tile<1>(sums + kSums, kStride);
  if constexpr (kTiles > 1)
    store_tile<2>(sums + kNext, kStride), store_tile<3>(sums + kNext + kSums, kStride);
  if constexpr (kTiles > 2)
    store_tile<4>(sums + 2 * kNext, kStride), store_tile<5>(sums + 2 * kNext + kSums, kStride);
}

template <int kParts, typename T>
void form_sums_of(int64_t tiles, const Factors& main, const Factors& update, float* sums, Beside<T>& beside) {
  if (tiles == 3) return form_sums<3, kParts>(main, update, sums, beside);
  if (tiles == 2) return form_sums<2, kParts>(main, update, sums, beside);
  form_sums<1, kParts>(main, update, sums, beside);
}

void add_sums(const float* sums, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += kLanes) store(to + i, load(to + i) + load(sums + i));
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

  const Number* panel(int64_t at) const {
    const int64_t begin = (at * whole_steps<Number>(op.inner) + k) * kPanel * kParts;
    if (!op.is_transposed) return reinterpret_cast<const Number*>(op.packed) + begin;
    auto* const turned = reinterpret_cast<Number*>(thread_scratch(kTurnedSlot, cut.range * kPanel / 2));
    fill_from_transposed(reinterpret_cast<const Number*>(op.packed), op.inner, op.width, at * kPanel, k,
                         whole_steps<Number>(inner), turned);
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

// A panel times the range of the rows that are there. `kept` holds the sums of all of them where the inner
// dimension has several ranges, `sums` else those of two tiles in turn.
template <int kParts, typename T>
void one_panel(const Rows<kParts, T>& rows, int64_t panel, const HalfEnd<T>& end, float* kept, float* sums,
               Beside<T>& beside) {
  const PackedGemm<T>& op = rows.op;
  const bool is_first = rows.k == 0, is_last = rows.k + rows.inner == op.inner;
  const Number* const w = rows.panel(panel);
  const int64_t steps = ceil_div(rows.inner, kInner), turns = ceil_div(rows.count, kTileRows);
  beside.rows = ceil_div(kTileRows, steps);
  if (!op.is_transposed) {
    const int64_t bytes = steps * kStepOfPanel * kParts * static_cast<int64_t>(sizeof(Number));
    const char* next = reinterpret_cast<const char*>(w + whole_steps<Number>(op.inner) * kPanel * kParts);
    if (panel + 1 < rows.cut.panels) beside.ahead = {next, next + bytes};
    beside.lines = ceil_div(bytes / 64, turns * steps);
    if (beside.lines < kLeastLines) beside.lines = kLeastLines;
  }
  for (int64_t turn = 0; turn < turns; ++turn) {
    const int64_t row = turn * kTileRows;
    const int64_t count = rows.count - row < kTileRows ? rows.count - row : kTileRows;
    const int64_t stride = steps * kParts * kTileInner;
    const Factors main{rows.x + turn * kTilesOfRows * stride, stride, w, steps};
    const Factors update =
        is_last ? rows.update(panel, turn * kTilesOfRows) : Factors{nullptr, 0, nullptr, 0};
    float* const formed = sums + (beside.is_odd ? kTileRows * kPanel : 0);
    beside.is_odd = !beside.is_odd;
    float* const whole = kept ? kept + row * kPanel : formed;
    form_sums_of<kParts>(ceil_div(count, kRows), main, update, is_first ? whole : formed, beside);
    if (!is_first) add_sums(formed, count * kPanel, whole);
    if (!is_last) continue;
    Ending<T>::some(beside.ending, kTileRows);  // what a short inner dimension has left
    const int64_t column = panel * kPanel;
    Ending<T>& ending = beside.ending;
    ending.end = &end;
    ending.sums = whole, ending.row = rows.first + row, ending.rows = count;
    ending.column = column, ending.columns = op.width - column < kPanel ? op.width - column : kPanel;
  }
}

template <int kParts, typename T>
void one_run(Rows<kParts, T>& rows, int64_t run, const Ends<T>& ends) {
  const Cut& cut = rows.cut;
  const int64_t first = run * cut.run, last = first + cut.run < cut.of_half ? first + cut.run : cut.of_half;
  float* const sums = thread_scratch(kSumSlot, 2 * kTileRows * kPanel);
  const int64_t kept_size = cut.block_rows * kPanel;
  float* const kept =
      cut.has_one_range ? nullptr : thread_scratch(kKeptSlot, ends.count * cut.run * kept_size);
  Beside<T> beside;
  for (int64_t k = 0; k < rows.op.inner; k += cut.range) {
    rows.take_range(k);
    for (int64_t half = 0; half < ends.count; ++half) {
      for (int64_t panel = first; panel < last; ++panel) {
        float* const of_panel = kept ? kept + (half * cut.run + panel - first) * kept_size : nullptr;
        one_panel(rows, half * cut.of_half + panel, ends.half[half], of_panel, sums, beside);
      }
    }
  }
  Ending<T>::some(beside.ending, kTileRows);
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
void run_share(const PackedGemm<T>& op, const Cut& cut, const Number* up, const Ends<T>& ends,
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
      one_run(rows, run, ends);
    }
  }
  if (ends.half[1].is_streamed) _mm_sfence();
}

template <int kParts, typename T>
void product(const PackedGemm<T>& op) {
  if (op.rows == 0 || op.width == 0) return;
  const Cut cut = cut_of<kParts>(op);
  const Number* const up =
      op.num_updates > 0 ? UpdateForm<kParts>::pack_up(op, cut.panels, kUpSlot, kUpTileSlot) : nullptr;
  Ends<T> ends(op);
  ends.half[1].is_streamed = is_streamed(op);
  ends.half[0].is_streamed = ends.count == 1 && ends.half[1].is_streamed;  // a gate is read again at once
  int64_t next_runs[kMostBlocks];
  std::memset(next_runs, 0, sizeof(int64_t) * static_cast<size_t>(cut.blocks));
  ThreadErrors errors;
#pragma omp parallel if (op.rows * op.inner * op.width > kParallelProducts)
  errors.run([&] { run_share<kParts>(op, cut, up, ends, next_runs); });
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
