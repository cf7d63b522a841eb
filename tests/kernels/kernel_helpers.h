#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "msplora/core/random.h"
#include "msplora/kernels/kernels.h"

namespace msplora::kernels {

inline std::vector<float> normals(size_t n, const std::string& name) {
  RandomStream stream(11, name);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(stream.normal());
  return values;
}

inline Bfloat16 to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return {static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)};
}
inline float to_float(float value) {
  return value;
}
inline float to_float(Bfloat16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
inline std::vector<Bfloat16> to_bf16(const std::vector<float>& values) {
  std::vector<Bfloat16> result;
  for (const float value : values) result.push_back(to_bf16(value));
  return result;
}
inline std::vector<float> to_float(const std::vector<Bfloat16>& values) {
  std::vector<float> result;
  for (const Bfloat16 value : values) result.push_back(to_float(value));
  return result;
}

/// Largest difference relative to the largest magnitude expected.
inline double relative_error(const std::vector<float>& got, const std::vector<float>& expected) {
  double largest = 1e-6, difference = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
    difference = std::max(difference, std::abs(static_cast<double>(got[i]) - expected[i]));
  }
  return difference / largest;
}

/// Runs a test once for each instruction set that this processor has.
class KernelsOfEveryIsa : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    best_ = active_isa();
    set_isa(GetParam());
  }
  void TearDown() override { set_isa(best_); }

 private:
  Isa best_ = Isa::kPortable;
};

}  // namespace msplora::kernels
