#include "tokenizers/normalizers.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/regex.h"
#include "tokenizers/rewrite.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace {

// Appends what `change(c, out)` makes of every code point of `text`.
template <class Change>
void map_code_points(std::string_view text, std::string& out, Change&& change) {
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p < end) change(next_code_point(p), out);
}

// Runs `change(rewrite)` on a traced text.
template <class Change>
void trace_with(TracedText& text, TracedText& spare, Change&& change) {
  TracedRewrite rewrite(text, spare);
  change(rewrite);
  std::swap(text, spare);
}

// The traced form of map_code_points.
template <class Change>
void trace_code_points(TracedText& text, TracedText& spare, Change&& change) {
  trace_with(text, spare, [&](TracedRewrite& rewrite) {
    std::string result;
    const char* p = rewrite.input().data();
    const char* const end = p + rewrite.input().size();
    while (p < end) {
      const char* const begin = p;
      result.clear();
      change(next_code_point(p), result);
      rewrite.replace(static_cast<size_t>(p - begin), result);
    }
  });
}

void trace_form(TracedText& text, TracedText& spare, NormalForm form) {
  if (is_ascii(text.text)) return;
  trace_with(text, spare, [form](TracedRewrite& rewrite) {
    for (const auto& [c, change] : normalized_changes(rewrite.input(), form)) rewrite.change(c, change);
  });
}

class BertNormalizer : public Normalizer {
 public:
  explicit BertNormalizer(const BertNormalizerOptions& options) : options_(options) {
    for (int i = 0; i < 128; ++i) {
      const bool control = (i < 32 || i == 127) && i != '\t' && i != '\n' && i != '\r';
      char c = static_cast<char>(i);
      if (options.clean_text) c = control ? kDrop : (c == '\t' || c == '\n' || c == '\r') ? ' ' : c;
      if (options.lowercase && c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
      ascii_[static_cast<size_t>(i)] = c;
    }
    keeps_nul_ = !options.clean_text;
  }

  void apply(std::string& text, std::string& spare) const override {
    spare.clear();
    spare.reserve(text.size() + text.size() / 4);
    const char* p = text.data();
    const char* const end = p + text.size();
    // ASCII characters are starters, so normalising the runs between them apart gives the same result.
    while (p < end) {
      const char* run = p;
      while (p < end && static_cast<unsigned char>(*p) < 0x80) ++p;
      append_ascii(run, p, spare);
      run = p;
      while (p < end && static_cast<unsigned char>(*p) >= 0x80) ++p;
      if (run < p) append_other({run, static_cast<size_t>(p - run)}, spare);
    }
    text.swap(spare);
  }

  void trace(TracedText& text, TracedText& spare) const override {
    const auto& classes = bmp_classes();
    if (options_.clean_text)
      trace_code_points(text, spare, [&](char32_t c, std::string& out) { append_clean(classes, c, out); });
    if (options_.handle_chinese_chars) trace_code_points(text, spare, append_spaced);
    if (options_.strip_accents) {
      trace_form(text, spare, NormalForm::kNfd);
      trace_code_points(text, spare, [&](char32_t c, std::string& out) {
        if (!(char_class(classes, c) & kMarkNonspacing)) append_utf8(out, c);
      });
    }
    if (options_.lowercase) trace_code_points(text, spare, append_lower);
  }

 private:
  static constexpr char kDrop = '\0';

  void append_ascii(const char* p, const char* end, std::string& out) const {
    const size_t before = out.size();
    out.resize(before + static_cast<size_t>(end - p));
    char* write = out.data() + before;
    for (; p < end; ++p) {
      *write = ascii_[static_cast<unsigned char>(*p)];
      write += *write != kDrop || keeps_nul_;
    }
    out.resize(static_cast<size_t>(write - out.data()));
  }

  static bool is_chinese(char32_t c) {
    // The blocks of the reference implementation, including its gap at U+2B820..U+2B91F.
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) ||
           (c >= 0x2B920 && c <= 0x2CEAF) || (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
  }

  static void append_clean(const std::vector<uint16_t>& classes, char32_t c, std::string& out) {
    const bool ascii_space = c == U'\t' || c == U'\n' || c == U'\r';
    const uint16_t bits = char_class(classes, c);
    if (c == 0 || c == 0xFFFD || (!ascii_space && (bits & kOther))) return;
    if (bits & kSpace)
      out.push_back(' ');
    else
      append_utf8(out, c);
  }

  static void append_spaced(char32_t c, std::string& out) {
    if (!is_chinese(c)) return append_utf8(out, c);
    out.push_back(' ');
    append_utf8(out, c);
    out.push_back(' ');
  }

  static void append_lower(char32_t c, std::string& out) { append_lowercase(out, c); }

  void append_other(std::string_view run, std::string& out) const {
    const auto& classes = bmp_classes();
    std::string cleaned;
    map_code_points(run, cleaned, [&](char32_t c, std::string& to) {
      const size_t before = to.size();
      if (options_.clean_text) {
        append_clean(classes, c, to);
        if (to.size() == before || to.back() == ' ') return;
        to.resize(before);
      }
      if (options_.handle_chinese_chars)
        append_spaced(c, to);
      else
        append_utf8(to, c);
    });
    if (options_.strip_accents) {
      std::string decomposed;
      append_normalized(decomposed, cleaned, NormalForm::kNfd);
      cleaned.clear();
      map_code_points(decomposed, cleaned, [&](char32_t c, std::string& to) {
        if (!(char_class(classes, c) & kMarkNonspacing)) append_utf8(to, c);
      });
    }
    if (!options_.lowercase) {
      out += cleaned;
      return;
    }
    map_code_points(cleaned, out, append_lower);
  }

  BertNormalizerOptions options_;
  std::array<char, 128> ascii_{};
  bool keeps_nul_ = false;
};

class UnicodeForm : public Normalizer {
 public:
  explicit UnicodeForm(NormalForm form) : form_(form) {}
  void apply(std::string& text, std::string& spare) const override {
    if (is_ascii(text)) return;
    spare.clear();
    append_normalized(spare, text, form_);
    text.swap(spare);
  }
  void trace(TracedText& text, TracedText& spare) const override { trace_form(text, spare, form_); }

