#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "msplora/tokenizers/tokenizer.h"

namespace msplora {

struct DecodeStreamOptions {
  bool skip_special_tokens = true;
  /// A run of byte tokens (<0x41>) that is no UTF-8 becomes U+FFFD throughout in Hugging Face's ByteFallback,
  /// so nothing of a run is certain before it ends. With this, only the damaged bytes of a run do, as in
  /// SentencePiece, and characters come out as soon as they are whole. Text of undamaged runs is the same.
  bool prompt_bytes = false;
};

/// Turns ids into text one at a time, as they are generated: gives text as soon as no id that may follow can
/// change it, and never a part of a character. All that add() and finish() gave, put together, is what
/// Tokenizer::decode() gives for the ids (with prompt_bytes: unless a run of byte tokens is damaged).
class DecodeStream {
 public:
  explicit DecodeStream(std::shared_ptr<const Tokenizer> tokenizer, const DecodeStreamOptions& options = {});
  ~DecodeStream();
  DecodeStream(DecodeStream&&) noexcept;
  DecodeStream& operator=(DecodeStream&&) noexcept;

  /// The text that is certain now and was not before; often empty. Ids that the vocabulary does not have give
  /// nothing.
  std::string add(int32_t id);
  /// What is left at the end of the ids: U+FFFD for unfinished characters, for instance. The stream is then
  /// as new.
  std::string finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace msplora
