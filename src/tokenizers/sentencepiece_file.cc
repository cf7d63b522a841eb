#include "tokenizers/sentencepiece_file.h"

#include <cmath>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "msplora/core/error.h"
#include "tokenizers/byte_pieces.h"
#include "tokenizers/protobuf.h"
#include "tokenizers/unicode.h"
#include "tokenizers/vocabulary.h"

namespace msplora::detail {
namespace {

using Entry = SentencePieceFile::Entry;
using Type = SentencePieceFile::Type;

// The roles that the training settings name.
struct RoleIds {
  int32_t bos = 1, eos = 2, pad = -1;
};

Entry parse_piece(std::string_view message) {
  Entry entry;
  ProtobufReader reader(message);
  while (const auto field = reader.next()) {
    if (field->number == 1) {
      entry.text = field->text();
    } else if (field->number == 2) {
      entry.score = field->real();
    } else if (field->number == 3) {
      const int32_t type = field->integer();
      if (type < 1 || type > 6) throw std::invalid_argument("unknown type " + std::to_string(type));
      entry.type = static_cast<Type>(type);
    }
  }
  std::string buffer;
  if (entry.text.empty()) throw std::invalid_argument("the piece is empty");
  if (valid_utf8(entry.text, buffer).data() != entry.text.data())
    throw std::invalid_argument("the piece is not well-formed UTF-8");
  if (!std::isfinite(entry.score)) throw std::invalid_argument("the score is not a finite number");
  return entry;
}

void parse_training(std::string_view message, SentencePieceFile& file, RoleIds& roles) {
  ProtobufReader reader(message);
  while (const auto field = reader.next()) {
    switch (field->number) {
      case 3: {
        const int32_t type = field->integer();
        if (type != 1 && type != 2) {
          throw std::invalid_argument("the model is of type " + std::to_string(type) +
                                      ", expected 1 (Unigram) or 2 (BPE)");
        }
        file.is_bpe = type == 2;
        break;
      }
      case 24:
        file.whitespace_as_suffix = field->boolean();
        break;
      case 35:
        file.byte_fallback = field->boolean();
        break;
      case 41:
        roles.bos = field->integer();
        break;
      case 42:
        roles.eos = field->integer();
        break;
      case 43:
        roles.pad = field->integer();
        break;
      case 44:
        file.unk_surface = field->text();
        break;
      default:
        break;
    }
  }
}

void parse_normalizer(std::string_view message, SentencePieceFile& file) {
  ProtobufReader reader(message);
  while (const auto field = reader.next()) {
    switch (field->number) {
      case 2:
        file.charsmap = Charsmap(field->text());
        break;
      case 3:
        file.add_dummy_prefix = field->boolean();
        break;
      case 4:
        file.remove_extra_whitespaces = field->boolean();
        break;
      case 5:
        file.escape_whitespaces = field->boolean();
        break;
      default:
        break;
    }
  }
}

}  // namespace

void check_pieces(SentencePieceFile& file) {
  if (file.pieces.empty()) throw std::invalid_argument("it holds no pieces");
  std::unordered_set<std::string_view> seen;
  size_t unknown = 0;
  for (size_t i = 0; i < file.pieces.size(); ++i) {
    const Entry& entry = file.pieces[i];
    if (!seen.insert(entry.text).second)
      throw std::invalid_argument("piece " + std::to_string(i) + ": \"" + entry.text + "\" is there twice");
    if (entry.type != Type::kUnknown) continue;
    file.unk_id = static_cast<int32_t>(i);
    ++unknown;
  }
  if (unknown != 1)
    throw std::invalid_argument("expected one piece of type unknown, found " + std::to_string(unknown));
  if (!file.byte_fallback) return;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const std::string name = byte_piece(static_cast<uint8_t>(byte));
    if (!seen.contains(name))
      throw std::invalid_argument("byte_fallback is on, but the piece " + name + " is missing");
  }
}

namespace {

SentencePieceFile parse(std::string_view content) {
  SentencePieceFile file;
  RoleIds roles;
  ProtobufReader reader(content);
  while (const auto field = reader.next()) {
    if (field->number == 1) {
      if (file.pieces.size() > static_cast<size_t>(Vocabulary::kLargestId))
        throw std::invalid_argument("there are too many pieces");
      try {
        file.pieces.push_back(parse_piece(field->text()));
      } catch (const std::invalid_argument& error) {
        throw std::invalid_argument("piece " + std::to_string(file.pieces.size()) + ": " + error.what());
      }
    } else if (field->number == 2) {
      parse_training(field->text(), file, roles);
    } else if (field->number == 3) {
      parse_normalizer(field->text(), file);
    }
  }
  check_pieces(file);
  const auto name = [&](int32_t id) {
    const bool has = id >= 0 && static_cast<size_t>(id) < file.pieces.size();
    return has ? file.pieces[static_cast<size_t>(id)].text : std::string();
  };
  file.bos = name(roles.bos);
  file.eos = name(roles.eos);
  file.pad = name(roles.pad);
  return file;
}

}  // namespace

SentencePieceFile parse_sentencepiece(std::string_view content, const std::filesystem::path& path) {
  try {
    return parse(content);
  } catch (const std::invalid_argument& error) {
    throw Error(ErrorCode::kFormat, path.string(),
                std::string("not a usable SentencePiece model: ") + error.what(),
                "expected a tokenizer.model as SentencePiece writes it");
  }
}

}  // namespace msplora::detail
