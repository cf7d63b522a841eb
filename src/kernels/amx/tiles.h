#pragma once

// Tiles: eight registers of 16 rows of 64 bytes. Own assembly, as GCC 12's intrinsics do not tell the
// compiler what memory they read and write.
#include <cstdint>
#include <cstring>

#include "kernels/cpu/simd.h"

namespace msplora::kernels::amx {

/// Rows and bytes of a row. A tile holds 16 x 16 sums, or 16 x 32 numbers in bfloat16.
inline constexpr int kRows = 16, kRowBytes = 64, kSums = 16, kInner = 32;
/// Numbers of a tile.
inline constexpr int64_t kTileSums = kRows * kSums, kTileInner = kRows * kInner;

/// What the eight tiles are: all whole ones; or the last two a left and a right operand of half a step (16
/// rows of 32 bytes, and 8 rows).
enum class Shapes { kWhole, kHalfSteps };

/// Gives the tiles of the calling thread their shapes while it lives. Not across calls that may use tiles.
class Tiles {
 public:
  explicit Tiles(Shapes shapes = Shapes::kWhole) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int tile = 0; tile < 8; ++tile) {
      config.row_bytes[tile] = kRowBytes;
      config.rows[tile] = kRows;
    }
    if (shapes == Shapes::kHalfSteps) {
      config.row_bytes[6] = kRowBytes / 2;
      config.rows[7] = kRows / 2;
    }
    asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
  }
  ~Tiles() { asm volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

/// Rows begin `stride` bytes apart. Fast where they begin with cache lines.
template <int kTile>
MSPLORA_INLINE void load_tile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile) : "memory");
}
/// The same, past the first-level cache.
template <int kTile>
MSPLORA_INLINE void pass_tile(const void* from, int64_t stride) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
MSPLORA_INLINE void store_tile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
MSPLORA_INLINE void zero_tile() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
/// Sums += A B: A holds rows of 32 numbers; row r of B the numbers 2r and 2r + 1 of 16 columns. Even and odd
/// numbers are summed apart, and then added; denormals are zero.
template <int kTo, int kA, int kB>
MSPLORA_INLINE void multiply_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kTo), "i"(kA), "i"(kB));
}

}  // namespace msplora::kernels::amx
