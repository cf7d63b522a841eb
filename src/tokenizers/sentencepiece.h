#pragma once

#include <memory>
#include <string>

#include "tokenizers/decoders.h"
#include "tokenizers/model.h"
#include "tokenizers/normalizers.h"
#include "tokenizers/sentencepiece_file.h"

namespace msplora::detail {

// The parts of a tokenizer that gives SentencePiece's own ids, pieces and texts. They differ from those of a
// tokenizer.json converted from the same model: rules are matched longest first, user-defined pieces are no
// tokens of their own, bytes that are not UTF-8 become one U+FFFD each.

/// Reads any bytes; what it gives is well-formed UTF-8.
std::unique_ptr<const Normalizer> make_sentencepiece_normalizer(const SentencePieceFile& file);
std::unique_ptr<const Model> make_sentencepiece_model(const SentencePieceFile& file);
std::unique_ptr<const Decoder> make_sentencepiece_decoder(const SentencePieceFile& file);

}  // namespace msplora::detail
