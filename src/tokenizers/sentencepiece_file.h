#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/charsmap.h"

namespace msplora::detail {

/// What a SentencePiece model file (tokenizer.model, a protobuf message) holds, as far as reading text asks.
struct SentencePieceFile {
  enum class Type { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  struct Entry {
    std::string text;
    float score = 0;
    Type type = Type::kNormal;
  };
  std::vector<Entry> pieces;  // by id
  int32_t unk_id = 0;         // the one piece of type kUnknown
  bool is_bpe = false;        // else Unigram
  bool byte_fallback = false;
  bool whitespace_as_suffix = false;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  Charsmap charsmap;
  std::string unk_surface = " \xE2\x81\x87 ";  // what the unknown piece is decoded to
  // Names of the special pieces by role; empty where the model has none.
  std::string bos, eos, pad;
};

/// Sets unk_id and checks that pieces are there, once each, with one of type unknown and, for byte_fallback,
/// one for every byte. Throws std::invalid_argument.
void check_pieces(SentencePieceFile& file);

/// Throws Error{kFormat} naming `path` and what is wrong. Takes no more memory than a few times the content.
SentencePieceFile parse_sentencepiece(std::string_view content, const std::filesystem::path& path);

}  // namespace msplora::detail
