#pragma once

namespace msplora::kernels {

/// Whether the processor has tiles for bfloat16, whoever may use them.
bool processor_has_tiles();

/// Whether this process may use tiles: the processor has them, and the system, which saves them when threads
/// change, was asked for its permission (Linux; the first call asks, for all threads).
bool has_tiles();

/// From now on has_tiles(), whatever the processor: the caller sees to the instructions that it does not
/// know.
void assume_tiles();

}  // namespace msplora::kernels
