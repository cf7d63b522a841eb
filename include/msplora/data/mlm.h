#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "msplora/data/text_corpus.h"

namespace msplora {

/// What masking needs to know of a tokenizer.
struct MlmVocabulary : TextFrame {
  int32_t mask_id = 0;
  std::vector<uint8_t> continuation;  // [vocab]; 1: continues the word of the token before (WordPiece "##")

  /// Throws Error{kConfig} when the tokenizer has no mask token.
  static MlmVocabulary from_tokenizer(const Tokenizer& tokenizer);
};

/// Masking as in BERT (Devlin et al., NAACL 2019): each token (or whole word) is chosen with `probability`;
/// of the chosen tokens 80% become the mask token, 10% a random token, 10% stay.
struct MaskOptions {
  double probability = 0.15;
  bool whole_word = false;
  uint64_t seed = 0;
  /// The first token ([CLS]) predicts a token of its text, drawn anew in each epoch. Plain masking never
  /// trains the output there, which classification heads read; with this it becomes a summary of the text.
  bool first_token = false;
};

/// Masks one sequence in place and writes the original ids to `labels` where tokens were chosen,
/// kIgnoredLabel elsewhere. The result depends on (seed, epoch, example) alone. Special tokens are never
/// chosen; at least one token is. Throws Error{kUsage} when there is none to choose.
void mask_tokens(std::span<int64_t> ids, std::span<int64_t> labels, const MlmVocabulary& vocabulary,
                 const MaskOptions& options, uint64_t epoch, uint64_t example);

}  // namespace msplora
