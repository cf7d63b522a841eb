#include "msplora/gguf/types.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "gguf/blocks.h"
#include "msplora/core/error.h"

namespace msplora {
namespace {

using detail::DequantiseBlocks;

struct TypeRow {
  GgufTypeInfo info;
  DequantiseBlocks dequantise;  // null: integers
  // Where a block keeps its binary16 factors, which alone decide whether its values are finite: codes are
  // small. -1: none; -2: look at the values.
  int factor, other_factor = -1;
};

constexpr TypeRow kRows[] = {
    {{GgufType::kF32, "F32", 1, 4, true}, detail::dequantise_f32, -2},
    {{GgufType::kF16, "F16", 1, 2, true}, detail::dequantise_f16, 0},
    {{GgufType::kQ4_0, "Q4_0", 32, 18, true}, detail::dequantise_q4_0, 0},
    {{GgufType::kQ4_1, "Q4_1", 32, 20, true}, detail::dequantise_q4_1, 0, 2},
    {{GgufType::kQ5_0, "Q5_0", 32, 22, true}, detail::dequantise_q5_0, 0},
    {{GgufType::kQ5_1, "Q5_1", 32, 24, true}, detail::dequantise_q5_1, 0, 2},
    {{GgufType::kQ8_0, "Q8_0", 32, 34, true}, detail::dequantise_q8_0, 0},
    {{GgufType::kQ2_K, "Q2_K", 256, 84, true}, detail::dequantise_q2_k, 80, 82},
    {{GgufType::kQ3_K, "Q3_K", 256, 110, true}, detail::dequantise_q3_k, 108},
    {{GgufType::kQ4_K, "Q4_K", 256, 144, true}, detail::dequantise_q4_k, 0, 2},
    {{GgufType::kQ5_K, "Q5_K", 256, 176, true}, detail::dequantise_q5_k, 0, 2},
    {{GgufType::kQ6_K, "Q6_K", 256, 210, true}, detail::dequantise_q6_k, 208},
    {{GgufType::kIq4Nl, "IQ4_NL", 32, 18, true}, detail::dequantise_iq4_nl, 0},
    {{GgufType::kIq4Xs, "IQ4_XS", 256, 136, true}, detail::dequantise_iq4_xs, 0},
    {{GgufType::kI8, "I8", 1, 1, false}, nullptr, -1},
    {{GgufType::kI16, "I16", 1, 2, false}, nullptr, -1},
    {{GgufType::kI32, "I32", 1, 4, false}, nullptr, -1},
    {{GgufType::kI64, "I64", 1, 8, false}, nullptr, -1},
    {{GgufType::kF64, "F64", 1, 8, true}, detail::dequantise_f64, -2},
    {{GgufType::kBF16, "BF16", 1, 2, true}, detail::dequantise_bf16, -2},
    {{GgufType::kTq1_0, "TQ1_0", 256, 54, true}, detail::dequantise_tq1_0, 52},
    {{GgufType::kTq2_0, "TQ2_0", 256, 66, true}, detail::dequantise_tq2_0, 64},
    {{GgufType::kMxfp4, "MXFP4", 32, 17, true}, detail::dequantise_mxfp4, -2},
};

// Names of the types that are not read.
constexpr std::pair<int32_t, const char*> kOthers[] = {
    {4, "Q4_2"},      {5, "Q4_3"},      {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"},
    {18, "IQ3_XXS"},  {19, "IQ1_S"},    {21, "IQ3_S"}, {22, "IQ2_S"}, {29, "IQ1_M"},   {31, "Q4_0_4_4"},
    {32, "Q4_0_4_8"}, {33, "Q4_0_8_8"}, {40, "NVFP4"}, {41, "Q1_0"}};

const TypeRow* find_row(int32_t id) {
  for (const TypeRow& row : kRows) {
    if (static_cast<int32_t>(row.info.type) == id) return &row;
  }
  return nullptr;
}

const TypeRow& row_of(GgufType type) {
  const TypeRow* row = find_row(static_cast<int32_t>(type));
  if (row == nullptr) throw Error(ErrorCode::kUsage, "GGUF type", "it is not among the types that are read");
  return *row;
}

bool half_is_finite(const uint8_t* bytes) {
  return (detail::u16_at(bytes) & 0x7C00) != 0x7C00;
}

bool values_are_finite(const TypeRow& row, const uint8_t* blocks, int64_t count) {
  constexpr int64_t kPart = 1024;  // elements at a time; blocks of the types that come here divide it
  float values[kPart];
  const int64_t part = kPart / row.info.elements;
  for (int64_t begin = 0; begin < count; begin += part) {
    const int64_t n = std::min(part, count - begin);
    row.dequantise(blocks + begin * row.info.bytes, n, values);
    float sum = 0;  // of zeros, or NaN
    for (int64_t i = 0; i < n * row.info.elements; ++i) sum += values[i] * 0.0F;
    if (sum != 0.0F) return false;
  }
  return true;
}

}  // namespace

const GgufTypeInfo* find_gguf_type(int32_t id) {
  const TypeRow* row = find_row(id);
  return row == nullptr ? nullptr : &row->info;
}

const GgufTypeInfo& gguf_type_info(GgufType type) {
  return row_of(type).info;
}

std::string gguf_type_text(int32_t id) {
  const char* name = nullptr;
  if (const TypeRow* row = find_row(id)) name = row->info.name;
  for (const auto& [other, text] : kOthers) {
    if (other == id) name = text;
  }
  return name == nullptr ? fmt::format("type {}", id) : fmt::format("{} (type {})", name, id);
}

std::string known_gguf_types() {
  std::string text;
  for (const TypeRow& row : kRows) text += (text.empty() ? "" : ", ") + std::string(row.info.name);
  return text;
}

void dequantise(GgufType type, const std::byte* blocks, int64_t count, float* values) {
  const TypeRow& row = row_of(type);
  if (row.dequantise == nullptr)
    throw Error(ErrorCode::kUsage, row.info.name, "these are integers, expected real numbers");
  row.dequantise(reinterpret_cast<const uint8_t*>(blocks), count, values);
}

bool blocks_are_finite(GgufType type, const std::byte* data, int64_t count) {
  const TypeRow& row = row_of(type);
  const auto* blocks = reinterpret_cast<const uint8_t*>(data);
  if (row.factor == -2) return values_are_finite(row, blocks, count);
  for (const int at : {row.factor, row.other_factor}) {
    if (at < 0) continue;
    for (int64_t i = 0; i < count; ++i) {
      if (!half_is_finite(blocks + i * row.info.bytes + at)) return false;
    }
  }
  return true;
}

}  // namespace msplora
