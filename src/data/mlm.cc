#include "msplora/data/mlm.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "msplora/core/error.h"
#include "msplora/core/random.h"
#include "msplora/tokenizers/tokenizer.h"

namespace msplora {

MlmVocabulary MlmVocabulary::from_tokenizer(const Tokenizer& tokenizer) {
  MlmVocabulary vocabulary;
  static_cast<TextFrame&>(vocabulary) = TextFrame::of(tokenizer);
  const std::optional<int32_t> mask = tokenizer.mask_id();
  if (!mask) {
    throw Error(ErrorCode::kConfig, "tokenizer",
                "masked-language-model training needs a mask token; this one has none",
                "use the tokenizer of a BERT or RoBERTa model");
  }
  vocabulary.mask_id = *mask;
  const auto size = static_cast<int32_t>(tokenizer.vocab_size());
  vocabulary.continuation.assign(static_cast<size_t>(size), 0);
  bool word_piece = false;
  for (int32_t id = 0; id < size; ++id) {
    const std::string& token = tokenizer.id_to_token(id);
    word_piece = word_piece || (token.starts_with("##") && token.size() > 2);
  }
  for (int32_t id = 0; id < size; ++id) {
    const std::string& token = tokenizer.id_to_token(id);
    // WordPiece marks what continues a word; byte-level BPE ("Ġ") and SentencePiece ("▁") mark what starts
    // one.
    const bool starts = word_piece ? !(token.starts_with("##") && token.size() > 2)
                                   : token.starts_with("\u0120") || token.starts_with("\u010A") ||
                                         token.starts_with("\u2581");
    vocabulary.continuation[static_cast<size_t>(id)] = starts ? 0 : 1;
  }
  return vocabulary;
}

namespace {

/// Start of each unit that is chosen as a whole (a token, or the pieces of a word), in [begin, end) pairs.
struct Unit {
  size_t begin;
  size_t end;
};

std::vector<Unit> maskable_units(std::span<const int64_t> ids, const MlmVocabulary& vocabulary,
                                 bool whole_word) {
  std::vector<Unit> units;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto id = static_cast<size_t>(ids[i]);
    if (vocabulary.special[id] != 0) continue;
    const bool joins =
        whole_word && vocabulary.continuation[id] != 0 && !units.empty() && units.back().end == i;
    if (joins) {
      units.back().end = i + 1;
    } else {
      units.push_back({i, i + 1});
    }
  }
  return units;
}

int64_t random_token(const MlmVocabulary& vocabulary, RandomStream& random) {
  for (;;) {
    const uint64_t id = random.below(vocabulary.special.size());
    if (vocabulary.special[id] == 0) return static_cast<int64_t>(id);
  }
}

}  // namespace

void mask_tokens(std::span<int64_t> ids, std::span<int64_t> labels, const MlmVocabulary& vocabulary,
                 const MaskOptions& options, uint64_t epoch, uint64_t example) {
  if (vocabulary.continuation.size() != vocabulary.special.size())
    throw Error(ErrorCode::kUsage, "mask_tokens", "the tables of the vocabulary differ in size");
  std::fill(labels.begin(), labels.end(), kIgnoredLabel);
  const std::vector<Unit> units = maskable_units(ids, vocabulary, options.whole_word);
  if (units.empty()) {
    throw Error(ErrorCode::kUsage, "mask_tokens",
                fmt::format("sequence {} has no token that could be masked", example));
  }
  RandomStream random(mix_seed(mix_seed(options.seed, epoch), example), "mlm");
  const bool has_first = vocabulary.special[static_cast<size_t>(ids[0])] != 0;
  if (options.first_token && has_first) labels[0] = ids[units[random.below(units.size())].begin];
  std::vector<Unit> chosen;
  for (const Unit& unit : units) {
    if (random.uniform() < options.probability) chosen.push_back(unit);
  }
  if (chosen.empty()) chosen.push_back(units[random.below(units.size())]);
  for (const auto& [begin, end] : chosen) {
    for (size_t i = begin; i < end; ++i) {
      labels[i] = ids[i];
      const double kind = random.uniform();
      if (kind < 0.8) {
        ids[i] = vocabulary.mask_id;
      } else if (kind < 0.9) {
        ids[i] = random_token(vocabulary, random);
      }
    }
  }
}

}  // namespace msplora
