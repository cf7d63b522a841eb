#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "tokenizers/sentencepiece.h"
#include "tokenizers/sentencepiece_file.h"
#include "tokenizers/tokenizer_files.h"
#include "tokenizers/tokenizer_json.h"

namespace msplora::detail {
namespace fs = std::filesystem;
using nlohmann::json;
namespace {

using Type = SentencePieceFile::Type;

// What stands around a text; of transformers' classes those that change nothing else.
enum class Surroundings { kNone, kBegin, kEnd };

std::optional<Surroundings> surroundings_of(std::string name) {
  for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  for (const char* end : {"fast", "tokenizer"}) {
    if (name.ends_with(end)) name.resize(name.size() - std::string_view(end).size());
  }
  for (const char* begins :
       {"llama", "codellama", "mistral", "mixtral", "gemma", "gemma2", "gemma3", "gemma3_text"})
    if (name == begins) return Surroundings::kBegin;
  if (name == "t5" || name == "mt5") return Surroundings::kEnd;
  return std::nullopt;
}

Surroundings find_surroundings(const TokenizerFiles& files) {
  const fs::path directory = files.source.parent_path();
  const json model = read_json_if_any(directory / "config.json");
  std::string name;
  for (const auto& [document, key] :
       {std::pair(&files.config, "tokenizer_class"), std::pair(&model, "model_type")}) {
    const auto found = document->find(key);
    if (name.empty() && found != document->end() && found->is_string()) name = found->get<std::string>();
  }
  if (name.empty()) return Surroundings::kNone;
  if (const auto known = surroundings_of(name)) return *known;
  throw Error(
      ErrorCode::kFormat, files.source.string(),
      "the tokenizer of " + name +
          " does more than its SentencePiece model says (other ids, or text "
          "changed beforehand)",
      "write a tokenizer.json with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)");
}

// transformers' classes find these pieces in a text, which SentencePiece alone does not.
void add_special_pieces(const SentencePieceFile& file, json& result) {
  std::vector<std::string> names = {file.bos, file.eos};
  if (file.unk_id >= 0) names.push_back(file.pieces[static_cast<size_t>(file.unk_id)].text);
  for (size_t i = 0; i < file.pieces.size(); ++i) {
    const std::string& piece = file.pieces[i].text;
    const bool is_named = !piece.empty() && std::find(names.begin(), names.end(), piece) != names.end();
    if (is_named) result.push_back(added_token(static_cast<int64_t>(i), piece, true));
  }
}

// Tokens that the directory adds behind the pieces.
json added_tokens(const TokenizerFiles& files, size_t pieces, Surroundings around) {
  json result = json::array();
  const auto add = [&](int64_t id, const std::string& content, bool special) {
    if (id < static_cast<int64_t>(pieces)) return;
    for (const json& known : result)
      if (known["id"] == id) return;
    result.push_back(added_token(id, content, special));
  };
  const fs::path path = files.source.parent_path() / "added_tokens.json";
  const json old_form = read_json_if_any(path);
  for (const auto& item : old_form.items()) {
    if (!item.value().is_number_integer())
      throw Error(ErrorCode::kFormat, path.string() + ": " + item.key(), "expected an integer id");
    add(item.value().get<int64_t>(), item.key(), false);
  }
  const std::string config = (files.source.parent_path() / "tokenizer_config.json").string();
  const JsonView view(files.config, config);
  if (const auto decoder = view.find("added_tokens_decoder")) {
    for (const auto& item : decoder->node().items()) {
      const JsonView token = decoder->at(item.key());
      const bool is_number = item.key().size() < 10 &&
                             item.key().find_first_not_of("0123456789") == std::string::npos &&
                             !item.key().empty();
      if (!is_number) token.fail("expected an id as key, found \"" + item.key() + "\"");
      add(std::stoll(item.key()), token.at("content").string(), token.boolean_or("special", false));
    }
  }
  // T5's sentinels, from the last id down.
  if (around == Surroundings::kEnd && result.empty()) {
    const auto extra = view.find("extra_ids");
    const int64_t count = extra ? extra->integer(0, 1 << 16) : 100;
    for (int64_t i = 0; i < count; ++i) {
      add(static_cast<int64_t>(pieces) + i, "<extra_id_" + std::to_string(count - 1 - i) + ">", true);
    }
  }
  if (!result.empty() && around == Surroundings::kBegin && !view.boolean_or("legacy", true)) {
    throw Error(
        ErrorCode::kFormat, config,
        "with `legacy: false`, text behind an added token is read otherwise than SentencePiece does",
        "write a tokenizer.json with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)");
  }
  return result;
}

std::optional<NamedToken> named_piece(const SentencePieceFile& file, const std::string& text) {
  for (size_t i = 0; i < file.pieces.size(); ++i) {
    if (file.pieces[i].text == text) return NamedToken{text, static_cast<int64_t>(i)};
  }
  return std::nullopt;
}

}  // namespace

TokenizerParts make_sentencepiece_parts(const SentencePieceFile& file) {
  TokenizerParts parts;
  parts.normalizer = make_sentencepiece_normalizer(file);
  parts.model = make_sentencepiece_model(file);
  parts.decoder = make_sentencepiece_decoder(file);
  for (size_t i = 0; i < file.pieces.size(); ++i) {
    if (file.pieces[i].type == Type::kControl) parts.special.push_back(static_cast<int32_t>(i));
  }
  return parts;
}

void read_sentencepiece_tokenizer(TokenizerFiles& files) {
  const SentencePieceFile file = parse_sentencepiece(files.other_file, files.source);
  const Surroundings around = find_surroundings(files);
  const JsonView config(files.config, (files.source.parent_path() / "tokenizer_config.json").string());
  const bool begin = config.boolean_or("add_bos_token", around == Surroundings::kBegin);
  const bool end = config.boolean_or("add_eos_token", around == Surroundings::kEnd);
  if ((begin && file.bos.empty()) || (end && file.eos.empty())) {
    throw Error(
        ErrorCode::kFormat, files.source.string(),
        std::string("texts ") + (begin ? "begin" : "end") + " with a special token that the model lacks");
  }
  json added = added_tokens(files, file.pieces.size(), around);
  // With `legacy: false` text behind them would be read otherwise.
  if (around == Surroundings::kBegin && config.boolean_or("legacy", true)) add_special_pieces(file, added);
  files.tokenizer = {{"added_tokens", std::move(added)},
                     {"post_processor", template_around(begin ? named_piece(file, file.bos) : std::nullopt,
                                                        end ? named_piece(file, file.eos) : std::nullopt)}};
  const std::pair<const char*, std::string> named[] = {
      {"bos_token", file.bos},
      {"eos_token", file.eos},
      {"pad_token", file.pad},
      {"unk_token", file.pieces[static_cast<size_t>(file.unk_id)].text}};
  for (const auto& [key, token] : named) {
    if (!token.empty() && !files.special_tokens_map.contains(key)) files.special_tokens_map[key] = token;
  }
  files.new_config = {{"add_bos_token", begin}, {"add_eos_token", end}};
  if (around != Surroundings::kNone)
    files.new_config["tokenizer_class"] = around == Surroundings::kEnd ? "T5Tokenizer" : "LlamaTokenizer";
  files.parts = make_sentencepiece_parts(file);
}

}  // namespace msplora::detail
