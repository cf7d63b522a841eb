#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

namespace msplora {

/// How the numbers of a tensor are kept, under the numbers that GGUF files have for it (ggml's type ids).
enum class GgufType : int32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIq4Nl = 20,
  kIq4Xs = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kBF16 = 30,
  kTq1_0 = 34,
  kTq2_0 = 35,
  kMxfp4 = 39,
};

/// A block holds this many consecutive elements of a row in this many bytes; a row is whole blocks.
struct GgufTypeInfo {
  GgufType type;
  const char* name;  // as GGUF tools spell it: "Q4_K"
  int64_t elements;
  int64_t bytes;
  bool is_real;  // dequantise() takes it; the others are integers
};

/// Null where the number stands for a type that is not read.
const GgufTypeInfo* find_gguf_type(int32_t id);
const GgufTypeInfo& gguf_type_info(GgufType type);
/// The name of any type that GGUF has, for messages: "IQ2_XXS (type 16)".
std::string gguf_type_text(int32_t id);
/// "F32, F16, Q4_0, ...": every type that is read.
std::string known_gguf_types();

/// Blocks as float32. Products and sums are formed in ggml's order, so that the bits are those of ggml and
/// gguf-py. Throws Error{kUsage} for a type of integers.
void dequantise(GgufType type, const std::byte* blocks, int64_t count, float* values);

/// How the blocks of a quantised type are made.
struct QuantisedForm {
  int64_t run;           // consecutive elements that share a factor: 16 or 32
  bool has_factors;      // else all are 1
  bool has_lows;         // else BlockParts::low is 0
  const int8_t* values;  // [16], all values that codes have; null: they need eight bits
};
/// Null for plain numbers and integers.
const QuantisedForm* quantised_form(GgufType type);

/// A quantised block, taken apart: element i is (d * factors[i / run]) * codes[i] - low * low_factors[i /
/// run], whose products are exact in float32.
struct BlockParts {
  float d = 0.0F, low = 0.0F;
  int8_t codes[256] = {};
  int8_t factors[16];
  uint8_t low_factors[16];

  BlockParts() {
    std::fill_n(factors, 16, int8_t{1});
    std::fill_n(low_factors, 16, uint8_t{1});
  }
};
/// Into `parts`, which was made for this type or taken apart of it before. Throws Error{kUsage} for a type
/// that is not quantised.
void take_apart(GgufType type, const std::byte* block, BlockParts& parts);

/// Whether all values of the blocks are finite. Looks at the factors of the blocks alone where that decides.
bool blocks_are_finite(GgufType type, const std::byte* blocks, int64_t count);

}  // namespace msplora
