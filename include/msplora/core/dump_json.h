#pragma once

#include <string>

namespace msplora {

/// nlohmann's JSON as text, on one line unless there is an `indent`. Bytes that are no UTF-8 become
/// replacement characters; never throws.
template <class Json>
std::string dump_json(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace msplora
