#include "msplora/train/runtime.h"

#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <c10/core/CPUAllocator.h>
#include <omp.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <new>
#include <string>

#include "msplora/core/error.h"
#include "msplora/core/memory.h"
#include "msplora/core/threads.h"

namespace msplora {

int use_threads(int64_t requested) {
  const int threads = requested > 0 ? static_cast<int>(requested) : machine_threads();
  // The first time that a thread asks libtorch for it, it takes the number that any thread has set last.
  at::get_num_threads();
  omp_set_num_threads(threads);
  at::set_num_threads(threads);
  return threads;
}

namespace {

// Arrays of tensors by malloc. libtorch asks posix_memalign, which (glibc before 2.38) takes a freed block
// only when it is larger than the request by the alignment: arrays of equal size, the ones of a step, would
// never lie in each other's place, and the heap grows by half of what is alive.
class TensorAllocator final : public c10::Allocator {
 public:
  // The first is what libtorch 1.13 calls, the others what 2.3 and later do.
  c10::DataPtr allocate(size_t bytes) const { return block_of(bytes); }
  c10::DataPtr allocate(size_t bytes) { return block_of(bytes); }
  void copy_data(void* to, const void* from, size_t bytes) const { std::memcpy(to, from, bytes); }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }  // oneDNN's arrays

 private:
  static c10::DataPtr block_of(size_t bytes) {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, cpu};
    void* const block = bytes + kRoom > bytes ? std::malloc(bytes + kRoom) : nullptr;
    if (block == nullptr) throw std::bad_alloc();
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(block) + kRoom) / kAlignment * kAlignment;
    void* const data = reinterpret_cast<void*>(begin);
    static_cast<void**>(data)[-1] = block;
    return {data, data, &release, cpu};
  }
  static void release(void* data) {
    if (data != nullptr) std::free(static_cast<void**>(data)[-1]);
  }

  static constexpr size_t kAlignment = 64;  // a cache line and the widest register
  // The block's own address lies below the data.
  static constexpr size_t kRoom = kAlignment + sizeof(void*);
};

uintptr_t large_pages_end = 0;  // of the heap; 0: it has none

// Grows the heap by up to half of the machine's memory, of which nothing is used yet, and asks for large
// pages there: the heap is the one region that malloc fills from the bottom and keeps. Under a limit on
// address space, which counts what is reserved, half of the rest stays for files, threads and generated code.
void put_heap_on_large_pages() {
#if defined(__GLIBC__) && defined(MADV_HUGEPAGE)
  constexpr size_t kMost = size_t{16} << 30, kLargePage = size_t{2} << 20;
  std::array<void*, 32> pieces{};
  const size_t piece = std::min({kMost, machine_memory() / 2, address_space_left() / 2}) / pieces.size();
  if (piece < kLargePage) return;
  const auto begin = reinterpret_cast<uintptr_t>(sbrk(0));
  for (void*& place : pieces) place = std::malloc(piece);
  const auto end = reinterpret_cast<uintptr_t>(sbrk(0));
  for (size_t i = pieces.size(); i > 0; --i) std::free(pieces[i - 1]);
  const uintptr_t first = (begin + kLargePage - 1) / kLargePage * kLargePage;
  large_pages_end = end;
  if (end > first + kLargePage) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

// OpenBLAS takes 128 MiB of address space in its first product, and asks again for ever where a limit leaves
// no room. So it is given them first, or the limit is said to be too small. Throws std::bad_alloc.
void reserve_buffers_of_products() {
  constexpr size_t kBuffers = size_t{160} << 20;
  const size_t left = address_space_left();
  if (left == std::numeric_limits<size_t>::max()) return;
  if (left < kBuffers) throw std::bad_alloc();
  const at::Tensor matrix = at::ones({64, 64});
  at::mm(matrix, matrix);
}

// Of /proc/self/status, in bytes; 0 where the system does not tell.
int64_t status_bytes(const char* name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(name)) return 1024 * std::strtoll(line.c_str() + std::strlen(name), nullptr, 10);
  }
  return 0;
}

int64_t bytes_at_start = 0, anonymous_at_start = 0;

}  // namespace

void touch_memory_ahead([[maybe_unused]] int64_t bytes) {
#if defined(__GLIBC__) && defined(MADV_POPULATE_WRITE)
  constexpr uintptr_t kPart = uintptr_t{8} << 20;
  void* const next = std::malloc(kPart);  // where the heap has room
  if (next == nullptr) return;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(next) + kPart - 1) / kPart * kPart;
  std::free(next);
  const uintptr_t end =
      std::min(large_pages_end, first + static_cast<uintptr_t>(std::max<int64_t>(bytes, 0)));
#pragma omp parallel for schedule(dynamic, 1)
  for (uintptr_t part = first; part < end / kPart * kPart; part += kPart)
    madvise(reinterpret_cast<void*>(part), kPart, MADV_POPULATE_WRITE);
#endif
}

void keep_freed_memory() {
  if (bytes_at_start == 0) {
    bytes_at_start = status_bytes("VmRSS:");
    anonymous_at_start = status_bytes("RssAnon:");
  }
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, -1);
  // The heap grows by so much at a time, which a limit on address space may not allow.
  if (address_space_left() > size_t{4} << 30) mallopt(M_TOP_PAD, 64 << 20);
#endif
  reserve_buffers_of_products();
  put_heap_on_large_pages();
  static TensorAllocator allocator;
  c10::SetCPUAllocator(&allocator);
}

int64_t program_memory_bytes() {
  return bytes_at_start;
}

int64_t taken_memory_bytes() {
  return std::max<int64_t>(0, status_bytes("RssAnon:") - anonymous_at_start);
}

int64_t peak_memory_bytes() {
  // Of this program alone; getrusage also counts what the process was before exec.
  if (const int64_t peak = status_bytes("VmHWM:"); peak > 0) return peak;
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
#ifdef __APPLE__
  return static_cast<int64_t>(usage.ru_maxrss);
#else
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
#endif
}

}  // namespace msplora
