#pragma once

namespace msplora {

/// Processors this process may use: the smaller of its affinity mask and its control group's quota (rounded
/// up), at least 1. Containers are given less than the machine has, and more threads than processors make
/// everything slower.
int machine_threads();

/// More than this is a slip of the pen: every thread has a stack and scratch memory of its own.
inline constexpr int kMostThreads = 512;

}  // namespace msplora
