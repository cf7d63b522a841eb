#pragma once

// Panels of a matrix that is kept as quantised files hold it (QuantisedMatrix).
#include "kernels/cpu/gemm_panel.h"

namespace msplora::kernels::MSPLORA_ISA {

#define MSPLORA_MEMBER inline __attribute__((always_inline))

// Codes of kLanes columns as numbers.
MSPLORA_INLINE VecF code_values(const uint8_t* codes) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  return (VecF)_mm512_maskz_cvtepi32_ps(0xFFFF, _mm512_maskz_cvtepi8_epi32(0xFFFF, bytes));
#elif defined(__AVX2__)
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
  return (VecF)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
#else
  VecF v;
  for (int i = 0; i < kLanes; ++i) v[i] = static_cast<float>(static_cast<int8_t>(codes[i]));
  return v;
#endif
}

// What codes of four bits stand for, ready to be looked up.
struct CodeTable {
#if defined(__AVX512F__)
  VecF numbers;
#elif defined(__AVX2__)
  __m128i bytes;
#else
  const int8_t* values;
#endif

  MSPLORA_MEMBER explicit CodeTable(const int8_t* table) {
#if defined(__AVX512F__)
    numbers = code_values(reinterpret_cast<const uint8_t*>(table));
#elif defined(__AVX2__)
    bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
#else
    values = table;
#endif
  }
};

// Two rows of kLanes columns whose codes have four bits.
MSPLORA_INLINE void pair_values(const uint8_t* codes, const CodeTable& table, VecF& low, VecF& high) {
#if defined(__AVX512F__)  // of an index, the permutation looks at four bits alone
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  const __m512i pairs = _mm512_maskz_cvtepu8_epi32(0xFFFF, bytes);
  const __m512i second = _mm512_maskz_srli_epi32(0xFFFF, pairs, 4);
  low = (VecF)_mm512_maskz_permutexvar_ps(0xFFFF, pairs, (__m512)table.numbers);
  high = (VecF)_mm512_maskz_permutexvar_ps(0xFFFF, second, (__m512)table.numbers);
#elif defined(__AVX2__)
  const __m128i pairs = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)), half = _mm_set1_epi8(15);
  const __m128i first = _mm_shuffle_epi8(table.bytes, _mm_and_si128(pairs, half)),
                second = _mm_shuffle_epi8(table.bytes, _mm_and_si128(_mm_srli_epi16(pairs, 4), half));
  low = (VecF)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(first));
  high = (VecF)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(second));
#else
  for (int i = 0; i < kLanes; ++i) {
    low[i] = static_cast<float>(table.values[codes[i] & 15]);
    high[i] = static_cast<float>(table.values[codes[i] >> 4]);
  }
#endif
}

// Rows k and k + 1 of kLanes columns from `column` on, into a panel whose row k is `to`.
template <typename T>
MSPLORA_INLINE void store_two_rows(T* to, int64_t column, VecF first, VecF second) {
#if defined(__AVX512BF16__)
  if constexpr (kStep<T> == 2) {  // the numbers of a column side by side
    static_assert(kLanes == 16);
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23,
                                           7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    _mm512_storeu_si512(to + 2 * column, _mm512_maskz_permutexvar_epi16(~0U, order, both));
    return;
  }
#endif
  store(to + column, first);
  store(to + kPanel + column, second);
}

// What the codes of a run of rows are multiplied with, and what is then subtracted.
struct RunFactors {
  VecF scale[kVectors], low[kVectors];

  MSPLORA_MEMBER void read(const QuantisedMatrix& m, int64_t panel, int64_t row) {
    const int64_t run = (panel * (m.inner / m.run) + row / m.run) * kPanel,
                  block = (panel * (m.inner / m.block) + row / m.block) * kPanel;
    for (int j = 0; j < kVectors; ++j) {
      const int64_t at = j * kLanes;
      scale[j] = load(m.scales + block + at);
      low[j] = m.low_scales ? load(m.low_scales + block + at) : VecF{};
      if (m.factors) scale[j] *= code_values(reinterpret_cast<const uint8_t*>(m.factors) + run + at);
      if (m.low_factors) low[j] *= code_values(m.low_factors + run + at);  // below 128
    }
  }
};

// Rows of a panel from an even one on, two by two.
template <bool kFourBits>
class CodeRows {
 public:
  MSPLORA_MEMBER CodeRows(const QuantisedMatrix& m, int64_t panel, int64_t first)
      : m_(m),
        panel_(panel),
        row_(first),
        codes_(m.codes + (panel * m.inner + first) / 2 * kTwoRows),
        table_(kFourBits ? m.values : kNoValues) {}

  // The next two rows, as a panel has them.
  template <typename T>
  MSPLORA_MEMBER void next(T* to) {
    if (row_ >= end_of_run_) {
      factors_.read(m_, panel_, row_);
      end_of_run_ = (row_ / m_.run + 1) * m_.run;
    }
    __builtin_prefetch(codes_ + kCodesAhead);
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) {
      VecF one, two;
      if constexpr (kFourBits) {
        pair_values(codes_ + j * kLanes, table_, one, two);
      } else {
        one = code_values(codes_ + j * kLanes);
        two = code_values(codes_ + kPanel + j * kLanes);
      }
      store_two_rows(to, j * kLanes, one * factors_.scale[j] - factors_.low[j],
                     two * factors_.scale[j] - factors_.low[j]);
    }
    codes_ += kTwoRows;
    row_ += 2;
  }

 private:
  static constexpr int64_t kTwoRows = kFourBits ? kPanel : 2 * kPanel;  // bytes
  static constexpr int64_t kCodesAhead = 2 << 10;
  static constexpr int8_t kNoValues[16] = {};

  const QuantisedMatrix& m_;
  int64_t panel_, row_, end_of_run_ = 0;
  const uint8_t* codes_;
  CodeTable table_;
  RunFactors factors_;
};

// Rows [first, last) of a panel, both even.
template <bool kFourBits, typename T>
void fill_from_codes(const QuantisedMatrix& m, int64_t panel, int64_t first, int64_t last, T* to) {
  CodeRows<kFourBits> rows(m, panel, first);
  for (int64_t k = first; k < last; k += 2, to += 2 * kPanel) rows.next(to);
}
template <typename T>
void fill_from_codes(const QuantisedMatrix& m, int64_t panel, int64_t first, int64_t last, T* to) {
  if (m.values) return fill_from_codes<true>(m, panel, first, last, to);
  fill_from_codes<false>(m, panel, first, last, to);
}

// Rows [first, first + rows) of the panel of columns from `column` on of W, where `m` is its transpose: whole
// panels of it, each in turn. Rows beyond W are zero.
template <typename T>
void fill_from_transposed_codes(const QuantisedMatrix& m, int64_t column, int64_t first, int64_t rows,
                                T* to) {
  T square[kPanel * kPanel];
  const int64_t left = m.inner - column, columns = left < kPanel ? left : kPanel;
  for (int64_t j = first; j < first + rows; j += kPanel, to += kPanel * kPanel) {
    if (j < m.width) fill_from_codes(m, j / kPanel, column, column + columns, square);
    fill_from_transposed(square, m.width - j, columns, 0, 0, kPanel, to);
  }
}

}  // namespace msplora::kernels::MSPLORA_ISA
