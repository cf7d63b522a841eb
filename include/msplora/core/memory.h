#pragma once

#include <cstddef>

namespace msplora {

/// Bytes of memory that this process may use: the smaller of the machine's and its control group's limit.
std::size_t machine_memory();

/// Bytes by which this process may still grow under its limits on address space and data (ulimit -v, ulimit
/// -d), which count what is reserved and not only what is used; SIZE_MAX without such limits.
std::size_t address_space_left();

}  // namespace msplora
