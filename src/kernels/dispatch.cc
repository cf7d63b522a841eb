#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/cpu/registers.h"
#include "kernels/ref/reference.h"
#include "kernels/table.h"
#include "kernels/thread_errors.h"
#include "kernels/tile_permission.h"
#include "msplora/core/error.h"
#include "msplora/core/random.h"
#include "msplora/kernels/gemm.h"
#include "msplora/kernels/isa.h"

namespace msplora::kernels {
namespace {

bool supported(Isa isa) {
#ifdef MSPLORA_KERNELS_X86
  switch (isa) {
    case Isa::kPortable:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("aes");
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("aes");
    case Isa::kAvx512Bf16:
      return supported(Isa::kAvx512) && __builtin_cpu_supports("avx512bf16") &&
             __builtin_cpu_supports("vaes");
    case Isa::kAmx:
      return supported(Isa::kAvx512Bf16) && has_tiles();
  }
#endif
  return isa == Isa::kPortable;
}

Isa first_isa() {
  const char* named = std::getenv(kIsaVariable);
  if (named != nullptr && *named != '\0') return isa_named(named);
  // Tiles in software (assume_tiles) are for tests that ask for them.
  const std::vector<Isa> available = available_isas();
  const bool is_emulated = available.back() == Isa::kAmx && !processor_has_tiles();
  return is_emulated ? available[available.size() - 2] : available.back();
}

std::atomic<Isa>& chosen_isa() {
  static std::atomic<Isa> isa{first_isa()};
  return isa;
}

// What was set last, and what the thread itself has set: runs of other threads leave that alone.
std::atomic<Precision> last_precision{Precision::kExact};
thread_local constinit std::optional<Precision> own_precision;

template <typename T>
const Table<T>& column(const Table<float>& exact, const Table<Bfloat16>& rounded) {
  if constexpr (std::is_same_v<T, float>) return exact;
  if constexpr (std::is_same_v<T, Bfloat16>) return rounded;
}

template <typename T>
std::array<std::atomic<const Table<T>*>, kDevices>& tables_of_devices() {
  static std::array<std::atomic<const Table<T>*>, kDevices> tables{};
  return tables;
}

/// The instruction set that runs a call.
template <typename Op>
Isa isa_of([[maybe_unused]] const Op& op) {
  if constexpr (requires { op.isa; }) return op.isa;
  return active_isa();
}

struct AlignedFree {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
};

}  // namespace

Isa active_isa() {
  return chosen_isa().load(std::memory_order_relaxed);
}

std::vector<Isa> available_isas() {
  std::vector<Isa> result;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx})
    if (supported(isa)) result.push_back(isa);
  return result;
}

Isa isa_named(const std::string& name) {
  std::string known;
  for (const Isa isa : available_isas()) {
    if (to_string(isa) == name) return isa;
    known += (known.empty() ? "" : ", ") + to_string(isa);
  }
  throw Error(ErrorCode::kUsage, kIsaVariable, "this processor runs no instruction set called '" + name + "'",
              "it runs " + known);
}

void set_isa(Isa isa) {
  if (!supported(isa)) {
    throw Error(ErrorCode::kUsage, "kernels", "this processor does not run " + to_string(isa));
  }
  chosen_isa() = isa;
}

std::string to_string(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512bf16";
    case Isa::kAmx:
      return "amx";
  }
  return "unknown";
}

namespace {

struct ScratchBuffer {
  std::unique_ptr<float[], AlignedFree> memory;
  int64_t size = 0;
};

std::array<ScratchBuffer, kScratchSlots>& scratch_of_thread() {
  thread_local std::array<ScratchBuffer, kScratchSlots> buffers;
  return buffers;
}

}  // namespace

float* thread_scratch(int slot, int64_t floats) {
  ScratchBuffer& buffer = scratch_of_thread().at(static_cast<size_t>(slot));
  if (buffer.size < floats) {
#ifdef __SANITIZE_ADDRESS__
    const int64_t more = 0;  // what is written beyond the end is found
#else
    const int64_t more = floats / 2;
#endif
    buffer.size = (floats + more + 15) / 16 * 16;
    buffer.memory.reset(static_cast<float*>(
        ::operator new[](sizeof(float) * static_cast<size_t>(buffer.size), std::align_val_t{64})));
  }
  return buffer.memory.get();
}

void ThreadErrors::keep() noexcept {
#pragma omp critical(msplora_thread_errors)
  if (!first_) first_ = std::current_exception();
}

void ThreadErrors::rethrow() const {
  if (first_) std::rethrow_exception(first_);
}

void spoil_scratch() {
#pragma omp parallel
  for (ScratchBuffer& buffer : scratch_of_thread())
    std::fill_n(buffer.memory.get(), buffer.size, std::numeric_limits<float>::quiet_NaN());
}

uint64_t attention_mask_key(uint64_t key, int64_t k_begin, int64_t head) {
  return mix_seed(mix_seed(key, static_cast<uint64_t>(k_begin)), static_cast<uint64_t>(head));
}

