#include "kernels/cpu/registers.h"

#include "kernels/amx/tiles.h"

namespace msplora::kernels::amx {

// Six sums, as products have.
int64_t multiply_tiles(int64_t rounds) {
  const Tiles tiles;
  for (int64_t round = 0; round < rounds; ++round) {
    multiply_tiles<0, 6, 7>(), multiply_tiles<1, 6, 7>(), multiply_tiles<2, 6, 7>();
    multiply_tiles<3, 6, 7>(), multiply_tiles<4, 6, 7>(), multiply_tiles<5, 6, 7>();
  }
  return rounds * 6 * kRows * kSums * kInner * 2;
}

}  // namespace msplora::kernels::amx
