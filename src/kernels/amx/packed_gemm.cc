// y = x W on tiles (AMX): 48 x 32 sums in six of them, x and W through the other two; of parts 32 x 32 in
// four. Rows of x are taken in blocks, which are brought into the order of tiles in the second-level cache,
// floats while the block before is multiplied; panels of W come by. That cache feeds half of what the units
// multiply: a panel is used in passes over a few steps of the inner dimension, which the first-level cache
// holds for a group of rows while x is read past it, as it holds their sums: stores to the second level would
// take thrice as long as loads. Sums of a group become y in small parts while those of the next are formed:
// conversion and stores would take as long as a fifth of the products. y is written in whole lines that are
// not read before, pairs of them where two panels of W fit.
#include <omp.h>

#include "kernels/amx/product_steps.h"
#include "kernels/amx/vector_kernels.h"
#include "kernels/cpu/quantised_panel.h"

namespace msplora::kernels::amx {
namespace {

constexpr int64_t kBlockBytes = 912 << 10;  // of x in the second-level cache
constexpr int64_t kMostBlockRows = 960;
template <int kParts>
constexpr int64_t kGroupRows = 2 * kSumRows<kParts>;  // whose sums are in the first-level cache
template <int kParts>
constexpr int64_t kMostGroupRows = kGroupRows<kParts> + kSumRows<kParts>;
constexpr int64_t kPairedBytes = 64 << 10;      // of a panel, at most
constexpr int64_t kLongestInner = 3072;         // in one range
constexpr int64_t kLongRange = 1152;            // of several, whose sums are kept
constexpr int64_t kRowsOfRanges = 288;          // of a block of several: W is read once for each
constexpr int64_t kSumBytes = 1 << 20;          // kept by a task, at most
constexpr int64_t kRunsOfABlock = 8;            // which threads share when others are done
constexpr int64_t kStreamedBytes = 1 << 20;     // of y, from which on it would leave the caches unread
constexpr int64_t kParallelProducts = 1 << 18;  // of two numbers: below, a region costs more than it saves
constexpr int64_t kMostBlocks = 4096;           // more rows are larger blocks

constexpr int kXSlot = 0, kZSlot = 1, kTurnedSlot = 2, kSumSlot = 3, kUpSlot = 4, kUpTileSlot = 5,
              kHeldSlot = 6;

// ---- How a product is cut

// A task is a block of rows and a run of panels, in a gated product the same run of both halves.
struct Cut {
  int64_t range;  // of the inner dimension, the same for any number of rows: all add in one order
  int64_t block_rows, blocks, panels, of_half, pair, run, runs;
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
  int64_t largest = kBlockBytes / (cut.range * kParts * static_cast<int64_t>(sizeof(Number))) /
                    kSumRows<kParts> * kSumRows<kParts>;
  if (!cut.has_one_range) largest = kRowsOfRanges;
  if (largest < kSumRows<kParts>) largest = kSumRows<kParts>;
  if (largest > kMostBlockRows) largest = kMostBlockRows;
  cut.blocks = ceil_div(op.rows, largest);
  if (cut.blocks > kMostBlocks) cut.blocks = kMostBlocks;
  cut.block_rows = ceil_div(ceil_div(op.rows, cut.blocks), kSumRows<kParts>) * kSumRows<kParts>;
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
  const int64_t half_panels = op.gated_width > 0 ? 2 : 1;
  cut.pair = half_panels * cut.range * kPanel * kParts * static_cast<int64_t>(sizeof(Number)) <= kPairedBytes
                 ? kPair
                 : 1;
  cut.run = ceil_div(cut.run, cut.pair) * cut.pair;
  cut.runs = ceil_div(cut.of_half, cut.run);
  return cut;
}

// ---- Tasks

// A block of rows, and where a range of the inner dimension begins; or none.
struct Piece {
  int64_t block = -1, k = -1;

  bool operator==(const Piece&) const = default;
};

// What a thread has in the order of tiles: a piece of x at hand, and one that it brings meanwhile.
template <int kParts, typename T>
struct Rows {
  using Update = UpdateForm<kParts>;
  const PackedGemm<T>& op;
  const Cut& cut;
  const Number* up;  // as pack_up has it; null: no updates
  Piece here{}, coming{};
  Number *x = nullptr, *coming_x = nullptr, *z = nullptr;

