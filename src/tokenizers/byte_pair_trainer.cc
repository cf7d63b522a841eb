#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/core/paths.h"
#include "msplora/tokenizers/trainer.h"
#include "tokenizers/pair_joiner.h"
#include "tokenizers/pre_tokenizers.h"
#include "tokenizers/tokenizer_json.h"
#include "tokenizers/unicode.h"
#include "tokenizers/vocabulary.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kPairConfigFile = "tokenizer_config.json";
constexpr const char* kPairTokenizerFile = "tokenizer.json";

void check_pair_options(const BytePairTrainerOptions& options) {
  ErrorList errors;
  auto sorted = options.special_tokens;
  std::sort(sorted.begin(), sorted.end());
  const auto repeated = std::adjacent_find(sorted.begin(), sorted.end());
  if (repeated != sorted.end()) errors.add("special_tokens", "\"" + *repeated + "\" is there twice");
  if (std::binary_search(sorted.begin(), sorted.end(), std::string()))
    errors.add("special_tokens", "a special token is empty");
  for (const auto& [role, token] :
       {std::pair{"begin", options.begin}, std::pair{"end", options.end}, std::pair{"pad", options.pad}}) {
    if (!token.empty() && !std::binary_search(sorted.begin(), sorted.end(), token))
      errors.add(role, "expected one of special_tokens, found \"" + token + "\"");
  }
  const size_t least = options.special_tokens.size() + 256;
  if (options.vocab_size < least) {
    errors.add("vocab_size", "expected room for the special tokens and 256 bytes, " + std::to_string(least) +
                                 " entries; found " + std::to_string(options.vocab_size));
  } else if (options.vocab_size > static_cast<size_t>(detail::Vocabulary::kLargestId)) {
    errors.add("vocab_size", "expected at most " + std::to_string(detail::Vocabulary::kLargestId) +
                                 ", found " + std::to_string(options.vocab_size));
  }
  errors.throw_if_any(ErrorCode::kConfig, "the byte-pair trainer's options are wrong");
}

struct LearnedPairs {
  std::vector<std::string> vocabulary;  // by id
  json merges = json::array();
};

LearnedPairs learn_pairs(const BytePairTrainerOptions& options, const std::vector<detail::WordCount>& words) {
  detail::PieceList pieces;
  for (const auto& token : options.special_tokens) pieces.id_of(token);
  auto alphabet = detail::byte_level_alphabet();
  std::sort(alphabet.begin(), alphabet.end());
  for (const char32_t c : alphabet) {
    std::string piece;
    detail::append_utf8(piece, c);
    pieces.id_of(piece);
  }
  detail::PairJoiner joiner(pieces, "");
  std::vector<int32_t> symbols;
  for (const auto& [word, count] : words) {
    symbols.clear();
    for (size_t at = 0; at < word.size(); at += detail::utf8_length(word[at]))
      symbols.push_back(pieces.find(word.substr(at, detail::utf8_length(word[at]))));
    joiner.add_word(symbols, count);
  }
  LearnedPairs learned;
  while (pieces.size() < options.vocab_size) {
    const auto join = joiner.step(static_cast<int64_t>(options.min_frequency));
    if (!join) break;
    learned.merges.push_back({pieces[join->left], pieces[join->right]});
  }
  learned.vocabulary = pieces.all();
  return learned;
}

json make_pair_json(const BytePairTrainerOptions& options, const LearnedPairs& learned) {
  detail::BytePairParts parts;
  for (size_t id = 0; id < learned.vocabulary.size(); ++id) parts.vocabulary[learned.vocabulary[id]] = id;
  for (size_t id = 0; id < options.special_tokens.size(); ++id)
    parts.added_tokens.push_back(
        detail::added_token(static_cast<int64_t>(id), options.special_tokens[id], true));
  parts.merges = learned.merges;
  parts.pre_tokenizer = detail::byte_level_pre_tokenizer(/*use_regex=*/true);
  parts.decoder = detail::byte_level_decoder();
  if (!options.begin.empty()) {
    parts.post_processor = detail::template_around(
        detail::NamedToken{options.begin, parts.vocabulary[options.begin].get<int64_t>()}, std::nullopt);
  }
  return detail::make_byte_pair_json(std::move(parts));
}

json make_pair_config(const BytePairTrainerOptions& options) {
  json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false},
                 {"model_max_length", options.model_max_length}};
  for (const auto& [key, token] : {std::pair{"bos_token", options.begin}, std::pair{"eos_token", options.end},
                                   std::pair{"pad_token", options.pad}}) {
    if (!token.empty()) config[key] = token;
  }
  return config;
}

}  // namespace

void train_byte_pair(const BytePairTrainerOptions& options, const std::vector<fs::path>& text_files,
                     const fs::path& output_directory) {
  check_pair_options(options);
  for (const char* name : {kPairConfigFile, kPairTokenizerFile})
    refuse_input_as_output(output_directory / name, text_files, "the output directory");
  const json split = detail::byte_level_pre_tokenizer(/*use_regex=*/true);
  detail::WordCounter counter(nullptr, detail::make_pre_tokenizer(detail::JsonView(split, "byte level")),
                              SIZE_MAX);
  detail::for_each_line(text_files, [&](const std::string& line) { counter.add(line); });
  const std::vector<detail::WordCount> words = counter.take();
  if (words.empty()) {
    throw Error(ErrorCode::kData, output_directory.string(), "there is no text to learn a vocabulary from");
  }
  const json tokenizer = make_pair_json(options, learn_pairs(options, words));
  make_directories(output_directory);
  write_file_atomically(output_directory / kPairConfigFile, make_pair_config(options).dump(1) + "\n");
  write_file_atomically(output_directory / kPairTokenizerFile, tokenizer.dump(1) + "\n");
}

}  // namespace msplora
