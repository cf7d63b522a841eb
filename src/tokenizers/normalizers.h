#pragma once

#include <memory>
#include <string>

#include "tokenizers/json_view.h"

namespace msplora::detail {

/// Changes text before it is split. `spare` is working memory that keeps its capacity between calls.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(std::string& text, std::string& spare) const = 0;
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
