#pragma once

#include <cstdint>

namespace msplora {

/// Sets the threads of libtorch and OpenMP; 0: as many as this process may use. Returns the number set.
int use_threads(int64_t requested);

/// Lets the allocator of this process keep freed memory, so that the activations of one step lie where those
/// of the step before lay, and puts it on large pages: a fresh page costs a fault for every 4 KB, and
/// products that stride through memory miss the processor's table of small pages. Tensors made from then on
/// take their arrays from it. Reserves address space, not memory. For programs; call it first in main().
void keep_freed_memory();

/// The largest resident memory of this process so far, in bytes (0 where the system does not tell).
int64_t peak_memory_bytes();

}  // namespace msplora
