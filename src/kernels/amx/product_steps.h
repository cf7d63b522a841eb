#pragma once

// The loops of packed products on tiles over steps of the inner dimension, and what they do beside: ending
// the sums before, and bringing what comes next.
#include "kernels/amx/operands.h"
#include "kernels/cpu/gemm_finish.h"

namespace msplora::kernels::amx {
namespace {

// By parts. Numbers make 48 x 32 sums of six tiles: most products for what the second-level cache can bring
// of x. Parts make 32 x 32 of four, as two operands of two tiles give four products each time one of them is
// exchanged.
constexpr int kTilesDown[] = {0, 3, 2, 2};
template <int kParts>
constexpr int64_t kSumRows = kTilesDown[kParts] * kRows;
// Of W in the first-level cache, which x passes by. Tiles must not go unstored for more than 0.7 us: the next
// store would then wait 0.3 us, as if the unit for it had fallen asleep.
constexpr int64_t kStepsOfAPass[] = {0, 12, 8, 4};
constexpr int kStepsInARow[] = {0, 4, 2, 1};  // without a branch between them
// Whether the rows that come next are brought into the order of tiles beside products: numbers would take
// more of the second-level cache's time than is left of it.
template <int kParts>
constexpr bool kPacksBeside = kParts > 1;
constexpr int64_t kPair = 2;  // panels whose rows leave together: pairs of lines move twice as fast

// Rows of an array that are read or written in a while: the lines of a pair of panels, a row at a time.
struct RowsAhead {
  const char *at = nullptr, *last = nullptr;
  int64_t stride = 0, lines = 0;

  MSPLORA_INLINE void fetch(RowsAhead& ahead) {
    __builtin_prefetch(ahead.at, 0, 2);
    __builtin_prefetch(ahead.at + 64 * (ahead.lines - 1), 0, 2);
    ahead.at = ahead.at < ahead.last ? ahead.at + ahead.stride : ahead.at;
  }
};

// What is read next, a few lines at a time.
struct Ahead {
  static constexpr int64_t kBytes = 256;
  const char *at = nullptr, *last = nullptr;

  MSPLORA_INLINE void fetch(Ahead& ahead) {
    for (int64_t at = 0; at < kBytes; at += 64) __builtin_prefetch(ahead.at + at, 0, 2);
    ahead.at = ahead.at < ahead.last ? ahead.at + kBytes : ahead.at;
  }
};

// How sums become y: any rows, or kStepRows of a whole panel.
template <typename T>
struct End {
  PackedGemm<T> op;
  Finish<T> finish, step;
  bool is_streamed;

  End(const PackedGemm<T>& of, bool streams)
      : op(of), finish(finish_of(of)), step(finish_of<kStepRows>(of)), is_streamed(streams) {}
};

// Sums that wait to become y.
template <typename T>
struct Ending {
  const End<T>* end = nullptr;
  const float *sums = nullptr, *gates = nullptr;
  int64_t row = 0, rows = 0, column = 0, columns = 0;
  Lines lines;

  MSPLORA_INLINE void advance(Ending& ending, int64_t count) {
    ending.sums += count * kPanel;
    ending.gates = ending.gates ? ending.gates + count * kPanel : nullptr;
    ending.lines.held += count * Lines::kMost * kPanel;
    ending.row += count;
    ending.rows -= count;
  }
  MSPLORA_INLINE void some(Ending& ending) {
    if (ending.rows < kStepRows || ending.columns < kPanel) return;
    ending.end->step(ending.end->op, ending.sums, ending.gates, ending.row, kStepRows, ending.column, kPanel,
                     ending.lines);
    advance(ending, kStepRows);
  }
  static void rest(Ending& ending) {
    if (ending.rows == 0) return;
    ending.end->finish(ending.end->op, ending.sums, ending.gates, ending.row, ending.rows, ending.column,
                       ending.columns, ending.lines);
    ending.rows = 0;
  }
};

// What the loop over the inner dimension does beside: the ending of the rows before, and bringing what the
// next panels and the endings of these will read. As few branches as can be: a loop of a few steps whose end
// is not foreseen costs as much as one of them.
template <int kParts, typename T>
struct Beside {
  Ending<T> ending;
  Packing<kParts, T> packing;   // of the rows that come next
  Ahead ahead[2 * kPair];       // the panel that takes the place of each
  int64_t place = 0, turn = 0;  // the panel at hand; of two buffers that of its sums
  RowsAhead operands[2];
  // In as many steps as are written out in a row.
  int64_t endings = 0, fetches = 0, rows = 0, packed = 0;

