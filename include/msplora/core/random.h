#pragma once

#include <array>
#include <cstdint>
#include <numeric>
#include <string_view>
#include <vector>

namespace msplora {

/// Philox 4x32 (Salmon et al., SC 2011): a counter-based generator. The numbers depend on (key, counter)
/// alone, so any element of any stream can be drawn by any thread in any order, and nothing needs to be
/// stored.
std::array<uint32_t, 4> philox4x32(uint64_t key, uint64_t counter_low, uint64_t counter_high,
                                   int rounds = 10);

/// The 128 bits of an AES state or round key, as the processor's instructions hold them: byte 0 first.
using AesBlock = std::array<uint8_t, 16>;

/// One round of AES as the instruction aesenc computes it: ShiftRows, SubBytes, MixColumns, then the key is
/// added (FIPS 197). The last round has no MixColumns.
AesBlock aes_round(const AesBlock& state, const AesBlock& key, bool is_last = false);

/// ARS (Salmon et al., SC 2011): counter and key through AES rounds whose keys are a Weyl sequence. Five
/// rounds pass BigCrush; processors with AES instructions draw 16 bytes in five of them. The 128-bit key is
/// (key, not key), the counter (counter, 0).
AesBlock ars(uint64_t key, uint64_t counter, int rounds = 5);

/// A 64-bit hash of a name, stable across platforms and versions (FNV-1a with a final mix).
uint64_t hash_name(std::string_view name);

/// Mixes two 64-bit values into one; used to derive the key of a sub-stream.
uint64_t mix_seed(uint64_t seed, uint64_t value);

/// A sequential view of one Philox stream: the state is (key, position), so saving it is two integers.
class RandomStream {
 public:
  explicit RandomStream(uint64_t seed, std::string_view name = {});

  uint32_t next_u32();
  uint64_t next_u64();
  /// Uniform in [0, 1), 53 bits.
  double uniform();
  /// Uniform in [0, n); unbiased. n > 0.
  uint64_t below(uint64_t n);
  /// Standard normal (Box-Muller, one value a call).
  double normal();

  /// Fisher-Yates; the permutation depends on the state alone.
  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

 private:
  uint64_t key_;
  uint64_t block_ = 0;
  std::array<uint32_t, 4> buffer_{};
  int used_ = 4;
};

}  // namespace msplora
