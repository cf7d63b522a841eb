#pragma once

#include <cstdint>

namespace msplora {

/// Sets the threads of libtorch and OpenMP, for what the calling thread does from then on; 0: as many as this
/// process may use. Returns the number set.
int use_threads(int64_t requested);

/// Lets the allocator of this process keep freed memory, so that the activations of one step lie where those
/// of the step before lay, and puts it on large pages: a fresh page costs a fault for every 4 KB, and
/// products that stride through memory miss the processor's table of small pages. Tensors made from then on
/// take their arrays from it. Reserves address space, not memory: up to 16 GiB, half of the memory that the
/// process may use, and half of what a limit on address space leaves. For programs; call it first in main().
/// Throws std::bad_alloc where such a limit leaves no room for products.
void keep_freed_memory();

/// Has the system bring in the next `bytes` of the heap now, by all threads: each page would else be cleared
/// when it is first written, by the thread that writes while all others wait. Only what keep_freed_memory()
/// has put on large pages, and only on Linux. For memory that is about to be used.
void touch_memory_ahead(int64_t bytes);

/// Resident memory of the program and its libraries when keep_freed_memory() was called first, in bytes; 0
/// before.
int64_t program_memory_bytes();

/// Memory that this process has taken since keep_freed_memory() was called first, its files' pages left out,
/// in bytes; 0 where the system does not tell. As freed memory is kept, the most so far.
int64_t taken_memory_bytes();

/// The largest resident memory of this process so far, in bytes (0 where the system does not tell).
int64_t peak_memory_bytes();

}  // namespace msplora
