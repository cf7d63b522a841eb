#pragma once

#include <memory>

#include "tokenizers/decoders.h"

namespace msplora::detail {

/// "ByteLevel": characters of GPT-2's alphabet are bytes.
std::unique_ptr<const Decoder> make_byte_level_decoder();
/// "ByteFallback": tokens like <0x41> are bytes.
std::unique_ptr<const Decoder> make_byte_fallback_decoder();

}  // namespace msplora::detail
