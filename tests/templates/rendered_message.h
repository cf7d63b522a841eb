#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "msplora/core/error.h"
#include "msplora/templates/template.h"

namespace msplora {

/// What a template writes, behind "rendered: ", or why it does not.
inline std::string rendered_message(
    const std::string& source, const nlohmann::ordered_json& variables = nlohmann::ordered_json::object()) {
  try {
    return "rendered: " + Template(source).render(variables).text.substr(0, 400);
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace msplora
