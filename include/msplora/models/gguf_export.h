#pragma once

#include <string>

#include "msplora/gguf/types.h"
#include "msplora/gguf/writer.h"
#include "msplora/models/model.h"

namespace msplora {

/// Sets the keys of a language model and adds its tensors, under the names and in the layout that llama.cpp
/// reads (models/gguf.h). Matrices are of `type`, or F16 where its blocks do not divide their rows; vectors
/// and tables of positions are F32. The model must live until the file is written; tokens are for
/// export_tokenizer() to add.
///
/// What GGUF has no key for must be what readers take for granted, and windows that they do not know end the
/// context before they matter. Throws Error{kUsage} naming what a file could not say, Error{kModel} for
/// models that GGUF does not know.
void export_model(Model& model, GgufType type, const std::string& name, GgufWriter& to);

/// The longest sequence that a file of the model is made for.
int64_t gguf_context(const Model& model);

/// Why readers of a file with these keys would compute something else than `architecture`, or "".
std::string gguf_difference(const Architecture& architecture, const Architecture& read);

}  // namespace msplora
