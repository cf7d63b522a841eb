#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "report/colours.h"

namespace msplora::report {

/// A PNG file of width * height pixels, rows from the top, each an index into the palette (at most 256
/// colours). The last colour of the palette is transparent. Throws Error{kUsage} where sizes do not fit.
std::string png(size_t width, size_t height, const std::vector<uint8_t>& pixels,
                const std::vector<Colour>& palette);

}  // namespace msplora::report
