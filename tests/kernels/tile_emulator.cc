// Lets processors without matrix units run kernels on tiles, slowly: their instructions (AMX, bfloat16)
// arrive as illegal ones (SIGILL), and are done in plain C++ as Intel's manual defines them; all other
// illegal instructions end the process as ever. Tests link it, and so every instruction set that they go
// through has Isa::kAmx. Nothing happens on processors that have tiles, or lack the vector instructions that
// such kernels use beside.
#if defined(__x86_64__) && defined(__linux__)
#include <ucontext.h>
#include <csignal>
#include <cstdint>
#include <cstring>

#include "kernels/tile_permission.h"

namespace msplora {
namespace {

struct Tile {
  alignas(64) uint8_t bytes[16][64];
  int rows, row_bytes;
};

struct State {
  Tile tiles[8];
  bool is_configured;
};
thread_local State state;  // of a thread, as in the processor

// ---- What an instruction says. All are VEX-encoded, three bytes: C4, RXB and map, W vvvv L pp.

struct Instruction {
  int prefix = 0;  // pp: 0, 66, F3, F2 are 0 to 3
  int opcode = 0;
  int mod = 0, reg = 0, rm = 0;
  int vvvv = 0;
  uintptr_t address = 0;  // of memory, where mod is not 3
  int64_t stride = 0;     // the index register
  int length = 0;
};

greg_t general_register(const ucontext_t& context, int number) {
  constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return context.uc_mcontext.gregs[kOrder[number]];
}

// The address that a ModRM byte with memory means; `at` stands behind it and moves on.
void read_memory(const ucontext_t& context, bool x, bool b, const uint8_t*& at, Instruction& instruction) {
  int base = instruction.rm | (b ? 8 : 0);
  const bool has_sib = instruction.rm == 4;
  bool has_base = true;
  if (has_sib) {
    const uint8_t sib = *at++;
    const int index = (sib >> 3 & 7) | (x ? 8 : 0);
    base = (sib & 7) | (b ? 8 : 0);
    has_base = !((sib & 7) == 5 && instruction.mod == 0);
    if (index != 4) instruction.stride = general_register(context, index) << (sib >> 6);
  }
  const bool is_relative = !has_sib && instruction.rm == 5 && instruction.mod == 0;
  int64_t displacement = 0;
  if (instruction.mod == 1) {
    displacement = static_cast<int8_t>(*at++);
  } else if (instruction.mod == 2 || !has_base || is_relative) {
    int32_t wide = 0;
    std::memcpy(&wide, at, sizeof(wide));
    displacement = wide;
    at += sizeof(wide);
  }
  const auto next = reinterpret_cast<int64_t>(at);  // no immediate follows
  const int64_t from = is_relative ? next : has_base ? general_register(context, base) : 0;
  instruction.address = static_cast<uintptr_t>(from + displacement);
}

bool decode(const ucontext_t& context, Instruction& instruction) {
  const auto* const first = reinterpret_cast<const uint8_t*>(context.uc_mcontext.gregs[REG_RIP]);
  constexpr int kMap0F38 = 2;
  if (first[0] != 0xC4 || (first[1] & 31) != kMap0F38 || (first[2] & 0x84) != 0) return false;  // W and L: 0
  instruction.prefix = first[2] & 3;
  instruction.vvvv = ~(first[2] >> 3) & 15;
  instruction.opcode = first[3];
  const uint8_t modrm = first[4];
  instruction.mod = modrm >> 6, instruction.reg = modrm >> 3 & 7, instruction.rm = modrm & 7;
  const uint8_t* at = first + 5;
  if (instruction.mod != 3)
    read_memory(context, (first[1] & 0x40) == 0, (first[1] & 0x20) == 0, at, instruction);
  instruction.length = static_cast<int>(at - first);
  return true;
}

// ---- What it does

float from_bfloat16(const uint8_t* at) {
  uint32_t bits = 0;
  std::memcpy(reinterpret_cast<uint8_t*>(&bits) + 2, at, 2);
  if ((bits & 0x7F800000U) == 0) bits &= 0x80000000U;  // denormals are zero
  float value = 0;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Of all pairs the products of the first numbers make one sum, those of the second another; both are added to
// C.
void multiply(Tile& c, const Tile& a, const Tile& b) {
  const int pairs = a.row_bytes / 4, columns = c.row_bytes / 4;
  float right[2][16][16];
  for (int pair = 0; pair < pairs; ++pair) {
    for (int column = 0; column < columns; ++column) {
      for (int i = 0; i < 2; ++i) right[i][pair][column] = from_bfloat16(b.bytes[pair] + 4 * column + 2 * i);
    }
  }
  for (int row = 0; row < c.rows; ++row) {
    float sums[2][16] = {};
    for (int i = 0; i < 2; ++i) {
      for (int pair = 0; pair < pairs; ++pair) {
        const float left = from_bfloat16(a.bytes[row] + 4 * pair + 2 * i);
        for (int column = 0; column < columns; ++column)
          sums[i][column] = __builtin_fmaf(left, right[i][pair][column], sums[i][column]);
      }
    }
    for (int column = 0; column < columns; ++column) {
      float sum = 0;
      std::memcpy(&sum, c.bytes[row] + 4 * column, sizeof(sum));
      sum += sums[0][column] + sums[1][column];
      std::memcpy(c.bytes[row] + 4 * column, &sum, sizeof(sum));
    }
  }
}

void configure(const uint8_t* from) {
  std::memset(&state, 0, sizeof(state));
  state.is_configured = from[0] == 1;
  for (int tile = 0; tile < 8; ++tile) {
    uint16_t row_bytes = 0;
    std::memcpy(&row_bytes, from + 16 + 2 * tile, 2);
    state.tiles[tile].row_bytes = row_bytes;
    state.tiles[tile].rows = from[48 + tile];
  }
}

void load(const Instruction& i) {
  Tile& tile = state.tiles[i.reg];
  std::memset(tile.bytes, 0, sizeof(tile.bytes));
  for (int row = 0; row < tile.rows; ++row) {
    std::memcpy(tile.bytes[row], reinterpret_cast<const uint8_t*>(i.address) + row * i.stride,
                static_cast<size_t>(tile.row_bytes));
  }
}

void store(const Instruction& i) {
  const Tile& tile = state.tiles[i.reg];
  for (int row = 0; row < tile.rows; ++row) {
    std::memcpy(reinterpret_cast<uint8_t*>(i.address) + row * i.stride, tile.bytes[row],
                static_cast<size_t>(tile.row_bytes));
  }
}

// False: none of ours.
bool execute(const Instruction& i) {
  constexpr int kConfigure = 0x49, kMove = 0x4B, kProduct = 0x5C;
  enum { kNone, k66, kF3, kF2 };
  if (i.opcode == kConfigure && i.prefix == kNone && i.mod != 3) {
    configure(reinterpret_cast<const uint8_t*>(i.address));
    return true;
  }
  if (i.opcode == kConfigure && i.prefix == kNone) {  // tilerelease
    std::memset(&state, 0, sizeof(state));
    return true;
  }
  if (!state.is_configured) return false;
  if (i.opcode == kConfigure && i.prefix == kF2 && i.mod == 3) {
    std::memset(state.tiles[i.reg].bytes, 0, sizeof(Tile::bytes));
    return true;
  }
  if (i.opcode == kMove && (i.prefix == kF2 || i.prefix == k66) && i.mod != 3) return load(i), true;
  if (i.opcode == kMove && i.prefix == kF3 && i.mod != 3) return store(i), true;
  if (i.opcode != kProduct || i.prefix != kF3 || i.mod != 3) return false;
  multiply(state.tiles[i.reg], state.tiles[i.rm], state.tiles[i.vvvv & 7]);
  return true;
}

void on_illegal(int signal, siginfo_t* /*info*/, void* raw) {
  auto& context = *static_cast<ucontext_t*>(raw);
  Instruction instruction;
  if (decode(context, instruction) && execute(instruction)) {
    context.uc_mcontext.gregs[REG_RIP] += instruction.length;
    return;
  }
  std::signal(signal, SIG_DFL);  // the instruction comes again
}

bool install() {
  if (kernels::has_tiles() || !__builtin_cpu_supports("avx512bf16")) return false;
  struct sigaction action {};
  action.sa_sigaction = &on_illegal;
  action.sa_flags = SA_SIGINFO;
  if (sigaction(SIGILL, &action, nullptr) != 0) return false;
  kernels::assume_tiles();
  return true;
}

[[maybe_unused]] const bool is_installed = install();  // before tests list the instruction sets

}  // namespace
}  // namespace msplora

#endif
