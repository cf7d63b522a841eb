#include "io/strict_json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "msplora/core/error.h"

namespace msplora::detail {

using nlohmann::json;

json parse_strict_json(std::string_view text, const std::string& where, int max_depth,
                       const std::string& hint) {
  // nlohmann takes a zero byte for the end of the input and would ignore whatever follows.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    throw Error(ErrorCode::kFormat, where,
                fmt::format("expected JSON, found a zero byte at position {}", zero), hint);
  }
  std::vector<std::unordered_set<std::string>> keys;
  const auto check = [&](int depth, json::parse_event_t event, json& value) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        if (depth >= max_depth) {
          throw Error(ErrorCode::kFormat, where,
                      fmt::format("expected JSON nested at most {} levels deep", max_depth), hint);
        }
        if (event == json::parse_event_t::object_start) keys.emplace_back();
        break;
      case json::parse_event_t::object_end:
        keys.pop_back();
        break;
      case json::parse_event_t::key:
        if (const auto& key = value.get_ref<const std::string&>(); !keys.back().insert(key).second) {
          throw Error(ErrorCode::kFormat, where, fmt::format("the key `{}` appears twice in one object", key),
                      hint);
        }
        break;
      default:
        break;
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), check);
  } catch (const json::exception& error) {
    throw Error(ErrorCode::kFormat, where, std::string("expected JSON, found: ") + error.what(), hint);
  }
}

std::string json_excerpt(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 80) {
    text.resize(77);
    text.append("...");
  }
  return text;
}

}  // namespace msplora::detail
