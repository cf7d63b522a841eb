#pragma once

#include <c10/core/ScalarType.h>

#include <array>
#include <cstdint>
#include <string_view>

namespace msplora::detail {

/// The limit of the reference implementation.
inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

struct SafetensorsDtype {
  std::string_view name;
  at::ScalarType type;
};

/// In the order in which Hugging Face writes tensors: the wider alignment first, so that every tensor is
/// aligned.
inline constexpr std::array<SafetensorsDtype, 10> kSafetensorsDtypes = {{
    {"I64", at::kLong},
    {"F64", at::kDouble},
    {"F32", at::kFloat},
    {"I32", at::kInt},
    {"BF16", at::kBFloat16},
    {"F16", at::kHalf},
    {"I16", at::kShort},
    {"I8", at::kChar},
    {"U8", at::kByte},
    {"BOOL", at::kBool},
}};

}  // namespace msplora::detail
