#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/decoders.h"
#include "tokenizers/json_view.h"
#include "tokenizers/model.h"
#include "tokenizers/normalizers.h"
#include "tokenizers/pre_tokenizers.h"

namespace msplora::detail {

/// What turns text into ids and back.
struct TokenizerParts {
  std::unique_ptr<const Normalizer> normalizer;       // may be missing
  std::unique_ptr<const PreTokenizer> pre_tokenizer;  // may be missing
  std::unique_ptr<const Model> model;
  std::unique_ptr<const Decoder> decoder;
  std::vector<int32_t> special;  // ids that are special without being looked for in text
};

/// The parts that a tokenizer.json describes.
TokenizerParts make_parts(const JsonView& document);

/// The texts that make up a tokenizer, wherever they came from.
struct TokenizerFiles {
  std::filesystem::path source;  // the file that errors name
  TokenizerParts parts;          // without a model: `tokenizer` describes them
  std::string other_file;        // the content of `source` when it has another form than tokenizer.json
  /// What save() puts into a tokenizer_config.json that is missing, beside the roles of special tokens.
  nlohmann::json new_config = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
  /// Of parts that were made from something else: makes a tokenizer.json of them, to be saved.
  std::function<nlohmann::json()> make_tokenizer;
  nlohmann::json tokenizer;           // tokenizer.json, read or put together from vocabulary files
  std::string tokenizer_text;         // as read; empty when put together
  nlohmann::json config;              // tokenizer_config.json; an empty object when there is none
  std::string config_text;            // as read; empty when there is none
  nlohmann::json special_tokens_map;  // special_tokens_map.json; an empty object when there is none
};

TokenizerFiles read_tokenizer_files(const std::filesystem::path& directory_or_file);

/// An object; empty when there is no such file. `text` receives the file as it is.
nlohmann::json read_json_if_any(const std::filesystem::path& path, std::string* text = nullptr);
/// The special token that a configuration gives under `key`, as a string or as {"content": string}.
std::string token_or(const nlohmann::json& config, const char* key, const std::string& otherwise);
/// Fills `files` from files.source, a GGUF file.
void read_gguf_tokenizer(TokenizerFiles& files);
/// The name that GGUF has (tokenizer.ggml.pre) for how a tokenizer.json of byte-level BPE splits text; "" for
/// none.
std::string gguf_pre_name(const nlohmann::json& tokenizer);

/// Fills `files` from files.source, a SentencePiece model. What its directory says about the model decides on
/// the special tokens around a text; throws Error{kFormat} where transformers' class would change more.
void read_sentencepiece_tokenizer(TokenizerFiles& files);

struct SentencePieceFile;
/// The parts that give SentencePiece's ids; control pieces are special.
TokenizerParts make_sentencepiece_parts(const SentencePieceFile& file);

/// A tokenizer.json with the ids of a SentencePiece model that joins pieces by their scores: Hugging Face's
/// merges are every pair of pieces that makes a piece.
nlohmann::json sentencepiece_bpe_json(const SentencePieceFile& file, const nlohmann::json& post_processor);

/// Whether a file called tokenizer.model or *.tiktoken holds ranks, lines of base64 and a number.
bool holds_ranks(std::string_view content);
/// Fills `files` from files.source, a vocabulary of tiktoken: a file of ranks, or Mistral's tekken.json.
void read_tiktoken(TokenizerFiles& files);

}  // namespace msplora::detail