 private:
  NormalForm form_;
};

// A change of each code point by itself.
class PerCharacter : public Normalizer {
 public:
  using Change = void (*)(char32_t, std::string&);
  explicit PerCharacter(Change change) : change_(change) {}
  void apply(std::string& text, std::string& spare) const override {
    spare.clear();
    map_code_points(text, spare, change_);
    text.swap(spare);
  }
  void trace(TracedText& text, TracedText& spare) const override { trace_code_points(text, spare, change_); }

 private:
  Change change_;
};

void strip_accent(char32_t c, std::string& out) {
  if (!(char_class(bmp_classes(), c) & kMark)) append_utf8(out, c);
}

// SentencePiece's nmt rules: control characters vanish, odd spaces become spaces.
void apply_nmt(char32_t c, std::string& out) {
  if ((c >= 0x1 && c <= 0x8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F)
    return;
  const bool space = c == 0x9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 ||
                     (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                     c == 0xFEFF || c == 0xFFFD;
  append_utf8(out, space ? U' ' : c);
}

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void apply(std::string& text, std::string&) const override {
    const Piece kept = inner(text);
    text.resize(kept.end);
    text.erase(0, kept.begin);
  }
  void trace(TracedText& text, TracedText& spare) const override {
    trace_with(text, spare, [this](TracedRewrite& rewrite) {
      const Piece kept = inner(rewrite.input());
      rewrite.drop(kept.begin);
      rewrite.keep(kept.end - kept.begin);
    });
  }

 private:
  Piece inner(std::string_view text) const {
    const auto& classes = bmp_classes();
    const char* begin = text.data();
    const char* end = begin + text.size();
    while (left_ && begin < end) {
      const char* next = begin;
      if (!(char_class(classes, next_code_point(next)) & kSpace)) break;
      begin = next;
    }
    while (right_ && begin < end && (char_class(classes, code_point_before(end)) & kSpace)) {
      do --end;
      while (is_continuation(*end));
    }
    return {static_cast<size_t>(begin - text.data()), static_cast<size_t>(end - text.data())};
  }

  bool left_, right_;
};

class Replace : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::string& text, std::string& spare) const override {
    spare.clear();
    pattern_.replace(text, content_, spare);
    text.swap(spare);
  }
  void trace(TracedText& text, TracedText& spare) const override {
    trace_with(text, spare, [this](TracedRewrite& rewrite) {
      size_t done = 0;
      pattern_.for_each(rewrite.input(), [&](size_t begin, size_t end) {
        rewrite.keep(begin - done);
        rewrite.drop(end - begin);
        rewrite.insert(content_);
        done = end;
      });
      rewrite.keep(rewrite.input().size() - done);
    });
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  void apply(std::string& text, std::string&) const override {
    if (!text.empty()) text.insert(0, prefix_);
  }
  void trace(TracedText& text, TracedText& spare) const override {
    if (text.text.empty()) return;
    trace_with(text, spare, [this](TracedRewrite& rewrite) {
      rewrite.prepend(prefix_);
      rewrite.keep(rewrite.input().size());
    });
  }

 private:
  std::string prefix_;
};

class ByteLevelNormalizer : public Normalizer {
 public:
  void apply(std::string& text, std::string& spare) const override {
    spare.clear();
    for (const char byte : text) append_utf8(spare, byte_level_alphabet()[static_cast<unsigned char>(byte)]);
    text.swap(spare);
  }
  void trace(TracedText& text, TracedText& spare) const override {
    trace_with(text, spare, [](TracedRewrite& rewrite) {
      std::string character;
      for (const char byte : rewrite.input()) {
        character.clear();
        append_utf8(character, byte_level_alphabet()[static_cast<unsigned char>(byte)]);
        rewrite.replace(1, character);
      }
    });
  }
};

class NormalizerSequence : public Normalizer {
 public:
  explicit NormalizerSequence(std::vector<std::unique_ptr<const Normalizer>> parts)
      : parts_(std::move(parts)) {}
  void apply(std::string& text, std::string& spare) const override {
    for (const auto& part : parts_) part->apply(text, spare);
  }
  void trace(TracedText& text, TracedText& spare) const override {
    for (const auto& part : parts_) part->trace(text, spare);
  }

