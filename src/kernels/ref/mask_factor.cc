#include "kernels/ref/reference.h"

#include "msplora/core/random.h"

namespace msplora::kernels::ref {

double mask_factor(const DropoutMask& mask, int64_t element) {
  if (!mask.active()) return 1.0;
  const AesBlock bytes = ars(mask.key, static_cast<uint64_t>(element) / 8, kMaskRounds);
  const size_t at = static_cast<size_t>(element) % 8 * 2;
  const uint32_t number = bytes[at] | static_cast<uint32_t>(bytes[at + 1]) << 8;
  return number >= mask.threshold() ? mask.scale() : 0.0;
}

}  // namespace msplora::kernels::ref
