#include "msplora/train/runtime.h"

#include <ATen/Parallel.h>
#include <omp.h>
#include <sys/resource.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <climits>
#include <cstdlib>
#include <fstream>
#include <string>

#include "msplora/core/threads.h"

namespace msplora {

int use_threads(int64_t requested) {
  const int threads = requested > 0 ? static_cast<int>(requested) : machine_threads();
  omp_set_num_threads(threads);
  at::set_num_threads(threads);
  return threads;
}

void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, INT_MAX);
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

int64_t peak_memory_bytes() {
  // Of this program alone; getrusage also counts what the process was before exec.
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return 1024 * std::strtoll(line.c_str() + 6, nullptr, 10);
  }
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
  return static_cast<int64_t>(usage.ru_maxrss);
#else
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
#endif
}

}  // namespace msplora
