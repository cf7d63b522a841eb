#include "kernels/cpu/registers.h"

#include "kernels/amx/tiles.h"

namespace msplora::kernels::amx {

// Six sums, as products have, of drawn numbers.
int64_t multiply_tiles(int64_t rounds) {
  const Tiles tiles;
  alignas(64) Bfloat16 drawn[2 * kTileInner];
  uint32_t state = 1;
  for (Bfloat16& number : drawn) {
    state = state * 1664525u + 1013904223u;
    set(number, static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f);
  }
  load_tile<6>(drawn, kRowBytes), load_tile<7>(drawn + kTileInner, kRowBytes);
  zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>(), zero_tile<4>(), zero_tile<5>();
  for (int64_t round = 0; round < rounds; ++round) {
    multiply_tiles<0, 6, 7>(), multiply_tiles<1, 6, 7>(), multiply_tiles<2, 6, 7>();
    multiply_tiles<3, 6, 7>(), multiply_tiles<4, 6, 7>(), multiply_tiles<5, 6, 7>();
  }
  return rounds * 6 * kRows * kSums * kInner * 2;
}

}  // namespace msplora::kernels::amx
