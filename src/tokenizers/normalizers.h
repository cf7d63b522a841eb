#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tokenizers/json_view.h"
#include "tokenizers/model.h"

namespace msplora::detail {

/// Text whose every byte knows which bytes [begin, end) of the input it stands for.
struct TracedText {
  std::string text;
  std::vector<Piece> origins;
  size_t base = 0;  // where in the input this text begins
  size_t end = 0;   // where it ends
};

/// Changes text before it is split. `spare` is working memory that keeps its capacity between calls.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(std::string& text, std::string& spare) const = 0;
  /// The same, with what each byte stands for.
  virtual void trace(TracedText& text, TracedText& spare) const = 0;
  /// Whether damaged UTF-8 is read as it is, and becomes well-formed here.
  virtual bool reads_any_bytes() const { return false; }
};

/// The component described by `json` (tokenizer.json's "normalizer").
std::unique_ptr<const Normalizer> make_normalizer(const JsonView& json);

/// "Precompiled": the rules that SentencePiece's models carry.
std::unique_ptr<const Normalizer> make_precompiled(const JsonView& json);

/// BERT's own: also used by the trainer.
struct BertNormalizerOptions {
  bool clean_text = true;
  bool handle_chinese_chars = true;
  bool strip_accents = true;
  bool lowercase = true;
};
std::unique_ptr<const Normalizer> make_bert_normalizer(const BertNormalizerOptions& options);

}  // namespace msplora::detail
