#include "kernels/tile_permission.h"

#include <atomic>

#ifdef MSPLORA_KERNELS_X86
#include <cpuid.h>
#endif
#if defined(MSPLORA_KERNELS_X86) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace msplora::kernels {
namespace {

#if defined(MSPLORA_KERNELS_X86) && defined(__linux__)
bool ask() {
  if (!processor_has_tiles()) return false;
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}
#else
bool ask() {
  return false;
}
#endif

std::atomic<bool> is_assumed{false};

}  // namespace

bool processor_has_tiles() {
#ifdef MSPLORA_KERNELS_X86
  constexpr unsigned int kBf16 = 1U << 22, kTile = 1U << 24;  // CPUID, leaf 7, EDX
  unsigned int a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kBf16) != 0 && (d & kTile) != 0;
#else
  return false;
#endif
}

bool has_tiles() {
  static const bool is_granted = ask();
  return is_granted || is_assumed;
}

void assume_tiles() {
  is_assumed = true;
}

}  // namespace msplora::kernels
