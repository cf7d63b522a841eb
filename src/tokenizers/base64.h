#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace msplora::detail {

/// The bytes that `text` (RFC 4648, with padding or without) stands for; nothing when it is not base64.
std::optional<std::string> decode_base64(std::string_view text);

}  // namespace msplora::detail
