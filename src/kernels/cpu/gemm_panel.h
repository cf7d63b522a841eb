#pragma once

// The layout of a matrix for packed products: panels of kPanel columns, one after the other, each row by row;
// with pair products two rows at a time, the pairs of a column side by side.
#include <type_traits>

#include "kernels/cpu/simd.h"

namespace msplora::kernels::MSPLORA_ISA {

#if defined(MSPLORA_ISA_amx)
inline constexpr int kVectors = 2;  // tiles side by side
#elif defined(MSPLORA_ISA_avx512) || defined(MSPLORA_ISA_avx512bf16)
inline constexpr int kTileRows = 8, kVectors = 3;  // 24 of 32 registers hold sums
#else
inline constexpr int kTileRows = 6, kVectors = 2;  // 12 of 16
#endif
inline constexpr int kPanel = kVectors * kLanes;

// Rows that one step of the innermost loop takes.
#if defined(__AVX512BF16__)
template <typename T>
inline constexpr int kStep = std::is_same_v<T, Bfloat16> ? 2 : 1;
#else
template <typename T>
inline constexpr int kStep = 1;
#endif

// Rows are filled up with zeros to a multiple of this.
#if defined(MSPLORA_ISA_amx)
template <typename T>
inline constexpr int kDepth = std::is_same_v<T, Bfloat16> ? 32 : 1;
#else
template <typename T>
inline constexpr int kDepth = kStep<T>;
#endif

inline int64_t ceil_div(int64_t n, int64_t d) {
  return (n + d - 1) / d;
}

template <typename T>
int64_t whole_steps(int64_t rows) {
  return ceil_div(rows, kDepth<T>) * kDepth<T>;
}

// Squares of kSide values are turned in registers.
inline constexpr int kSide = 8;
typedef uint16_t Halves __attribute__((vector_size(kSide * 2)));
typedef uint32_t Words __attribute__((vector_size(kSide * 4)));

// Vectors are not returned: without AVX that is another ABI.
template <typename V>
MSPLORA_INLINE void load_row(const void* from, V& to) {
  __builtin_memcpy(&to, from, sizeof(to));
}

// Interleaving rows i and i + 4 turns the index (row, column) by one bit; three turns exchange its halves.
template <typename V>
MSPLORA_INLINE void transpose_square(V (&rows)[kSide]) {
  constexpr V low = {0, 8, 1, 9, 2, 10, 3, 11}, high = {4, 12, 5, 13, 6, 14, 7, 15};
  for (int turn = 0; turn < 3; ++turn) {
    V next[kSide];
    for (int i = 0; i < kSide / 2; ++i) {
      next[2 * i] = __builtin_shuffle(rows[i], rows[i + kSide / 2], low);
      next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + kSide / 2], high);
    }
    for (int i = 0; i < kSide; ++i) rows[i] = next[i];
  }
}

// Columns of the square whose rows begin `stride` bytes apart.
MSPLORA_INLINE void load_turned(const char* from, int64_t stride, Halves (&square)[kSide]) {
  for (int i = 0; i < kSide; ++i) load_row(from + i * stride, square[i]);
  transpose_square(square);
}
#if defined(__AVX2__)
// Words need shuffles inside of quarters alone where the halves of rows are loaded to their places.
MSPLORA_INLINE void load_turned(const char* from, int64_t stride, Words (&square)[kSide]) {
  for (int half = 0; half < 2; ++half) {
    __m256i rows[4];
    for (int i = 0; i < 4; ++i) {
      const char* at = from + i * stride + 16 * half;
      const auto quarter = [](const char* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); };
      rows[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(quarter(at)), quarter(at + 4 * stride), 1);
    }
    const __m256i a = _mm256_unpacklo_epi32(rows[0], rows[1]), b = _mm256_unpackhi_epi32(rows[0], rows[1]),
                  c = _mm256_unpacklo_epi32(rows[2], rows[3]), d = _mm256_unpackhi_epi32(rows[2], rows[3]);
    square[4 * half] = (Words)_mm256_unpacklo_epi64(a, c);
    square[4 * half + 1] = (Words)_mm256_unpackhi_epi64(a, c);
    square[4 * half + 2] = (Words)_mm256_unpacklo_epi64(b, d);
    square[4 * half + 3] = (Words)_mm256_unpackhi_epi64(b, d);
  }
}
#else
MSPLORA_INLINE void load_turned(const char* from, int64_t stride, Words (&square)[kSide]) {
  for (int i = 0; i < kSide; ++i) load_row(from + i * stride, square[i]);
  transpose_square(square);
}
#endif

