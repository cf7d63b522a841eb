#pragma once

#include <string>

namespace msplora {

/// nlohmann's JSON as text, on one line unless there is an `indent`. Bytes that are no UTF-8 become
/// replacement characters; never throws.
template <class Json>
std::string dump_json(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

/// The beginning of a value, for messages.
template <class Json>
std::string json_excerpt(const Json& json) {
  constexpr size_t kLongest = 60;
  return dump_json(json).substr(0, kLongest);
}

/// The keys of an object, for messages: the first of them, each cut where it is long; "no keys" without one.
template <class Json>
std::string json_keys(const Json& object) {
  constexpr size_t kMost = 20, kLongest = 60;
  std::string keys;
  size_t count = 0;
  for (const auto& [key, value] : object.items()) {
    keys += (count == 0 ? "" : ", ") + (count < kMost ? key.substr(0, kLongest) : "...");
    if (++count > kMost) break;
  }
  return count == 0 ? "no keys" : keys;
}

}  // namespace msplora
