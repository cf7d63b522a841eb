#pragma once

#include "msplora/kernels/kernels.h"

// Tables of kernels, all made from the list in kernels.h. The sources of an instruction set must not emit
// inline functions that other sources share (the linker could pick the copy that the processor cannot run):
// no standard containers in them.
namespace msplora::kernels {

/// One column: what an instruction set, the plain loops or another device has. Null: it has no such kernel.
template <typename T>
struct Table {
#define MSPLORA_KERNEL(name, Op) void (*name)(const Op<T>&);
  MSPLORA_KERNELS
#undef MSPLORA_KERNEL
};

template <typename T>
bool has(const Table<T>& table, Kernel kernel) {
  switch (kernel) {
#define MSPLORA_KERNEL(name, Op) \
  case Kernel::name:             \
    return table.name != nullptr;
    MSPLORA_KERNELS
#undef MSPLORA_KERNEL
  }
  return false;
}

/// Of an instruction set; of double, the plain loops in every one.
template <typename T>
const Table<T>& table(Isa isa);

/// Devices have the numbers of libtorch's types of devices: 0 is the CPU, in its active instruction set.
inline constexpr int kDevices = 32;
/// An empty one where nobody has set another.
template <typename T>
const Table<T>& device_table(int device);
/// The kernels of a device other than the CPU; null takes them back. Not while other threads compute.
template <typename T>
void set_device_table(int device, const Table<T>* table);

#define MSPLORA_DECLARE_COLUMN(isa)        \
  namespace isa {                          \
  extern const Table<float> kFloatTable;   \
  extern const Table<Bfloat16> kBf16Table; \
  }
MSPLORA_DECLARE_COLUMN(portable)
MSPLORA_DECLARE_COLUMN(avx2)
MSPLORA_DECLARE_COLUMN(avx512)
MSPLORA_DECLARE_COLUMN(avx512bf16)
MSPLORA_DECLARE_COLUMN(amx)
#undef MSPLORA_DECLARE_COLUMN

/// Scratch memory of the calling thread, 64-byte aligned, kept between calls and grown on demand; `slot`
/// (below kScratchSlots) tells apart buffers that are alive together. Throws std::bad_alloc: parallel regions
/// run what calls it by ThreadErrors.
inline constexpr int kScratchSlots = 47;
float* thread_scratch(int slot, int64_t floats);
/// Fills what the threads of the next parallel region have of it with NaN: tests find kernels that read what
/// they did not write.
void spoil_scratch();

/// The key of the attention mask of one (segment, head).
uint64_t attention_mask_key(uint64_t key, int64_t k_begin, int64_t head);

}  // namespace msplora::kernels
