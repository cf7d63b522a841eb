#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "kernels/reference.h"
#include "kernels/table.h"
#include "msplora/core/error.h"
#include "msplora/core/random.h"
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
  }
#endif
  return isa == Isa::kPortable;
}

Isa first_isa() {
  const char* named = std::getenv(kIsaVariable);
  return named == nullptr || *named == '\0' ? available_isas().back() : isa_named(named);
}

std::atomic<Isa>& chosen_isa() {
  static std::atomic<Isa> isa{first_isa()};
  return isa;
}

const KernelTable<float>& float_table() {
#ifdef MSPLORA_KERNELS_X86
  if (active_isa() == Isa::kAvx512Bf16) return avx512bf16::kFloatTable;
  if (active_isa() == Isa::kAvx512) return avx512::kFloatTable;
  if (active_isa() == Isa::kAvx2) return avx2::kFloatTable;
#endif
  return portable::kFloatTable;
}

const KernelTable<Bfloat16>& bf16_table() {
#ifdef MSPLORA_KERNELS_X86
  if (active_isa() == Isa::kAvx512Bf16) return avx512bf16::kBf16Table;
  if (active_isa() == Isa::kAvx512) return avx512::kBf16Table;
  if (active_isa() == Isa::kAvx2) return avx2::kBf16Table;
#endif
  return portable::kBf16Table;
}

template <typename T>
const KernelTable<T>& table();
template <>
const KernelTable<float>& table<float>() {
  return float_table();
}
template <>
const KernelTable<Bfloat16>& table<Bfloat16>() {
  return bf16_table();
}
template <>
const KernelTable<double>& table<double>() {
  return ref::double_table();
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
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16})
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
  }
  return "unknown";
}

float* thread_scratch(int slot, int64_t floats) {
  struct Buffer {
    std::unique_ptr<float[], AlignedFree> memory;
    int64_t size = 0;
  };
  thread_local Buffer buffers[kScratchSlots];
  Buffer& buffer = buffers[slot];
  if (buffer.size < floats) {
    buffer.size = (floats + floats / 2 + 15) / 16 * 16;
    buffer.memory.reset(static_cast<float*>(
        ::operator new[](sizeof(float) * static_cast<size_t>(buffer.size), std::align_val_t{64})));
  }
  return buffer.memory.get();
}

uint64_t attention_mask_key(uint64_t key, int64_t first_token, int64_t head) {
  return mix_seed(mix_seed(key, static_cast<uint64_t>(first_token)), static_cast<uint64_t>(head));
}

template <typename T>
void dropout(const T* x, T* y, int64_t n, DropoutMask mask) {
  table<T>().dropout(x, y, n, mask);
}
template <typename T>
void embedding_sum(const EmbeddingSum<T>& op) {
  table<T>().embedding_sum(op);
}
template <typename T>
void add_row_noise(const RowNoise<T>& op) {
  table<T>().add_row_noise(op);
}
template <typename T>
void residual_layer_norm(const ResidualLayerNorm<T>& op) {
  table<T>().residual_layer_norm(op);
}
template <typename T>
void residual_layer_norm_backward(const ResidualLayerNormBackward<T>& op) {
  table<T>().residual_layer_norm_backward(op);
}
template <typename T>
void activation(Activation kind, const T* x, T* y, T* derivative, int64_t n) {
  table<T>().activation(kind, x, y, derivative, n);
}
template <typename T>
void multiply(const T* a, const T* b, T* y, int64_t n) {
  table<T>().multiply(a, b, y, n);
}
template <typename T>
void low_rank(const LowRank<T>& op) {
  table<T>().low_rank(op);
}
template <typename T>
void low_rank_backward(const LowRankBackward<T>& op) {
  table<T>().low_rank_backward(op);
}
template <typename T>
void segment_attention(const SegmentAttention<T>& op) {
  table<T>().segment_attention(op);
}
template <typename T>
void segment_attention_backward(const SegmentAttentionBackward<T>& op) {
  table<T>().segment_attention_backward(op);
}

#define MSPLORA_INSTANTIATE(T)                                                     \
  template void dropout(const T*, T*, int64_t, DropoutMask);                       \
  template void embedding_sum(const EmbeddingSum<T>&);                             \
  template void add_row_noise(const RowNoise<T>&);                                 \
  template void residual_layer_norm(const ResidualLayerNorm<T>&);                  \
  template void residual_layer_norm_backward(const ResidualLayerNormBackward<T>&); \
  template void activation(Activation, const T*, T*, T*, int64_t);                 \
  template void multiply(const T*, const T*, T*, int64_t);                         \
  template void low_rank(const LowRank<T>&);                                       \
  template void low_rank_backward(const LowRankBackward<T>&);                      \
  template void segment_attention(const SegmentAttention<T>&);                     \
  template void segment_attention_backward(const SegmentAttentionBackward<T>&);
MSPLORA_INSTANTIATE(float)
MSPLORA_INSTANTIATE(Bfloat16)
MSPLORA_INSTANTIATE(double)
#undef MSPLORA_INSTANTIATE

}  // namespace msplora::kernels
