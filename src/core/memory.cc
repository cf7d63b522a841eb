#include "msplora/core/memory.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>

namespace msplora {
namespace {

constexpr std::size_t kUnlimited = std::numeric_limits<std::size_t>::max();

std::size_t limit_of(decltype(RLIMIT_AS) resource) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kUnlimited;
  return static_cast<std::size_t>(limit.rlim_cur);
}

std::size_t rest_of(std::size_t limit, std::size_t used) {
  if (limit == kUnlimited) return kUnlimited;
  return limit > used ? limit - used : 0;
}

}  // namespace

std::size_t machine_memory() {
  const auto pages = static_cast<std::size_t>(std::max(0L, sysconf(_SC_PHYS_PAGES)));
  std::size_t memory = pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  // "max", which is no number, where there is no limit.
  std::size_t group = 0;
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> group) memory = std::min(memory, group);
  return memory;
}

std::size_t address_space_left() {
  const std::size_t space = limit_of(RLIMIT_AS), data = limit_of(RLIMIT_DATA);
  if (space == kUnlimited && data == kUnlimited) return kUnlimited;
  // In pages: all, resident, shared, code, 0, data and stack.
  std::size_t all = 0, resident = 0, shared = 0, code = 0, unused = 0, private_data = 0;
  std::ifstream file("/proc/self/statm");
  if (!(file >> all >> resident >> shared >> code >> unused >> private_data)) return 0;
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return std::min(rest_of(space, all * page), rest_of(data, private_data * page));
}

void let_file_pages_go(const void* begin, std::size_t bytes) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = (reinterpret_cast<std::uintptr_t>(begin) + page - 1) / page * page;
  const auto last = (reinterpret_cast<std::uintptr_t>(begin) + bytes) / page * page;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace msplora
