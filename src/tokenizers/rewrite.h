#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/model.h"
#include "tokenizers/normalizers.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {

/// Writes a new text while an old one is read; does nothing else.
class PlainRewrite {
 public:
  PlainRewrite(std::string_view input, std::string& out) : input_(input), out_(out) { out_.clear(); }
  std::string_view input() const { return input_; }

  /// The next `size` bytes of the input stay.
  void keep(size_t size) {
    out_.append(input_, at_, size);
    at_ += size;
  }
  /// They vanish.
  void drop(size_t size) { at_ += size; }
  /// They become `text`.
  void replace(size_t size, std::string_view text) {
    out_ += text;
    at_ += size;
  }
  /// `text` appears, and stands for nothing of the input.
  void mark(std::string_view text) { out_ += text; }
  /// Takes away every `part` that the new text ends with.
  void strip_end(std::string_view part) {
    while (out_.ends_with(part)) out_.resize(out_.size() - part.size());
  }

 private:
  std::string_view input_;
  std::string& out_;
  size_t at_ = 0;
};

/// The same, and keeps track of what every byte stands for, by the rules of Hugging Face's library.
class TracedRewrite {
 public:
  TracedRewrite(const TracedText& input, TracedText& out) : input_(input), out_(out) {
    out_.text.clear();
    out_.origins.clear();
    out_.base = input.base;
    out_.end = input.end;
  }
  std::string_view input() const { return input_.text; }

  void keep(size_t size) {
    out_.text.append(input_.text, at_, size);
    out_.origins.insert(out_.origins.end(), origin(at_), origin(at_ + size));
    at_ += size;
  }
  void drop(size_t size) { at_ += size; }
  /// All of `text` stands for all of the `size` bytes.
  void replace(size_t size, std::string_view text) {
    const Piece whole = size == 0 ? Piece{here(), here()}
                                  : Piece{input_.origins[at_].begin, input_.origins[at_ + size - 1].end};
    put(text, whole);
    at_ += size;
  }
  void mark(std::string_view text) { put(text, {here(), here()}); }
  /// `text` stands for what the next byte of the input stands for.
  void prepend(std::string_view text) {
    put(text, at_ < input_.origins.size() ? input_.origins[at_] : Piece{here(), here()});
  }
  /// `text` stands for what the byte before stands for.
  void insert(std::string_view text) {
    const size_t last = std::min(at_, input_.origins.size());
    put(text, last > 0 ? input_.origins[last - 1] : Piece{input_.base, input_.base});
  }
  /// A character in place of 1 - `change` characters of the input, or, when `change` is positive, inserted.
  void change(char32_t c, int change) {
    character_.clear();
    append_utf8(character_, c);
    if (change > 0) return insert(character_);
    put(character_, at_ < input_.origins.size() ? input_.origins[at_] : Piece{here(), here()});
    for (; change <= 0 && at_ < input_.text.size(); ++change) at_ += utf8_length(input_.text[at_]);
  }
  void strip_end(std::string_view part) {
    while (out_.text.ends_with(part)) {
      out_.text.resize(out_.text.size() - part.size());
      out_.end = out_.origins[out_.text.size()].begin;
      out_.origins.resize(out_.text.size());
    }
  }

 private:
  std::vector<Piece>::const_iterator origin(size_t at) const {
    return input_.origins.begin() + static_cast<std::ptrdiff_t>(at);
  }
  size_t here() const { return at_ < input_.origins.size() ? input_.origins[at_].begin : out_.end; }
  void put(std::string_view text, Piece origin) {
    out_.text += text;
    out_.origins.resize(out_.text.size(), origin);
  }

  const TracedText& input_;
  TracedText& out_;
  size_t at_ = 0;
  std::string character_;
};

/// A normaliser that is written once, `void rewrite(Rewrite&) const`, for both kinds of text.
template <class Self>
class Rewriting : public Normalizer {
 public:
  void apply(std::string& text, std::string& spare) const override {
    PlainRewrite rewrite(text, spare);
    static_cast<const Self*>(this)->rewrite(rewrite);
    text.swap(spare);
  }
  void trace(TracedText& text, TracedText& spare) const override {
    TracedRewrite rewrite(text, spare);
    static_cast<const Self*>(this)->rewrite(rewrite);
    std::swap(text, spare);
  }
};

}  // namespace msplora::detail