  int64_t first_of(const Piece& piece) const { return piece.block * cut.block_rows; }
  int64_t count_of(const Piece& piece) const {
    const int64_t left = op.rows - first_of(piece);
    return left < cut.block_rows ? left : cut.block_rows;
  }
  int64_t inner_of(const Piece& piece) const {
    const int64_t left = op.inner - piece.k;
    return left < cut.range ? left : cut.range;
  }
  int64_t first() const { return first_of(here); }
  int64_t count() const { return count_of(here); }
  int64_t inner() const { return inner_of(here); }
  bool is_last_range() const { return here.k + inner() == op.inner; }

  Packing<kParts, T> packing_of(const Piece& piece, Number* to) const {
    return {op.x + first_of(piece) * op.inner + piece.k, op.inner, count_of(piece), inner_of(piece), to};
  }

  void take_memory() {
    const int64_t words = cut.block_rows * cut.range * kParts / 2;
    x = reinterpret_cast<Number*>(thread_scratch(kXSlot, kPacksBeside<kParts> ? 2 * words : words));
    if (kPacksBeside<kParts>) coming_x = x + 2 * words;
    if (up)
      z = reinterpret_cast<Number*>(
          thread_scratch(kZSlot, cut.block_rows * Update::steps(op.rank) * kInner / 2));
  }
  void take(const Piece& piece, Packing<kParts, T>& packing) {
    if (piece == here) return;
    if (piece == coming) {
      packing.rest();
      std::swap(x, coming_x);
      coming = {};
    } else {
      packing_of(piece, x).rest();
    }
    if (up && piece.block != here.block)
      Update::pack_z(op.z + first_of(piece) * op.rank, op.rank, count_of(piece), z);
    here = piece;
  }
  void expect(const Piece& piece, Packing<kParts, T>& packing) {
    if (!kPacksBeside<kParts> || piece == Piece{} || piece == here || piece == coming) return;
    coming = piece;
    packing = packing_of(piece, coming_x);
  }

