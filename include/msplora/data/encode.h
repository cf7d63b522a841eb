#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "msplora/data/batch.h"
#include "msplora/data/dataset.h"
#include "msplora/data/label_map.h"
#include "msplora/tokenizers/tokenizer.h"

namespace msplora {

/// What encoding did to a data set. Lengths are in tokens, special tokens included.
struct EncodeSummary {
  int64_t examples = 0;
  int64_t tokens = 0;
  int64_t shortest = 0;
  int64_t longest = 0;
  int64_t truncated_examples = 0;
  int64_t dropped_tokens = 0;
  int64_t text_tokens = 0;     // without the special tokens around the texts
  int64_t unknown_tokens = 0;  // of these
  std::string unknown_token;   // as the tokenizer writes it, "[UNK]"; "" when it has none

  double mean() const {
    return examples == 0 ? 0.0 : static_cast<double>(tokens) / static_cast<double>(examples);
  }
  /// The share of unknown tokens in words, from 1 in 100 tokens of the texts on; "" below. More means that
  /// the vocabulary was made for other texts.
  std::string unknown_note() const;
  /// One line for logs; states truncation whenever there was any, and unknown_note().
  std::string text() const;
};

struct EncodedDataset {
  std::vector<TokenizedExample> examples;  // in the order of the data set
  EncodeSummary summary;
};

/// Turns text into tokens and labels into class indices (`labels`, needed where a data set has classes) or
/// targets. `max_length` (0: no limit) cuts longer sequences. `threads` 0: all. Throws
/// Error{kData} with file and line for an unknown label, a target that is not a number, or a text that gives
/// no tokens at all.
EncodedDataset encode_dataset(const Dataset& data, LabelKind kind, const LabelMap* labels,
                              const Tokenizer& tokenizer, int64_t max_length, int threads = 0);

}  // namespace msplora
