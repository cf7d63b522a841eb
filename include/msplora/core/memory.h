#pragma once

#include <cstddef>

namespace msplora {

/// Bytes of memory that this process may use: the smaller of the machine's and its control group's limit.
std::size_t machine_memory();

/// Bytes by which this process may still grow under its limits on address space and data (ulimit -v, ulimit
/// -d), which count what is reserved and not only what is used; SIZE_MAX without such limits.
std::size_t address_space_left();

/// Lets the system take back the memory of this part of a mapped file that is only read: what is read again
/// comes from the file. Never for memory that is not a file's.
void let_file_pages_go(const void* begin, std::size_t bytes);

}  // namespace msplora
