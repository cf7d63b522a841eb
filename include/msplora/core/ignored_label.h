#pragma once

#include <cstdint>

namespace msplora {

/// Marks a label that takes no part in the loss (the Hugging Face convention).
inline constexpr int64_t kIgnoredLabel = -100;

}  // namespace msplora
