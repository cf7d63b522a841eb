#pragma once

namespace msplora {

/// Lets processors without matrix units run kernels on tiles, slowly: their instructions (AMX, bfloat16)
/// arrive as illegal ones (SIGILL), and are done in plain C++ as Intel's manual defines them; all other
/// illegal instructions end the process as ever. Tests link it, and so every instruction set that they go
/// through has Isa::kAmx. Nothing happens on processors that have tiles, or lack the vector instructions that
/// such kernels use beside. False where it is not installed.
bool emulate_tiles();

}  // namespace msplora