// Stores a turned square: to[j, c] = square[j][c], with rows of kPanel.
template <typename T, typename V>
MSPLORA_INLINE void store_square(const V (&square)[kSide], T* to) {
  for (int j = 0; j < kSide; ++j) __builtin_memcpy(to + j * kPanel, &square[j], sizeof(V));
}

// The same for words that are pairs: rows 2 c and 2 c + 1 of columns j become rows j, j + 1 of columns 2 c
// and 2 c + 1.
MSPLORA_INLINE void store_pairs(const Words (&square)[kSide], uint32_t* to) {
  constexpr Words low = {0, 8, 1, 9, 2, 10, 3, 11}, high = {4, 12, 5, 13, 6, 14, 7, 15};
  for (int j = 0; j < kSide; j += 2) {
    const Words even = (square[j] & 0xffff) | (square[j + 1] << 16),
                odd = (square[j] >> 16) | (square[j + 1] & 0xffff0000);
    const Words first = __builtin_shuffle(even, odd, low), second = __builtin_shuffle(even, odd, high);
    __builtin_memcpy(to + j / 2 * kPanel, &first, sizeof(first));
    __builtin_memcpy(to + j / 2 * kPanel + kSide, &second, sizeof(second));
  }
}

// Words or halves that a panel is turned in, and rows that one of them spans.
template <typename T>
using TurnedUnit = std::conditional_t<sizeof(T) == 4 || kStep<T> == 2, Words, Halves>;
template <typename T>
inline constexpr int64_t kUnitBytes = static_cast<int64_t>(sizeof(TurnedUnit<T>)) / kSide;

// Where a panel of columns from `column` on of W [inner, width] lies in `packed`, which holds its transpose:
// rows in blocks of kPanel, each in one piece of kBlockSize bytes, `stride` apart.
template <typename T>
struct TurnedBlocks {
  static constexpr int64_t kBlockSize = kPanel * kPanel * static_cast<int64_t>(sizeof(T));
  const char* first;  // of the rows from 0 on
  int64_t stride;

  TurnedBlocks(const T* packed, int64_t width, int64_t column)
      : first(reinterpret_cast<const char*>(packed) + column / kStep<T> * kPanel * kUnitBytes<T>),
        stride(whole_steps<T>(width) / kStep<T> * kPanel * kUnitBytes<T>) {}
};

// Rows [first, first + rows) of the panel of columns from `column` on of W [inner, width], out of `packed`,
// which holds its transpose. `first` and `rows` are multiples of kPanel; rows from `inner` on are zero.
template <typename T>
void fill_from_transposed(const T* packed, int64_t inner, int64_t width, int64_t column, int64_t first,
                          int64_t rows, T* to) {
  using V = TurnedUnit<T>;
  // In units of V's elements: those of a column stand kPanel apart.
  const int64_t deep = ceil_div(width, kStep<T>), begin = column / kStep<T>;
  constexpr int64_t stride = kPanel * kUnitBytes<T>, kBlock = TurnedBlocks<T>::kBlockSize;
  const TurnedBlocks<T> blocks(packed, width, column);
  for (int64_t j = first; j < first + rows; j += kSide) {
    const char* block = blocks.first + j / kPanel * blocks.stride;
    // No hardware foresees the way to the next block.
    for (int64_t at = kBlock * (j % kPanel) / kPanel; at < kBlock * (j % kPanel + kSide) / kPanel; at += 64)
      __builtin_prefetch(block + blocks.stride + at, 0);
    const char* from = block + j % kPanel * kUnitBytes<T>;
    for (int64_t c = 0; c < kPanel / kStep<T>; c += kSide) {
      V square[kSide];
      if (j < inner && begin + c + kSide <= deep) {
        load_turned(from + c * stride, stride, square);
      } else {
        for (int64_t i = c; i < c + kSide; ++i) {
          square[i - c] = V{};
          if (j < inner && begin + i < deep) load_row(from + i * stride, square[i - c]);
        }
        transpose_square(square);
      }
      T* corner = to + (j - first) * kPanel;
      if constexpr (kStep<T> == 2) {
        store_pairs(square, reinterpret_cast<uint32_t*>(corner) + 2 * c);
      } else {
        store_square(square, corner + c);
      }
    }
  }
}

}  // namespace msplora::kernels::MSPLORA_ISA
