#include "msplora/core/json_problem.h"

#include <fmt/format.h>

#include <string>

namespace msplora {
namespace {

/// The reason within the library's message: "... - invalid literal; last read: '...'".
std::string reason_of(const std::string& what) {
  constexpr size_t kLongest = 120;
  const size_t begin = what.find(" - "), end = what.find("; last read");
  if (begin == std::string::npos) return {};
  return ": " + what.substr(begin + 3, end == std::string::npos ? end : end - begin - 3).substr(0, kLongest);
}

}  // namespace

std::string json_problem(const nlohmann::json::parse_error& error, size_t bytes) {
  if (bytes == 0) return "the file is empty; expected JSON";
  if (error.byte > bytes)
    return fmt::format("the file is cut short: it ends at byte {} within its JSON", bytes);
  return fmt::format("the file is damaged: no JSON at byte {}{}", error.byte, reason_of(error.what()));
}

}  // namespace msplora
