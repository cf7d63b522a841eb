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

struct TypeRow {
  GgufTypeInfo info;
  detail::ReadNumbers read = nullptr;  // of plain numbers
  detail::TakeApart take_apart = nullptr;
  QuantisedForm form = {};
  // Where a block keeps its binary16 factors, which alone decide whether its values are finite: codes are
  // small. -1: none; -2: look at the values.
  int factor = -1, other_factor = -1;
};

constexpr TypeRow plain(GgufType type, const char* name, int64_t bytes, detail::ReadNumbers read,
                        int factor) {
  return {{type, name, 1, bytes, true}, read, nullptr, {}, factor, -1};
}
constexpr TypeRow integers(GgufType type, const char* name, int64_t bytes) {
  return {{type, name, 1, bytes, false}};
}
constexpr TypeRow quantised(GgufType type, const char* name, int64_t elements, int64_t bytes,
                            detail::TakeApart take_apart, const QuantisedForm& form, int factor,
                            int other_factor = -1) {
  return {{type, name, elements, bytes, true}, nullptr, take_apart, form, factor, other_factor};
}

using namespace detail;
using enum GgufType;

// Factors of their own for runs; lows to be subtracted.
constexpr bool kOwn = true, kOne = false, kLow = true, kNoLow = false;

constexpr TypeRow kRows[] = {
    plain(kF32, "F32", 4, read_f32, -2),
    plain(kF16, "F16", 2, read_f16, 0),
    quantised(kQ4_0, "Q4_0", 32, 18, take_apart_q4_0, {32, kOne, kNoLow, kSignedFourBits}, 0),
    quantised(kQ4_1, "Q4_1", 32, 20, take_apart_q4_1, {32, kOne, kLow, kFourBits}, 0, 2),
    quantised(kQ5_0, "Q5_0", 32, 22, take_apart_q5_0, {32, kOne, kNoLow, nullptr}, 0),
    quantised(kQ5_1, "Q5_1", 32, 24, take_apart_q5_1, {32, kOne, kLow, nullptr}, 0, 2),
    quantised(kQ8_0, "Q8_0", 32, 34, take_apart_q8_0, {32, kOne, kNoLow, nullptr}, 0),
    quantised(kQ2_K, "Q2_K", 256, 84, take_apart_q2_k, {16, kOwn, kLow, kFourBits}, 80, 82),
    quantised(kQ3_K, "Q3_K", 256, 110, take_apart_q3_k, {16, kOwn, kNoLow, kSignedFourBits}, 108),
    quantised(kQ4_K, "Q4_K", 256, 144, take_apart_q4_k, {32, kOwn, kLow, kFourBits}, 0, 2),
    quantised(kQ5_K, "Q5_K", 256, 176, take_apart_q5_k, {32, kOwn, kLow, nullptr}, 0, 2),
    quantised(kQ6_K, "Q6_K", 256, 210, take_apart_q6_k, {16, kOwn, kNoLow, nullptr}, 208),
    quantised(kIq4Nl, "IQ4_NL", 32, 18, take_apart_iq4_nl, {32, kOne, kNoLow, kIq4Values}, 0),
    quantised(kIq4Xs, "IQ4_XS", 256, 136, take_apart_iq4_xs, {32, kOwn, kNoLow, kIq4Values}, 0),
    integers(kI8, "I8", 1),
    integers(kI16, "I16", 2),
    integers(kI32, "I32", 4),
    integers(kI64, "I64", 8),
    plain(kF64, "F64", 8, read_f64, -2),
    plain(kBF16, "BF16", 2, read_bf16, -2),
    quantised(kTq1_0, "TQ1_0", 256, 54, take_apart_tq1_0, {32, kOne, kNoLow, kSignedFourBits}, 52),
    quantised(kTq2_0, "TQ2_0", 256, 66, take_apart_tq2_0, {32, kOne, kNoLow, kSignedFourBits}, 64),
    quantised(kMxfp4, "MXFP4", 32, 17, take_apart_mxfp4, {32, kOne, kNoLow, kFp4Values}, -2),
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

void values_of(const TypeRow& row, const uint8_t* data, int64_t count, float* values) {
  if (row.read != nullptr) return row.read(data, count, values);
  BlockParts parts;
  for (int64_t i = 0; i < count; ++i, data += row.info.bytes, values += row.info.elements) {
    row.take_apart(data, parts);
    put_together(parts, row.info.elements, row.form.run, values);
  }
}

bool half_is_finite(const uint8_t* bytes) {
  return (u16_at(bytes) & 0x7C00) != 0x7C00;
}

bool values_are_finite(const TypeRow& row, const uint8_t* blocks, int64_t count) {
  constexpr int64_t kPart = 1024;  // elements at a time; blocks of the types that come here divide it
  float values[kPart];
  const int64_t part = kPart / row.info.elements;
  for (int64_t begin = 0; begin < count; begin += part) {
    const int64_t n = std::min(part, count - begin);
    values_of(row, blocks + begin * row.info.bytes, n, values);
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
  if (!row.info.is_real)
    throw Error(ErrorCode::kUsage, row.info.name, "these are integers, expected real numbers");
  values_of(row, reinterpret_cast<const uint8_t*>(blocks), count, values);
}

const QuantisedForm* quantised_form(GgufType type) {
  const TypeRow& row = row_of(type);
  return row.take_apart == nullptr ? nullptr : &row.form;
}

void take_apart(GgufType type, const std::byte* block, BlockParts& parts) {
  const TypeRow& row = row_of(type);
  if (row.take_apart == nullptr)
    throw Error(ErrorCode::kUsage, row.info.name, "these are numbers, expected quantised blocks");
  row.take_apart(reinterpret_cast<const uint8_t*>(block), parts);
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
