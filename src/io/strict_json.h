#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace msplora::detail {

/// Parses JSON that other programs wrote. Beyond the grammar it refuses what readers disagree about or that
/// only serves to exhaust memory: duplicate keys, zero bytes, nesting deeper than `max_depth`. Throws
/// Error{kFormat} at `where`; `hint` is passed on.
nlohmann::json parse_strict_json(std::string_view text, const std::string& where, int max_depth,
                                 const std::string& hint = {});

/// The value as text for an error message: ASCII, cut after 80 characters. Never throws.
std::string json_excerpt(const nlohmann::json& value);

}  // namespace msplora::detail
