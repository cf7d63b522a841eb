#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace msplora {

/// What people can be told of a text that is not JSON: "cut short: it ends at byte 120 within its JSON", or
/// "damaged at byte 17: invalid literal". `bytes`: the length of the text.
std::string json_problem(const nlohmann::json::parse_error& error, size_t bytes);

}  // namespace msplora
