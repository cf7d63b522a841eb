#pragma once

#include <cstdint>

namespace msplora {

/// Sets the threads of libtorch and OpenMP; 0: as many as this process may use. Returns the number set.
int use_threads(int64_t requested);

/// The largest resident memory of this process so far, in bytes (0 where the system does not tell).
int64_t peak_memory_bytes();

}  // namespace msplora
