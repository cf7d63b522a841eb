#pragma once

#include <string>

#include "program.h"

namespace msplora {

/// Reads model and data of the recipe and prints the intrinsic dimension behind every layer, with the ranks
/// that `train` would use.
void print_dimension_profile(const std::string& recipe_file, const CommonOptions& common);

}  // namespace msplora
