#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "msplora/core/error.h"

namespace msplora::detail {

/// What is asked of JSON beyond its grammar, and how it is refused.
struct JsonRules {
  int max_depth = 64;  // values that are nested deeper would overflow the stack where they are copied
  size_t most_keys = static_cast<size_t>(-1);  // of one object
  ErrorCode code = ErrorCode::kFormat;
  std::string hint = {};
};

/// Parses JSON that other programs wrote: the one reader of such texts. Beyond the grammar it refuses what
/// readers disagree about or that only serves to exhaust memory: duplicate keys, zero bytes, too deep
/// nesting. Throws Error at `where`; of nesting and of keys the outermost key is named too.
/// `Json` is nlohmann::json or ordered_json.
template <class Json>
Json parse_strict(std::string_view text, const std::string& where, const JsonRules& rules = {});

/// The same of an unordered value, for which most callers ask.
nlohmann::json parse_strict_json(std::string_view text, const std::string& where, int max_depth = 64,
                                 const std::string& hint = {});

/// The same for lines that may have been cut, as of a log: nothing where parse_strict_json would throw.
std::optional<nlohmann::json> try_strict_json(std::string_view text);

/// Where a zero byte stands in a text, which nlohmann's parsers would take for its end; npos for nowhere.
inline size_t find_zero_byte(std::string_view text) {
  return text.find('\0');
}

/// The value as text for an error message: ASCII, cut after 80 characters. Never throws.
std::string json_excerpt(const nlohmann::json& value);

}  // namespace msplora::detail
