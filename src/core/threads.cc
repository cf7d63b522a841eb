#include "msplora/core/threads.h"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <locale>
#include <string>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

namespace msplora {
namespace {

int processors_of_affinity() {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

/// cpu.max of the version 2 hierarchy: "QUOTA PERIOD" in microseconds, or "max PERIOD". 0: no limit.
int processors_of_control_group() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  file.imbue(std::locale::classic());
  int64_t quota = 0, period = 0;
  if (!(file >> quota >> period) || period <= 0) return 0;
  return static_cast<int>((quota + period - 1) / period);
}

}  // namespace

int machine_threads() {
  int count = std::max(1, processors_of_affinity());
  if (const int quota = processors_of_control_group(); quota > 0) count = std::min(count, quota);
  return count;
}

}  // namespace msplora
