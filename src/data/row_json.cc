#include "msplora/data/row_json.h"

#include <fmt/format.h>

#include <vector>

#include "msplora/core/error.h"

namespace msplora {

namespace {

/// The reason within the library's message: "... - invalid string: surrogate ...; last read: '...'".
std::string reason_of(const std::string& what) {
  const size_t begin = what.find(" - "), end = what.find("; last read");
  if (begin == std::string::npos) return "";
  return ": " + what.substr(begin + 3, end == std::string::npos ? end : end - begin - 3).substr(0, 120);
}

}  // namespace

nlohmann::ordered_json parse_row(const std::string& text, const std::string& where, size_t most_bytes) {
  using Json = nlohmann::ordered_json;
  constexpr size_t kMostKeys = 4096;  // objects that keep order take time by the square of their keys
  constexpr int kDeepest = 64;
  if (text.size() > most_bytes) check_row_size(text.size(), where);
  std::vector<size_t> keys;
  const auto count = [&](int depth, Json::parse_event_t event, Json&) {
    if (event == Json::parse_event_t::object_start) keys.push_back(0);
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && ++keys.back() > kMostKeys)
      throw Error(ErrorCode::kData, where, fmt::format("an object has more than {} keys", kMostKeys));
    if (depth > kDeepest)
      throw Error(ErrorCode::kData, where, fmt::format("nested deeper than {}", kDeepest));
    return true;
  };
  try {
    return Json::parse(text, count);
  } catch (const Json::parse_error& error) {
    throw Error(ErrorCode::kData, where,
                fmt::format("not JSON (byte {}){}", error.byte, reason_of(error.what())));
  } catch (const Json::exception&) {
    throw Error(ErrorCode::kData, where, "not JSON");
  }
}

}  // namespace msplora
