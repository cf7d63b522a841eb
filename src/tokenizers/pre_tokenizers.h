#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/json_view.h"
#include "tokenizers/model.h"

namespace msplora::detail {

/// Text and its division into pieces, which the model reads one by one. The spare members are working memory.
struct PieceBuffer {
  std::string text;
  std::vector<Piece> pieces;
  bool at_start = true;  // whether text begins where the whole input began
  /// For every byte of the text what of the input it stands for; empty where nobody asks.
  std::vector<Piece> origins;
  std::string spare_text;
  std::vector<Piece> spare_pieces;
  std::vector<Piece> spare_origins;

  std::string_view view(const Piece& piece) const {
    return std::string_view(text).substr(piece.begin, piece.end - piece.begin);
  }
};

/// Divides pieces further, and may rewrite their text.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(PieceBuffer& buffer) const = 0;
  /// Whether the result depends on where in the input a piece stands, which a normaliser may have moved.
  virtual bool needs_origins() const { return false; }
};

/// The component described by `json` (tokenizer.json's "pre_tokenizer").
std::unique_ptr<const PreTokenizer> make_pre_tokenizer(const JsonView& json);
std::unique_ptr<const PreTokenizer> make_bert_pre_tokenizer();

/// Calls `emit(begin, end)` for each piece of GPT-2's pattern
/// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ , written out because it is the
/// commonest one and a general matcher is several times slower.
void split_gpt2(std::string_view text, std::vector<Piece>& pieces, size_t offset);

}  // namespace msplora::detail