template <typename T>
const Table<T>& table([[maybe_unused]] Isa isa) {
  if constexpr (std::is_same_v<T, double>) {
    return ref::kTable;
  } else {
#ifdef MSPLORA_KERNELS_X86
    if (isa == Isa::kAmx) return column<T>(amx::kFloatTable, amx::kBf16Table);
    if (isa == Isa::kAvx512Bf16) return column<T>(avx512bf16::kFloatTable, avx512bf16::kBf16Table);
    if (isa == Isa::kAvx512) return column<T>(avx512::kFloatTable, avx512::kBf16Table);
    if (isa == Isa::kAvx2) return column<T>(avx2::kFloatTable, avx2::kBf16Table);
#endif
    return column<T>(portable::kFloatTable, portable::kBf16Table);
  }
}

template <typename T>
const Table<T>& device_table(int device) {
  static constexpr Table<T> kNone{};
  if (device == 0) return table<T>(active_isa());
  const Table<T>* const found = tables_of_devices<T>()[static_cast<size_t>(device)].load();
  return found != nullptr ? *found : kNone;
}

template <typename T>
void set_device_table(int device, const Table<T>* table) {
  tables_of_devices<T>()[static_cast<size_t>(device)] = table;
}

template <typename T>
int64_t packed_gemm_elements(Isa isa, int64_t inner, int64_t width, Precision precision) {
  int64_t elements = 0;
  PackGemm<T> op;
  op.inner = inner;
  op.width = width;
  op.elements = &elements;
  op.precision = precision;
  table<T>(isa).pack_gemm(op);
  return elements;
}

template <typename T>
int64_t whole_panels(Isa isa, int64_t width, Precision precision) {
  int64_t columns = 0;
  PackGemm<T> op;
  op.width = width;
  op.columns = &columns;
  op.precision = precision;
  table<T>(isa).pack_gemm(op);
  return columns;
}

bool has_matrix_units(Isa isa) {
  return isa == Isa::kAmx;
}

template <typename T>
bool packs_both_directions(Isa isa, Precision precision) {
  return has_matrix_units(isa) && (std::is_same_v<T, Bfloat16> || precision != Precision::kExact);
}

void set_matmul_precision(Precision precision) {
  own_precision = precision;
  last_precision = precision;
}

Precision matmul_precision(Isa isa) {
  return has_matrix_units(isa) ? own_precision.value_or(last_precision) : Precision::kExact;
}

namespace {
constexpr std::pair<const char*, Precision> kPrecisions[] = {
    {"exact", Precision::kExact}, {"high", Precision::kHigh}, {"medium", Precision::kMedium}};
}

std::vector<std::string> precision_names() {
  std::vector<std::string> names;
  for (const auto& known : kPrecisions) names.emplace_back(known.first);
  return names;
}

Precision precision_named(const std::string& name) {
  std::string names;
  for (const auto& [known, precision] : kPrecisions) {
    if (name == known) return precision;
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  throw Error(ErrorCode::kUsage, "matmul_precision", "unknown precision `" + name + "`", names);
}

template <typename T>
int64_t multiply_registers([[maybe_unused]] Isa isa, int64_t rounds) {
#ifdef MSPLORA_KERNELS_X86
  if (std::is_same_v<T, Bfloat16> && isa == Isa::kAmx) return amx::multiply_tiles(rounds);
  if (isa >= Isa::kAvx512Bf16) return avx512bf16::multiply_registers<T>(rounds);
  if (isa == Isa::kAvx512) return avx512::multiply_registers<T>(rounds);
  if (isa == Isa::kAvx2) return avx2::multiply_registers<T>(rounds);
#endif
  return portable::multiply_registers<T>(rounds);
}
template int64_t multiply_registers<float>(Isa, int64_t);
template int64_t multiply_registers<Bfloat16>(Isa, int64_t);

template <>
bool prefers_packed_gemm<float>() {
  return active_isa() != Isa::kPortable;
}
template <>
bool prefers_packed_gemm<Bfloat16>() {
  static const bool is_amx = processor_has_tiles();
  return active_isa() != Isa::kPortable && !(is_amx && active_isa() == Isa::kAvx512Bf16);
}

#define MSPLORA_KERNEL(name, Op)           \
  template <typename T>                    \
  void name(const Op<T>& op) {             \
    table<T>(isa_of(op)).name(op);         \
  }                                        \
  template void name(const Op<float>&);    \
  template void name(const Op<Bfloat16>&); \
  template void name(const Op<double>&);
MSPLORA_KERNELS
#undef MSPLORA_KERNEL

#define MSPLORA_INSTANTIATE(T)                                                \
  template const Table<T>& table<T>(Isa);                                     \
  template const Table<T>& device_table<T>(int);                              \
  template void set_device_table<T>(int, const Table<T>*);                    \
  template int64_t packed_gemm_elements<T>(Isa, int64_t, int64_t, Precision); \
  template int64_t whole_panels<T>(Isa, int64_t, Precision);                  \
  template bool packs_both_directions<T>(Isa, Precision);
MSPLORA_INSTANTIATE(float)
MSPLORA_INSTANTIATE(Bfloat16)
MSPLORA_INSTANTIATE(double)
#undef MSPLORA_INSTANTIATE

}  // namespace msplora::kernels
