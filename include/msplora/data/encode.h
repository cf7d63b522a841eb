#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "msplora/data/batch.h"
#include "msplora/data/dataset.h"
#include "msplora/data/label_map.h"
#include "msplora/tokenizers/tokenizer.h"

namespace msplora {

/// How much of a text the vocabulary does not know. More than a little means that it was made for other
/// texts.
struct UnknownTokens {
  int64_t count = 0;
  int64_t of = 0;     // tokens of the texts, without the special ones around them
  std::string token;  // as the tokenizer writes it, "[UNK]"; "" when it has none

  double share() const { return of == 0 ? 0.0 : static_cast<double>(count) / static_cast<double>(of); }
  /// "37.5 % of the tokens are [UNK]", from 1 in 100 on; "" below.
  std::string note() const;
};

/// The id that UnknownTokens counts: the unknown token, unless it is also one of those that stand around
/// texts, as in GPT-2.
std::optional<int32_t> countable_unknown(const Tokenizer& tokenizer);

/// What encoding did to a data set. Lengths are in tokens, special tokens included.
struct EncodeSummary {
  int64_t examples = 0;
  int64_t tokens = 0;
  int64_t shortest = 0;
  int64_t longest = 0;
  int64_t truncated_examples = 0;
  int64_t dropped_tokens = 0;
  int64_t rows_too_long = 0;      // left out
  int64_t rows_without_loss = 0;  // left out, since nothing of them is learned
  bool teaches_no_end = false;    // of conversations: no special token is learned
  UnknownTokens unknown;

  /// Counts an example of so many tokens.
  void add(int64_t length);
  double mean() const {
    return examples == 0 ? 0.0 : static_cast<double>(tokens) / static_cast<double>(examples);
  }
  /// One line for logs; states truncation whenever there was any, and unknown.note().
  std::string text() const;
};

struct EncodedDataset {
  std::vector<TokenizedExample> examples;  // in the order of the data set
  EncodeSummary summary;
  std::vector<uint32_t> rows;  // of the data set that the examples are; empty: all
};

/// Turns text into tokens and labels into class indices (`labels`, needed where a data set has classes) or
/// targets. `max_length` (0: no limit) cuts longer sequences. `threads` 0: all. Throws
/// Error{kData} with file and line for an unknown label, a target that is not a number, or a text that gives
/// no tokens at all.
EncodedDataset encode_dataset(const Dataset& data, LabelKind kind, const LabelMap* labels,
                              const Tokenizer& tokenizer, int64_t max_length, int threads = 0);

}  // namespace msplora
