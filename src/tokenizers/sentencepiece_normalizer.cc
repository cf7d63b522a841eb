#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizers/byte_trie.h"
#include "tokenizers/rewrite.h"
#include "tokenizers/sentencepiece.h"
#include "tokenizers/unicode.h"
#include "tokenizers/word_starts.h"

namespace msplora::detail {
namespace {

class SentencePieceNormalizer : public Rewriting<SentencePieceNormalizer> {
 public:
  explicit SentencePieceNormalizer(const SentencePieceFile& file)
      : charsmap_(file.charsmap),
        user_defined_(user_defined_pieces(file)),
        has_user_defined_(!user_defined_pieces(file).empty()),
        space_(file.escape_whitespaces ? kWordStart : std::string_view(" ")),
        prefix_(file.add_dummy_prefix && !file.whitespace_as_suffix),
        suffix_(file.add_dummy_prefix && file.whitespace_as_suffix),
        remove_(file.remove_extra_whitespaces) {}

  template <class Rewrite>
  void rewrite(Rewrite& to) const {
    std::string_view rest = to.input();
    const auto skip = [&](size_t size) {
      to.drop(size);
      rest.remove_prefix(size);
    };
    if (remove_) {
      while (!rest.empty()) {
        const Step step = next_step(rest);
        if (step.text != " ") break;
        skip(step.size);
      }
    }
    if (rest.empty()) return;
    if (prefix_) to.mark(space_);
    bool after_space = remove_;
    while (!rest.empty()) {
      Step step = next_step(rest);
      while (after_space && step.text.starts_with(' ')) step.text.remove_prefix(1);
      append(step, to);
      rest.remove_prefix(step.size);
      if (!step.text.empty()) after_space = remove_ && step.text.ends_with(' ');
    }
    if (remove_) to.strip_end(space_);
    if (suffix_) to.mark(space_);
  }

  bool reads_any_bytes() const override { return true; }

 private:
  struct Step {
    size_t size;            // bytes of the input
    std::string_view text;  // what they become
  };

  static std::vector<std::pair<std::string_view, int32_t>> user_defined_pieces(
      const SentencePieceFile& file) {
    std::vector<std::pair<std::string_view, int32_t>> result;
    for (size_t i = 0; i < file.pieces.size(); ++i) {
      if (file.pieces[i].type == SentencePieceFile::Type::kUserDefined)
        result.emplace_back(file.pieces[i].text, static_cast<int32_t>(i));
    }
    return result;
  }

  // The longest user-defined piece, else the longest rule, else one character.
  Step next_step(std::string_view rest) const {
    if (has_user_defined_) {
      size_t longest = 0;
      user_defined_.for_each_prefix(rest, [&](size_t size, int32_t) { longest = size; });
      if (longest > 0) return {longest, rest.substr(0, longest)};
    }
    if (const auto match = charsmap_.longest(rest)) return {match->size, match->replacement};
    const size_t size = well_formed_size(rest);
    if (size == 0) return {1, "\xEF\xBF\xBD"};
    return {size, rest.substr(0, size)};
  }

  template <class Rewrite>
  void append(const Step& step, Rewrite& to) const {
    if (step.text.empty()) return to.drop(step.size);
    if (space_ == " " || step.text.find(' ') == std::string_view::npos)
      return to.replace(step.size, step.text);
    std::string text;
    for (const char byte : step.text) {
      if (byte == ' ')
        text += space_;
      else
        text.push_back(byte);
    }
    to.replace(step.size, text);
  }

  Charsmap charsmap_;
  ByteTrie user_defined_;
  bool has_user_defined_;
  std::string_view space_;
  bool prefix_, suffix_, remove_;
};

}  // namespace

std::unique_ptr<const Normalizer> make_sentencepiece_normalizer(const SentencePieceFile& file) {
  return std::make_unique<SentencePieceNormalizer>(file);
}

}  // namespace msplora::detail
