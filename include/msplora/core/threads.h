#pragma once

namespace msplora {

/// Processors this process may use: the smaller of its affinity mask and its control group's quota (rounded
/// up), at least 1. Containers are given less than the machine has, and more threads than processors make
/// everything slower.
int machine_threads();

}  // namespace msplora
