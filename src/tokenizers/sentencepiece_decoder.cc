#include <algorithm>
#include <memory>
#include <string>
#include <string_view>

#include "tokenizers/byte_pieces.h"
#include "tokenizers/sentencepiece.h"
#include "tokenizers/unicode.h"
#include "tokenizers/word_starts.h"

namespace msplora::detail {
namespace {

struct SentencePieceDecoding {
  std::string unk, unk_surface;
  bool has_bytes;
  bool drops_first_space;  // the dummy prefix
  bool drops_all_spaces;   // at the beginning, where spaces are removed anyway
};

class SentencePieceStage : public TokenStage {
 public:
  SentencePieceStage(TextSink& next, const SentencePieceDecoding& how) : TokenStage(next), how_(how) {}
  void finish() override {
    pass_on(bytes_.size());
    next_.finish();
  }

 protected:
  void token(std::string& token) override {
    const int byte = how_.has_bytes ? byte_of_piece(token) : -1;
    if (byte >= 0) {
      bytes_.push_back(static_cast<char>(byte));
      return pass_on(finished_size(bytes_));
    }
    pass_on(bytes_.size());
    if (token == how_.unk) return put(how_.unk_surface);
    std::string_view rest = token;
    if (how_.drops_first_space && at_start_ && rest.starts_with(kWordStart)) {
      rest.remove_prefix(kWordStart.size());
      at_start_ = how_.drops_all_spaces;
    }
    std::string text;
    while (!rest.empty()) {
      const size_t at = std::min(rest.find(kWordStart), rest.size());
      text += rest.substr(0, at);
      rest.remove_prefix(at);
      if (rest.empty()) break;
      text += ' ';
      rest.remove_prefix(kWordStart.size());
    }
    put(text);
  }

 private:
  void put(std::string_view text) {
    if (!text.empty()) at_start_ = false;
    pass(text);
  }
  void pass_on(size_t size) {
    if (size > 0) put(valid_utf8(std::string_view(bytes_).substr(0, size), buffer_, Repair::kBytes));
    bytes_.erase(0, size);
  }

  const SentencePieceDecoding& how_;
  bool at_start_ = true;
  std::string bytes_;  // an unfinished character
  std::string buffer_;
};

class SentencePieceDecoder : public Decoder {
 public:
  explicit SentencePieceDecoder(SentencePieceDecoding how) : how_(std::move(how)) {}
  std::unique_ptr<TextSink> open(TextSink& next, ByteRuns) const override {
    return std::make_unique<SentencePieceStage>(next, how_);
  }
  bool sees_special_tokens() const override { return true; }

 private:
  SentencePieceDecoding how_;
};

}  // namespace

std::unique_ptr<const Decoder> make_sentencepiece_decoder(const SentencePieceFile& file) {
  return std::make_unique<SentencePieceDecoder>(SentencePieceDecoding{
      file.pieces[static_cast<size_t>(file.unk_id)].text, file.unk_surface, file.byte_fallback,
      file.add_dummy_prefix || file.remove_extra_whitespaces, file.remove_extra_whitespaces});
}

}  // namespace msplora::detail
