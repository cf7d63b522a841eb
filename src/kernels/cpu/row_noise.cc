#include "kernels/cpu/cpu_kernels.h"

namespace msplora::kernels::MSPLORA_ISA {
namespace {

constexpr int kBlock = 64;  // four words of sixteen counters

/// Two independent standard normals from two words each (Box-Muller); see RowNoise.
MSPLORA_INLINE void box_muller(const uint32_t* words_r, const uint32_t* words_a, float* first,
                               float* second) {
  constexpr float kUnit = 1.0f / 16777216.0f;  // 2^-24
  float radius[16];
  for (int i = 0; i < 16; i += kLanes) {
    VecU words;
    std::memcpy(&words, words_r + i, sizeof(words));
    const VecF uniform = __builtin_convertvector((VecI)(words >> 8) + 1, VecF) * kUnit;
    store(radius + i, log(uniform) * -2.0f);
  }
  for (int i = 0; i < 16; ++i) radius[i] = __builtin_sqrtf(radius[i]);
  for (int i = 0; i < 16; i += kLanes) {
    VecU words;
    std::memcpy(&words, words_a + i, sizeof(words));
    VecF sine, cosine;
    sin_cos_turns(__builtin_convertvector((VecI)(words >> 8), VecF) * kUnit, sine, cosine);
    const VecF r = load(radius + i);
    store(first + i, r * cosine);
    store(second + i, r * sine);
  }
}

MSPLORA_INLINE void normals(uint64_t key, uint64_t block, uint64_t row, float* numbers) {
  constexpr int kGroups = 16 / kWide;
  VecL c0[kGroups], c1[kGroups], c2[kGroups], c3[kGroups];
  philox_words<kGroups>(key, block * 16, row, c0, c1, c2, c3);
  const VecL* lanes[4] = {c0, c1, c2, c3};
  alignas(64) uint32_t words[4][16];
  for (int w = 0; w < 4; ++w) {
    for (int g = 0; g < kGroups; ++g) {
      const VecUHalf word = __builtin_convertvector(lanes[w][g], VecUHalf);
      std::memcpy(words[w] + g * kWide, &word, sizeof(word));
    }
  }
  box_muller(words[0], words[1], numbers, numbers + 16);
  box_muller(words[2], words[3], numbers + 32, numbers + 48);
}

}  // namespace

template <typename T>
void add_row_noise(const RowNoise<T>& op) {
#pragma omp parallel for schedule(static) if (op.rows * op.width > kParallelElements)
  for (int64_t row = 0; row < op.rows; ++row) {
    const T* w = op.w + row * op.width;
    T* y = op.y + row * op.width;
    const VecF deviation = splat(op.deviations[row]);
    for (int64_t begin = 0; begin < op.width; begin += kBlock) {
      alignas(64) float numbers[kBlock];
      normals(op.key, static_cast<uint64_t>(begin / kBlock), static_cast<uint64_t>(row), numbers);
      const int count = static_cast<int>(op.width - begin < kBlock ? op.width - begin : kBlock);
      int i = 0;
      for (; i + kLanes <= count; i += kLanes)
        store(y + begin + i, load(w + begin + i) + deviation * load(numbers + i));
      if (i < count)
        store_part(y + begin + i, load_part(w + begin + i, count - i) + deviation * load(numbers + i),
                   count - i);
    }
  }
}

MSPLORA_DEFINED(add_row_noise, RowNoise)

}  // namespace msplora::kernels::MSPLORA_ISA
