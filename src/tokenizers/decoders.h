#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "tokenizers/json_view.h"

namespace msplora::detail {

/// Takes the text of tokens, one after another, and passes on what it makes of them as soon as nothing that
/// may follow can change it.
class TextSink {
 public:
  virtual ~TextSink() = default;
  /// Whole characters of the current token; called any number of times for one.
  virtual void text(std::string_view part) = 0;
  virtual void end_token() = 0;
  /// There are no more tokens.
  virtual void finish() = 0;
};

/// The end of all stages: the text itself.
class CollectedText : public TextSink {
 public:
  void text(std::string_view part) override { result += part; }
  void end_token() override {}
  void finish() override {}
  std::string result;
};

/// What a run of byte tokens that is no UTF-8 becomes.
enum class ByteRuns {
  kWhole,    // one U+FFFD for every byte of the run, as Hugging Face's ByteFallback
  kOneByOne  // one U+FFFD for every byte that is no part of a character, as SentencePiece
};

/// Turns tokens into text: a stage in front of another sink.
class Decoder {
 public:
  virtual ~Decoder() = default;
  /// `next` must outlive the result.
  virtual std::unique_ptr<TextSink> open(TextSink& next, ByteRuns runs) const = 0;
  /// Whether a special token that is left out still stands between others, as an empty one.
  virtual bool sees_special_tokens() const { return false; }
};

/// The component described by `json` (tokenizer.json's "decoder").
std::unique_ptr<const Decoder> make_decoder(const JsonView& json);
/// The tokens with a space between them: what a tokenizer without decoder gives.
std::unique_ptr<const Decoder> make_spaced_decoder();

/// Gives whole tokens to `token()`.
class TokenStage : public TextSink {
 public:
  explicit TokenStage(TextSink& next) : next_(next) {}
  void text(std::string_view part) override { token_ += part; }
  void end_token() override {
    token(token_);
    token_.clear();
  }
  void finish() override { next_.finish(); }

 protected:
  virtual void token(std::string& token) = 0;
  void pass(std::string_view token) {
    next_.text(token);
    next_.end_token();
  }
  TextSink& next_;

 private:
  std::string token_;
};

}  // namespace msplora::detail