  // What falls to the one of these steps that is number kStep of kSteps.
  template <int kStep, int kSteps>
  MSPLORA_INLINE void end(Beside& beside) {
    for (int64_t i = kStep; i < beside.endings; i += kSteps) Ending<T>::some(beside.ending);
  }
  template <int kStep, int kSteps>
  MSPLORA_INLINE void bring(Beside& beside) {
    for (int64_t i = kStep; i < beside.fetches; i += kSteps) Ahead::fetch(beside.ahead[beside.place]);
    for (int64_t i = kStep; i < beside.rows; i += kSteps)
      RowsAhead::fetch(beside.operands[0]), RowsAhead::fetch(beside.operands[1]);
    if constexpr (kPacksBeside<kParts>)
      for (int64_t i = kStep; i < beside.packed; i += kSteps) Packing<kParts, T>::some(beside.packing);
  }
};

// Sums 2 kRow and 2 kRow + 1 += 16 rows of x by a panel, of one step of numbers. W is read from the
// first-level cache, which x passes by, as each of its tiles is read once for a panel. Odd rows take the
// columns backwards: the tile of W is there.
template <int kRow>
MSPLORA_INLINE void add_row(const Number* x, const Number* w) {
  constexpr int kFirst = kRow % 2, kThen = 1 - kFirst;
  pass_tile<7>(x, kRowBytes);
  if constexpr (kRow == 0) load_tile<6>(w + kFirst * kInner, kPanel * 4);
  multiply_tiles<2 * kRow + kFirst, 7, 6>();
  load_tile<6>(w + kThen * kInner, kPanel * 4);
  multiply_tiles<2 * kRow + kThen, 7, 6>();
}

// Sums 0 to 3 += 32 rows of x, or sums 0 and 1 += 16, by a panel: the meetings from number kAt until kEnd of
// one step of parts.
template <int kTiles, int kParts, int kAt, int kEnd>
MSPLORA_INLINE void add_meetings(const Number* x, int64_t row_stride, const Number* w) {
  using Meet = Meeting<kParts>;
  if constexpr (kAt < kEnd) {
    constexpr int kLeft = Meet::kLeft[kAt], kRight = Meet::kRight[kAt], kBefore = kAt > 0 ? kAt - 1 : 0;
    if constexpr (kAt == 0 || kRight != Meet::kRight[kBefore]) {
      load_tile<6>(w + kRight * kStepOfPanel, kPanel * 4);
      load_tile<7>(w + kRight * kStepOfPanel + kInner, kPanel * 4);
    }
    if constexpr (kAt == 0 || kLeft != Meet::kLeft[kBefore]) {
      pass_tile<4>(x + kLeft * kTileInner, kRowBytes);
      if constexpr (kTiles > 1) pass_tile<5>(x + row_stride + kLeft * kTileInner, kRowBytes);
    }
    multiply_tiles<0, 4, 6>(), multiply_tiles<1, 4, 7>();
    if constexpr (kTiles > 1) multiply_tiles<2, 5, 6>(), multiply_tiles<3, 5, 7>();
    add_meetings<kTiles, kParts, kAt + 1, kEnd>(x, row_stride, w);
  }
}

// One step in two parts, between which there is room.
template <int kTiles, int kParts>
MSPLORA_INLINE void begin_step(const Number* x, int64_t row_stride, const Number* w) {
  if constexpr (kParts == 1) {
    add_row<0>(x, w);
  } else {
    add_meetings<kTiles, kParts, 0, Meeting<kParts>::kCount / 2>(x, row_stride, w);
  }
}
template <int kTiles, int kParts>
MSPLORA_INLINE void end_step(const Number* x, int64_t row_stride, const Number* w) {
  if constexpr (kParts == 1) {
    if constexpr (kTiles > 1) add_row<1>(x + row_stride, w);
    if constexpr (kTiles > 2) add_row<2>(x + 2 * row_stride, w);
  } else {
    using Meet = Meeting<kParts>;
    add_meetings<kTiles, kParts, Meet::kCount / 2, Meet::kCount>(x, row_stride, w);
  }
}

struct Factors {
  const Number* x;     // tiles of rows
  int64_t row_stride;  // numbers from 16 rows to the next
  const Number* w;     // of a panel
  int64_t steps;

  template <int kParts>
  __attribute__((always_inline)) void advance(int64_t by) {
    x += by * kParts * kTileInner, w += by * kParts * kStepOfPanel, steps -= by;
  }
};

// Steps from number kStep on of those that are written out, and what is done beside.
template <int kTiles, int kParts, int kStep, typename T>
MSPLORA_INLINE void add_steps(const Factors& f, Beside<kParts, T>& beside) {
  constexpr int kSteps = kStepsInARow[kParts];
  if constexpr (kStep < kSteps) {
    const Number *const x = f.x + kStep * kParts * kTileInner, *const w = f.w + kStep * kParts * kStepOfPanel;
    begin_step<kTiles, kParts>(x, f.row_stride, w);
    Beside<kParts, T>::template end<kStep, kSteps>(beside);
    end_step<kTiles, kParts>(x, f.row_stride, w);
    Beside<kParts, T>::template bring<kStep, kSteps>(beside);
    add_steps<kTiles, kParts, kStep + 1>(f, beside);
  }
}

// Few steps, beside which nothing is done.
template <int kTiles, int kParts>
MSPLORA_INLINE void add_few(Factors f) {
  for (; f.steps > 0; f.advance<kParts>(1)) {
    begin_step<kTiles, kParts>(f.x, f.row_stride, f.w);
    end_step<kTiles, kParts>(f.x, f.row_stride, f.w);
  }
}

template <int kTiles, int kParts, typename T>
MSPLORA_INLINE void add_product(Factors f, Beside<kParts, T>& beside) {
  constexpr int kSteps = kStepsInARow[kParts];
  for (; f.steps >= kSteps; f.advance<kParts>(kSteps)) add_steps<kTiles, kParts, 0>(f, beside);
  add_few<kTiles, kParts>(f);
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
void form_sums(const Factors& main, const Factors& update, const float* from, float* to,
               Beside<kParts, T>& beside) {
  take_sums<kTiles>(from);
  add_product<kTiles, kParts>(main, beside);
  add_few<kTiles, 1>(update);
  put_sums<kTiles>(to);
}

// The same for all tiles that sums are formed of together, or as many as there are.
template <int kParts, typename T>
void form_sums_of(int64_t tiles, const Factors& main, const Factors& update, const float* from, float* to,
                  Beside<kParts, T>& beside) {
  constexpr int kMost = kTilesDown[kParts];
  if (tiles >= kMost) return form_sums<kMost, kParts>(main, update, from, to, beside);
  if constexpr (kMost > 2)
    if (tiles == 2) return form_sums<2, kParts>(main, update, from, to, beside);
  form_sums<1, kParts>(main, update, from, to, beside);
}

}  // namespace
}  // namespace msplora::kernels::amx
