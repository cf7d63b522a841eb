#include "msplora/tokenizers/gguf_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/chat_templates.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/tokenizers/tokenizer.h"
#include "tokenizers/byte_pieces.h"
#include "tokenizers/sentencepiece_file.h"
#include "tokenizers/tokenizer_files.h"
#include "tokenizers/word_starts.h"

namespace msplora {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {

using detail::kWordStart;
using detail::SentencePieceFile;
using detail::TokenizerFiles;

[[noreturn]] void refuse(const fs::path& source, const std::string& what) {
  throw Error(ErrorCode::kUsage, source.string(), "GGUF has no form for " + what,
              "leave out --format gguf: a Hugging Face directory takes any tokenizer");
}

/// The tokens by id, as files have them.
struct GgufTokens {
  std::vector<std::string> texts;
  std::vector<float> scores;
  std::vector<int32_t> types;

  explicit GgufTokens(int64_t rows) {
    for (int64_t i = 0; i < rows; ++i) texts.push_back(fmt::format("[PAD{}]", i));
    scores.assign(texts.size(), -10000.0F);
    types.assign(texts.size(), static_cast<int32_t>(GgufTokenType::kUnused));
  }
  void set(int64_t id, const std::string& text, GgufTokenType type, float score = 0.0F) {
    if (id < 0 || id >= static_cast<int64_t>(texts.size())) return;  // load_tokenizer says so
    const auto at = static_cast<size_t>(id);
    texts[at] = text;
    types[at] = static_cast<int32_t>(type);
    scores[at] = score;
  }
  bool is_normal(int64_t id) const {
    return id >= 0 && id < static_cast<int64_t>(types.size()) &&
           types[static_cast<size_t>(id)] == static_cast<int32_t>(GgufTokenType::kNormal);
  }
};

/// "left", "right" of an entry of `merges`, in either of its forms.
std::pair<std::string, std::string> merge_of(const json& entry) {
  if (entry.is_array()) return {entry.at(0).get<std::string>(), entry.at(1).get<std::string>()};
  const auto text = entry.get<std::string>();
  const size_t space = text.find(' ', 1);
  return {text.substr(0, space), text.substr(space + 1)};
}

void set_added(const TokenizerFiles& files, GgufTokens& tokens) {
  const auto added = files.tokenizer.find("added_tokens");
  if (added == files.tokenizer.end()) return;
  for (const json& entry : *added) {
    const bool is_special = entry.value("special", false);
    const auto id = entry.at("id").get<int64_t>();
    const bool is_unknown =
        id >= 0 && id < static_cast<int64_t>(tokens.types.size()) &&
        tokens.types[static_cast<size_t>(id)] == static_cast<int32_t>(GgufTokenType::kUnknown);
    const auto content = entry.at("content").get<std::string>();
    // Runs of spaces are pieces that merges make; as tokens that are looked for they would go first.
    const bool is_merged =
        !is_special && content.find(kWordStart) != std::string::npos && tokens.is_normal(id);
    if (is_unknown || is_merged) continue;
    tokens.set(id, content, is_special ? GgufTokenType::kControl : GgufTokenType::kUserDefined);
  }
}

/// Byte-level BPE.
void set_byte_level(const TokenizerFiles& files, int64_t rows, GgufWriter& to) {
  const json& model = files.tokenizer.at("model");
  const std::string pre = detail::gguf_pre_name(files.tokenizer);
  if (pre.empty()) refuse(files.source, "the pattern that this tokenizer cuts text with");
  GgufTokens tokens(rows);
  for (const auto& [text, id] : model.at("vocab").items()) tokens.set(id, text, GgufTokenType::kNormal);
  set_added(files, tokens);
  std::vector<std::string> merges;
  for (const json& entry : model.at("merges")) {
    const auto [left, right] = merge_of(entry);
    merges.push_back(left + " " + right);
  }
  to.set(gguf_key::kTokenizerModel, "gpt2");
  to.set(gguf_key::kTokenizerPre, pre);
  to.set_texts(gguf_key::kTokens, tokens.texts);
  to.set_integers(gguf_key::kTokenTypes, tokens.types);
  to.set_texts(gguf_key::kMerges, merges);
}

std::string with_spaces(std::string text) {
  for (size_t at = text.find(kWordStart); at != std::string::npos; at = text.find(kWordStart, at))
    text.replace(at, kWordStart.size(), " ");
  return text;
}

/// The pieces of a SentencePiece model; without one, of a tokenizer.json that was made from one: the merge
/// that comes first gives the highest score.
void set_pieces(const TokenizerFiles& files, const std::optional<SentencePieceFile>& file,
                GgufTokens& tokens) {
  if (file) {
    for (size_t id = 0; id < file->pieces.size(); ++id) {
      SentencePieceFile::Entry piece = file->pieces[id];
      // What was added by hand is looked for in text, where a space is a space.
      if (piece.type == SentencePieceFile::Type::kUserDefined) piece.text = with_spaces(piece.text);
      tokens.set(static_cast<int64_t>(id), piece.text, static_cast<GgufTokenType>(piece.type), piece.score);
    }
    return;
  }
  const json& model = files.tokenizer.at("model");
  std::unordered_map<std::string, float> ranks;
  float rank = 0.0F;
  for (const json& entry : model.at("merges")) {
    const auto [left, right] = merge_of(entry);
    ranks.emplace(left + right, -(rank += 1.0F));
  }
  const std::string unknown = model.value("unk_token", json()).is_string() ? model["unk_token"] : json("");
  for (const auto& [text, id] : model.at("vocab").items()) {
    const auto found = ranks.find(text);
    const GgufTokenType type = text == unknown                    ? GgufTokenType::kUnknown
                               : detail::byte_of_piece(text) >= 0 ? GgufTokenType::kByte
                                                                  : GgufTokenType::kNormal;
    tokens.set(id, text, type, found == ranks.end() ? 0.0F : found->second);
  }
}

void set_sentencepiece(const TokenizerFiles& files, const std::optional<SentencePieceFile>& file,
                       int64_t rows, const Tokenizer& tokenizer, GgufWriter& to) {
  GgufTokens tokens(rows);
  set_pieces(files, file, tokens);
  set_added(files, tokens);
  to.set(gguf_key::kTokenizerModel, "llama");
  to.set(gguf_key::kTokenizerPre, "default");
  to.set_texts(gguf_key::kTokens, tokens.texts);
  to.set_numbers(gguf_key::kScores, tokens.scores);
  to.set_integers(gguf_key::kTokenTypes, tokens.types);
  if (file && file->remove_extra_whitespaces) to.set_flag(gguf_key::kRemoveExtraSpaces, true);
  EncodeOptions plain;
  plain.add_special_tokens = false;
  const std::vector<int32_t> ids = tokenizer.encode({"a", {}}, plain).ids;
  to.set_flag(gguf_key::kAddSpacePrefix,
              !ids.empty() && tokenizer.id_to_token(ids[0]).starts_with(kWordStart));
}

/// The tokens of special roles, and those that stand around every text.
void set_roles(const Tokenizer& tokenizer, const fs::path& source, GgufWriter& to) {
  EncodeOptions plain;
  plain.add_special_tokens = false;
  const std::vector<int32_t> text = tokenizer.encode({"a", {}}, plain).ids,
                             all = tokenizer.encode({"a", {}}).ids;
  const auto found = std::search(all.begin(), all.end(), text.begin(), text.end());
  const auto before = found - all.begin();
  const auto behind = all.end() - found - static_cast<std::ptrdiff_t>(text.size());
  if (found == all.end() || before > 1 || behind > 1)
    refuse(source, "more than one token before or behind a text");
  const std::optional<int32_t> bos = before == 1 ? std::optional(all.front()) : tokenizer.bos_id(),
                               eos = behind == 1 ? std::optional(all.back()) : tokenizer.eos_id();
  const std::pair<const char*, std::optional<int32_t>> roles[] = {{gguf_key::kBosId, bos},
                                                                  {gguf_key::kEosId, eos},
                                                                  {gguf_key::kUnknownId, tokenizer.unk_id()},
                                                                  {gguf_key::kPaddingId, tokenizer.pad_id()}};
  for (const auto& [key, id] : roles) {
    if (id) to.set_integer(key, *id);
  }
  to.set_flag(gguf_key::kAddBos, before == 1);
  to.set_flag(gguf_key::kAddEos, behind == 1);
}

/// chat_template of tokenizer_config.json, one or several with names, and chat_template.jinja.
void set_templates(const fs::path& directory, const json& config, GgufWriter& to) {
  std::vector<std::string> names;
  const auto found = config.find("chat_template");
  if (found != config.end() && !found->is_null()) {
    const std::string where = (directory / "tokenizer_config.json").string() + ": chat_template";
    for (const auto& [name, text] : detail::named_chat_templates(*found, where)) {
      const bool is_default = name == "default";
      to.set(is_default ? gguf_key::kChatTemplate : fmt::format("{}.{}", gguf_key::kChatTemplate, name),
             text);
      if (!is_default) names.push_back(name);
    }
  }
  const fs::path file = directory / detail::kChatTemplateFile;
  std::error_code ignored;
  if (fs::exists(file, ignored)) to.set(gguf_key::kChatTemplate, read_file(file));
  if (!names.empty()) to.set_texts("tokenizer.chat_templates", names);
}

/// The model of a directory that has no tokenizer.json beside it.
std::optional<SentencePieceFile> sentencepiece_of(const TokenizerFiles& files) {
  const bool is_pieces = files.source.extension() == ".model" && !detail::holds_ranks(files.other_file);
  if (!is_pieces) return std::nullopt;
  return detail::parse_sentencepiece(files.other_file, files.source);
}

void check_pieces_form(const fs::path& source, const SentencePieceFile& pieces) {
  if (!pieces.is_bpe) refuse(source, "a Unigram model");
  if (!pieces.byte_fallback) refuse(source, "a SentencePiece model without byte fallback");
  if (!pieces.charsmap.empty()) refuse(source, "a SentencePiece model that replaces characters beforehand");
  if (pieces.whitespace_as_suffix || !pieces.escape_whitespaces)
    refuse(source, "how this model marks spaces");
}

/// Whether a space is put before a text only where none stands there.
bool prepends_once(const json& tokenizer) {
  const json steps = tokenizer.value("pre_tokenizer", json());
  return steps.is_object() && steps.value("type", "") == "Metaspace" &&
         steps.value("prepend_scheme", "always") != "never";
}

void export_directory(const fs::path& directory, int64_t rows, GgufWriter& to) {
  const auto tokenizer = Tokenizer::load(directory);
  const TokenizerFiles files = detail::read_tokenizer_files(directory);
  const std::optional<SentencePieceFile> pieces = sentencepiece_of(files);
  const json model =
      files.tokenizer.is_object() ? files.tokenizer.value("model", json::object()) : json::object();
  const std::string type =
      model.is_object() ? model.value("type", model.contains("merges") ? "BPE" : "") : "";
  if (pieces) check_pieces_form(files.source, *pieces);
  if (type.empty() && !pieces) refuse(files.source, "a vocabulary of this kind");
  if (!type.empty() && type != "BPE") refuse(files.source, "a tokenizer of type " + type);
  if (!pieces && files.tokenizer.is_object() && prepends_once(files.tokenizer))
    refuse(files.source, "a space before texts that depends on whether they begin with one (Metaspace)");
  if (pieces || model.value("byte_fallback", false)) {
    set_sentencepiece(files, pieces, rows, *tokenizer, to);
  } else {
    set_byte_level(files, rows, to);
  }
  set_roles(*tokenizer, files.source, to);
  set_templates(directory, files.config, to);
}

}  // namespace

void export_tokenizer(const fs::path& model, int64_t rows, GgufWriter& to) {
  if (!is_gguf_path(model)) return export_directory(model, rows, to);
  const auto file = GgufFile::open(model);
  for (const auto& [key, value] : file->values()) {
    if (key.starts_with("tokenizer.")) to.copy(*file, key);
  }
}

}  // namespace msplora
