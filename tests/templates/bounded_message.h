#pragma once

#include <ctime>
#include <nlohmann/json.hpp>
#include <string>

#include "templates/budget.h"
#include "templates/interpreter.h"
#include "templates/syntax.h"

namespace msplora {

/// What a template writes that may do `most_work`, behind "rendered: ", or why it does not.
inline std::string bounded_message(const std::string& source, size_t most_work) {
  int line = 1;
  try {
    const nlohmann::ordered_json variables = nlohmann::ordered_json::object();
    const templates::Body body = templates::parse(source, line);
    return "rendered: " +
           templates::Interpreter(variables, std::time(nullptr), line, most_work).run(body).text;
  } catch (const templates::Failure& failure) {
    return failure.message;
  }
}

}  // namespace msplora
