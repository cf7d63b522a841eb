#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "msplora/data/dataset.h"

namespace msplora {

/// A row of a JSON or JSONL file, whose keys keep their order. `where` names file and line. Throws
/// Error{kData} with the place of the fault for what is not JSON, longer than `most_bytes`, nested deeper
/// than 64, or has a key twice or more than 4096 keys in an object.
nlohmann::ordered_json parse_row(const std::string& text, const std::string& where,
                                 size_t most_bytes = kMostRowBytes);

}  // namespace msplora