 private:
  std::vector<std::unique_ptr<const Normalizer>> parts_;
};

std::unique_ptr<const Normalizer> make_bert(const JsonView& json) {
  BertNormalizerOptions options;
  options.clean_text = json.boolean_or("clean_text", true);
  options.handle_chinese_chars = json.boolean_or("handle_chinese_chars", true);
  options.lowercase = json.boolean_or("lowercase", true);
  options.strip_accents = json.boolean_or("strip_accents", options.lowercase);
  return make_bert_normalizer(options);
}

}  // namespace

std::unique_ptr<const Normalizer> make_bert_normalizer(const BertNormalizerOptions& options) {
  return std::make_unique<BertNormalizer>(options);
}

std::unique_ptr<const Normalizer> make_normalizer(const JsonView& json) {
  const std::string type = json.at("type").string();
  if (type == "BertNormalizer") return make_bert(json);
  if (type == "Lowercase")
    return std::make_unique<PerCharacter>([](char32_t c, std::string& out) { append_lowercase(out, c); });
  if (type == "NFC") return std::make_unique<UnicodeForm>(NormalForm::kNfc);
  if (type == "NFD") return std::make_unique<UnicodeForm>(NormalForm::kNfd);
  if (type == "NFKC") return std::make_unique<UnicodeForm>(NormalForm::kNfkc);
  if (type == "NFKD") return std::make_unique<UnicodeForm>(NormalForm::kNfkd);
  if (type == "StripAccents") return std::make_unique<PerCharacter>(strip_accent);
  if (type == "Nmt") return std::make_unique<PerCharacter>(apply_nmt);
  if (type == "ByteLevel") return std::make_unique<ByteLevelNormalizer>();
  if (type == "Precompiled") return make_precompiled(json);
  if (type == "Strip") {
    return std::make_unique<Strip>(json.boolean_or("strip_left", true), json.boolean_or("strip_right", true));
  }
  if (type == "Replace")
    return std::make_unique<Replace>(Pattern(json.at("pattern")), json.at("content").string());
  if (type == "Prepend") return std::make_unique<Prepend>(json.at("prepend").string());
  if (type == "Sequence") {
    std::vector<std::unique_ptr<const Normalizer>> parts;
    for (const auto& part : json.at("normalizers").elements()) parts.push_back(make_normalizer(part));
    return std::make_unique<NormalizerSequence>(std::move(parts));
  }
  json.fail_unknown("normalizer",
                    {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Nmt",
                     "ByteLevel", "Precompiled", "Strip", "Replace", "Prepend", "Sequence"});
}

}  // namespace msplora::detail
