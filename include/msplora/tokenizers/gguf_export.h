#pragma once

#include <cstdint>
#include <filesystem>

#include "msplora/gguf/writer.h"

namespace msplora {

/// The tokenizer of a model directory, or of a GGUF file, and its chat templates as the keys `tokenizer.*`,
/// for a model whose table of words has `rows` rows: rows without a token get one that no text has.
///
/// Byte-level BPE (with a pattern that GGUF has a name for) and BPE of SentencePiece's kind have a form
/// there. Throws Error{kUsage} naming the part that has none. `architecture` is the name that GGUF has for
/// the model.
void export_tokenizer(const std::filesystem::path& model, int64_t rows, GgufWriter& to);

}  // namespace msplora