  bool forms_panels() const { return op.is_transposed || op.quantised != nullptr; }
  // Formed ones lie in scratch, until the next one of their place.
  const Number* panel(int64_t at, int64_t place) const {
    const int64_t begin = (at * whole_steps<Number>(op.inner) + here.k) * kPanel * kParts;
    if (!forms_panels()) return reinterpret_cast<const Number*>(op.packed) + begin;
    const int64_t numbers = cut.range * kPanel;
    auto* const turned =
        reinterpret_cast<Number*>(thread_scratch(kTurnedSlot, kPair * cut.halves() * numbers / 2)) +
        place * numbers;
    const int64_t column = at * kPanel, k = here.k, whole = whole_steps<Number>(inner());
    if (op.quantised == nullptr) {
      fill_from_transposed(reinterpret_cast<const Number*>(op.packed), op.inner, op.width, column, k, whole,
                           turned);
    } else if (op.is_transposed) {
      fill_from_transposed_codes(*op.quantised, column, k, whole, turned);
    } else {
      fill_from_codes(*op.quantised, at, k, k + inner(), turned);
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

// Where the sums of a panel and some of the rows that are there lie.
struct Sums {
  float* first;  // of row `origin`
  int64_t origin;

  float* of(int64_t row) const { return first + (row - origin) * kPanel; }
};

// A group of rows times the range of a panel.
template <int kParts, typename T>
void one_group(const Rows<kParts, T>& rows, int64_t panel, const Number* w, int64_t first_row,
               int64_t row_end, const Sums& to, Beside<kParts, T>& beside) {
  const int64_t steps = ceil_div(rows.inner(), kInner), stride = steps * kParts * kTileInner;
  const int64_t passes = ceil_div(steps, kStepsOfAPass[kParts]);
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = pass * steps / passes, count = (pass + 1) * steps / passes - first;
    const bool is_first = rows.here.k + first == 0;
    const bool is_last = pass + 1 == passes && rows.is_last_range();
    for (int64_t row = first_row; row < row_end; row += kSumRows<kParts>) {
      const int64_t tiles = ceil_div(row_end - row, kRows), tile = row / kRows;
      const Factors main{rows.x + tile * stride + first * kParts * kTileInner, stride,
                         w + first * kParts * kStepOfPanel, count};
      const Factors update = is_last ? rows.update(panel, tile) : Factors{nullptr, 0, nullptr, 0};
      float* const sums = to.of(row);
      form_sums_of<kParts>(tiles, main, update, is_first ? nullptr : sums, sums, beside);
    }
  }
}

// What the endings of a pair of panels read of each row: lines of factor, in both halves of it, or of what
// they add to.
template <int kParts, typename T>
void foresee(const End<T>& end, int64_t first, int64_t rows, int64_t column, int64_t panels,
             Beside<kParts, T>& beside) {
  const PackedGemm<T>& op = end.op;
  constexpr auto kElement = static_cast<int64_t>(sizeof(T));
  const auto set = [&](int i, const T* array, int64_t width, int64_t at) {
    const char* const from = reinterpret_cast<const char*>(array + first * width + at);
    const int64_t stride = width * kElement;
    beside.operands[i] = {from, from + (rows - 1) * stride, stride, panels * kPanel * kElement / 64};
  };
  if (op.half_width > 0) {
    set(0, op.factor, 2 * op.half_width, column);
    set(1, op.factor, 2 * op.half_width, op.half_width + column);
  } else {
    if (op.factor) set(0, op.factor, op.width, column);
    if (op.add) set(op.factor ? 1 : 0, op.y, op.width, column);
    if (!op.factor || !op.add) beside.operands[1] = beside.operands[0];
  }
}

// Begins to bring a panel.
template <int kParts, typename T>
void look_ahead(const Rows<kParts, T>& rows, int64_t panel, int64_t place, Beside<kParts, T>& beside) {
  const int64_t steps = ceil_div(rows.inner(), kInner);
  const int64_t bytes = steps * kStepOfPanel * kParts * static_cast<int64_t>(sizeof(Number));
  const char* const lines = reinterpret_cast<const char*>(rows.panel(panel, place));
  beside.ahead[place] = {lines, lines + bytes - Ahead::kBytes};
}

// A pair of panels, or one, of each half, which a block of rows is multiplied by.
template <int kParts, typename T>
struct PairOfPanels {
  const Rows<kParts, T>& rows;
  const End<T>& end;
  int64_t first, count;  // panels of a half
  float* sums;           // where x comes in ranges those of all rows, else of two groups in turn
  Beside<kParts, T>& beside;

  int64_t halves() const { return rows.cut.halves(); }
  int64_t panel(int64_t place) const {
    return place % halves() * rows.cut.of_half + first + place / halves();
  }
  int64_t column(int64_t place) const { return panel(place) * kPanel; }

  Sums sums_of(int64_t place, int64_t group) const {
    if (!rows.cut.has_one_range) return {sums + place * rows.cut.block_rows * kPanel, 0};
    const int64_t buffer = beside.turn * halves() + place % halves();
    return {sums + buffer * kMostGroupRows<kParts> * kPanel, group * kGroupRows<kParts>};
  }

  // The sums of a panel, and those of its gate, wait for their ending.
  void finish(int64_t place, int64_t group, int64_t row, int64_t row_end) const {
    Ending<T>::rest(beside.ending);
    const int64_t left = end.op.width - column(place);
    Lines lines;
    if (end.is_streamed) lines.leaving = Leaving::kStreamed;
    if (end.is_streamed && std::is_same_v<T, Bfloat16> && count == kPair)
      lines.leaving = place < halves() ? Leaving::kHeld : Leaving::kPaired;
    lines.held = reinterpret_cast<Bfloat16*>(
        thread_scratch(kHeldSlot, kMostGroupRows<kParts> * Lines::kMost * kPanel / 2));
    beside.ending = {&end,
                     sums_of(place, group).of(row),
                     halves() > 1 ? sums_of(place - 1, group).of(row) : nullptr,
                     rows.first() + row,
                     row_end - row,
                     column(place),
                     left < kPanel ? left : kPanel,
                     lines};
    beside.turn = 1 - beside.turn;
  }

  // How much of what is done beside falls to steps in a row.
  void share_out(int64_t panels_left) const {
    const int64_t all = ceil_div(rows.inner(), kInner), in_a_row = kStepsInARow[kParts];
    const int64_t turns = all < in_a_row ? 1 : all / in_a_row;  // of a panel and kSumRows
    beside.endings = ceil_div(kSumRows<kParts> / kStepRows, halves() * turns);
    beside.rows = rows.is_last_range() && (end.op.factor || end.op.add)
                      ? ceil_div(kSumRows<kParts>, count * halves() * turns)
                      : 0;
    const bool has_next = first + rows.cut.pair < rows.cut.of_half;
    const int64_t fetches =
        all * kStepOfPanel * kParts * static_cast<int64_t>(sizeof(Number)) / Ahead::kBytes;
    beside.fetches = has_next && !rows.forms_panels()
                         ? ceil_div(fetches, ceil_div(rows.count(), kSumRows<kParts>) * turns)
                         : 0;
    if (!kPacksBeside<kParts>) return;
    const int64_t pairs = ceil_div(panels_left, rows.cut.pair);
    beside.packed = ceil_div(beside.packing.left(),
                             pairs * count * halves() * ceil_div(rows.count(), kSumRows<kParts>) * turns);
  }

  // `panels_left`: of a half, these and those after them until other rows are taken.
  void multiply(int64_t panels_left) const {
    const Number* w[2 * kPair];
    const int64_t places = count * halves();
    for (int64_t place = 0; place < places; ++place) {
      w[place] = rows.panel(panel(place), place);
      if (!rows.forms_panels() && first + rows.cut.pair + place / halves() < rows.cut.of_half)
        look_ahead(rows, panel(place) + rows.cut.pair, place, beside);
    }
    share_out(panels_left);
    for (int64_t row = 0, row_end = 0, group = 0; row < rows.count(); row = row_end, ++group) {
      row_end = rows.count() - row <= kMostGroupRows<kParts> ? rows.count() : row + kGroupRows<kParts>;
      if (rows.is_last_range())
        foresee(end, rows.first() + row, row_end - row, column(halves() - 1), count, beside);
      for (int64_t place = 0; place < places; ++place) {
        beside.place = place;
        one_group(rows, panel(place), w[place], row, row_end, sums_of(place, group), beside);
        if (rows.is_last_range() && place % halves() == halves() - 1) finish(place, group, row, row_end);
      }
    }
  }
};

// `next`: where the thread is likely to go on.
template <int kParts, typename T>
void one_run(Rows<kParts, T>& rows, int64_t block, int64_t run, const Piece& next, const End<T>& end,
             Beside<kParts, T>& beside) {
  const Cut& cut = rows.cut;
  const int64_t first = run * cut.run, last = first + cut.run < cut.of_half ? first + cut.run : cut.of_half;
  const int64_t size = cut.halves() * kPanel * (cut.has_one_range ? kMostGroupRows<kParts> : cut.block_rows);
  float* const sums = thread_scratch(kSumSlot, (cut.has_one_range ? 2 : cut.run) * size);
  for (int64_t k = 0; k < rows.op.inner; k += cut.range) {
    rows.take({block, k}, beside.packing);
    rows.expect(k + cut.range < rows.op.inner ? Piece{block, k + cut.range} : next, beside.packing);
    for (int64_t panel = first; panel < last; panel += cut.pair) {
      const int64_t count = last - panel < cut.pair ? last - panel : cut.pair;
      float* const of_pair = cut.has_one_range ? sums : sums + (panel - first) * size;
      PairOfPanels<kParts, T>{rows, end, panel, count, of_pair, beside}.multiply(
          (cut.has_one_range ? cut.of_half : last) - panel);
    }
  }
  Ending<T>::rest(beside.ending);
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
void run_share(const PackedGemm<T>& op, const Cut& cut, const Number* up, const End<T>& end,
               int64_t* next_runs) {
  const int64_t own = omp_get_thread_num() * cut.blocks / omp_get_num_threads();
  const Tiles tiles;
  Rows<kParts, T> rows{op, cut, up};
  rows.take_memory();
  Beside<kParts, T> beside;
  const auto has_begun = [&](int64_t block) {
    return __atomic_load_n(next_runs + block, __ATOMIC_RELAXED) > 0;
  };
  for (int64_t i = 0; i < cut.blocks; ++i) {
    const int64_t block = (own + i) % cut.blocks, after = (block + 1) % cut.blocks;
    for (int64_t run; (run = __atomic_fetch_add(next_runs + block, 1, __ATOMIC_RELAXED)) < cut.runs;) {
      const bool is_over = cut.has_one_range || run + 1 == cut.runs;
      const Piece next = !is_over ? Piece{block, 0} : has_begun(after) ? Piece{} : Piece{after, 0};
      one_run(rows, block, run, next, end, beside);
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
  const End<T> end(op, is_streamed(op));
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
