#include "msplora/core/random.h"

#include <cmath>
#include <string_view>

namespace msplora {

std::array<uint32_t, 4> philox4x32(uint64_t key, uint64_t counter_low, uint64_t counter_high, int rounds) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  std::array<uint32_t, 4> c = {static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
                               static_cast<uint32_t>(counter_high),
                               static_cast<uint32_t>(counter_high >> 32)};
  for (int round = 0; round < rounds; ++round) {
    const uint64_t p0 = uint64_t{kMultiplier0} * c[0];
    const uint64_t p1 = uint64_t{kMultiplier1} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return c;
}

namespace {

constexpr uint8_t times_two(uint8_t a) {
  return static_cast<uint8_t>(a << 1 ^ (a & 0x80 ? 0x1B : 0));
}

constexpr uint8_t rotate(uint8_t a, int by) {
  return static_cast<uint8_t>(a << by | a >> (8 - by));
}

/// The S-box: the inverse in GF(2^8), then an affine map. 3 generates the field, so walking its powers beside
/// those of its inverse 0xF6 meets every pair (a, 1 / a).
constexpr std::array<uint8_t, 256> make_s_box() {
  std::array<uint8_t, 256> box{};
  uint8_t power = 1, inverse = 1;
  do {
    power = static_cast<uint8_t>(power ^ times_two(power));
    for (const int shift : {1, 2, 4}) inverse = static_cast<uint8_t>(inverse ^ inverse << shift);
    if (inverse & 0x80) inverse ^= 0x09;
    box[power] = static_cast<uint8_t>(inverse ^ rotate(inverse, 1) ^ rotate(inverse, 2) ^ rotate(inverse, 3) ^
                                      rotate(inverse, 4) ^ 0x63);
  } while (power != 1);
  box[0] = 0x63;
  return box;
}

constexpr std::array<uint8_t, 256> kSBox = make_s_box();

void put(uint64_t value, uint8_t* to) {
  for (int i = 0; i < 8; ++i) to[i] = static_cast<uint8_t>(value >> (8 * i));
}

}  // namespace

AesBlock aes_round(const AesBlock& state, const AesBlock& key, bool is_last) {
  AesBlock result{};
  for (size_t column = 0; column < 4; ++column) {
    std::array<uint8_t, 4> s{};
    for (size_t row = 0; row < 4; ++row) s[row] = kSBox[state[(column + row) % 4 * 4 + row]];
    for (size_t row = 0; row < 4; ++row) {
      const uint8_t own = s[row], next = s[(row + 1) % 4];
      const auto mixed =
          static_cast<uint8_t>(times_two(own) ^ times_two(next) ^ next ^ s[(row + 2) % 4] ^ s[(row + 3) % 4]);
      result[column * 4 + row] = (is_last ? own : mixed) ^ key[column * 4 + row];
    }
  }
  return result;
}

AesBlock ars(uint64_t key, uint64_t counter, int rounds) {
  uint64_t low = key, high = ~key;
  AesBlock state{}, round_key{};
  put(counter ^ low, state.data());
  put(high, state.data() + 8);
  for (int round = 1; round <= rounds; ++round) {
    low += 0x9E3779B97F4A7C15ull;
    high += 0xBB67AE8584CAA73Bull;
    put(low, round_key.data());
    put(high, round_key.data() + 8);
    state = aes_round(state, round_key, round == rounds);
  }
  return state;
}

uint64_t mix_seed(uint64_t seed, uint64_t value) {
  // The finaliser of SplitMix64 over a combination that keeps (seed, value) and (value, seed) apart.
  uint64_t z = seed + 0x9E3779B97F4A7C15ull * (value + 1);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

uint64_t hash_name(std::string_view name) {
  uint64_t hash = 0xCBF29CE484222325ull;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  return mix_seed(hash, name.size());
}

RandomStream::RandomStream(uint64_t seed, std::string_view name) : key_(mix_seed(seed, hash_name(name))) {}

uint32_t RandomStream::next_u32() {
  if (used_ == 4) {
    buffer_ = philox4x32(key_, block_++, 0);
    used_ = 0;
  }
  return buffer_[used_++];
}

uint64_t RandomStream::next_u64() {
  const uint64_t high = next_u32();
  return (high << 32) | next_u32();
}

double RandomStream::uniform() {
  return static_cast<double>(next_u64() >> 11) * 0x1.0p-53;
}

uint64_t RandomStream::below(uint64_t n) {
  const uint64_t limit = UINT64_MAX - UINT64_MAX % n;
  uint64_t value = next_u64();
  while (value >= limit) value = next_u64();
  return value % n;
}

double RandomStream::normal() {
  const double radius = std::sqrt(-2.0 * std::log1p(-uniform()));
  return radius * std::cos(2.0 * 3.14159265358979323846 * uniform());
}

}  // namespace msplora
