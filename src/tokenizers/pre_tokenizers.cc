#include "tokenizers/pre_tokenizers.h"

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/regex.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace {

enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// A stretch of text that is a delimiter or what lies between two.
struct Stretch {
  size_t begin, end;
  bool delimiter;
};

void join_stretches(const std::vector<Stretch>& stretches, Behavior behavior, std::vector<Piece>& pieces) {
  const size_t first = pieces.size();
  bool previous = false;
  switch (behavior) {
    case Behavior::kRemoved:
      for (const auto& s : stretches)
        if (!s.delimiter) pieces.push_back({s.begin, s.end});
      return;
    case Behavior::kIsolated:
      for (const auto& s : stretches) pieces.push_back({s.begin, s.end});
      return;
    case Behavior::kContiguous:
      for (const auto& s : stretches) {
        if (s.delimiter == previous && pieces.size() > first)
          pieces.back().end = s.end;
        else
          pieces.push_back({s.begin, s.end});
        previous = s.delimiter;
      }
      return;
    case Behavior::kMergedWithPrevious:
      for (const auto& s : stretches) {
        if (s.delimiter && !previous && pieces.size() > first)
          pieces.back().end = s.end;
        else
          pieces.push_back({s.begin, s.end});
        previous = s.delimiter;
      }
      return;
    case Behavior::kMergedWithNext:
      // A delimiter joins what follows it, unless that is a delimiter too.
      for (size_t i = 0; i < stretches.size(); ++i) {
        const bool joins = i + 1 < stretches.size() && stretches[i].delimiter && !stretches[i + 1].delimiter;
        pieces.push_back({stretches[i].begin, stretches[joins ? i + 1 : i].end});
        i += joins;
      }
      return;
  }
}

// Runs `split(text, offset, pieces)` on every piece and drops empty results.
template <class Split>
void split_pieces(PieceBuffer& buffer, Split&& split) {
  buffer.spare_pieces.clear();
  for (const Piece& piece : buffer.pieces) split(buffer.view(piece), piece.begin, buffer.spare_pieces);
  buffer.pieces.swap(buffer.spare_pieces);
}

// Splits at single characters for which `is_delimiter` holds.
template <class IsDelimiter>
void split_at_characters(std::string_view text, size_t offset, Behavior behavior, std::vector<Piece>& pieces,
                         IsDelimiter&& is_delimiter) {
  std::vector<Stretch> stretches;
  const char* p = text.data();
  const char* const end = p + text.size();
  const char* run = p;
  const auto at = [&](const char* q) { return offset + static_cast<size_t>(q - text.data()); };
  while (p < end) {
    const char* const start = p;
    if (!is_delimiter(next_code_point(p))) continue;
    if (run < start) stretches.push_back({at(run), at(start), false});
    stretches.push_back({at(start), at(p), true});
    run = p;
  }
  if (run < end) stretches.push_back({at(run), at(end), false});
  join_stretches(stretches, behavior, pieces);
}

class BertPreTokenizer : public PreTokenizer {
 public:
  BertPreTokenizer() : classes_(bmp_classes()) {}

  void apply(PieceBuffer& buffer) const override {
    split_pieces(buffer, [this](std::string_view text, size_t offset, std::vector<Piece>& pieces) {
      const char* const start = text.data();
      const char* const end = start + text.size();
      const auto at = [&](const char* q) { return offset + static_cast<size_t>(q - start); };
      const char* word = start;
      for (const char* p = start; p < end;) {
        const char* const here = p;
        const uint16_t bits = char_class(classes_, next_code_point(p)) & (kSpace | kPunctuation);
        if (!bits) continue;
        if (word < here) pieces.push_back({at(word), at(here)});
        if (!(bits & kSpace)) pieces.push_back({at(here), at(p)});
        word = p;
      }
      if (word < end) pieces.push_back({at(word), at(end)});
    });
  }

 private:
  const std::vector<uint16_t>& classes_;
};

// Runs of characters of one kind: \w+|[^\w\s]+ (Whitespace) or \S+ (WhitespaceSplit).
class WordRuns : public PreTokenizer {
 public:
  explicit WordRuns(bool separate_symbols) : separate_symbols_(separate_symbols) {}

  void apply(PieceBuffer& buffer) const override {
    const auto& classes = bmp_classes();
    split_pieces(buffer, [&](std::string_view text, size_t offset, std::vector<Piece>& pieces) {
      const char* p = text.data();
      const char* const end = p + text.size();
      int previous = 0;  // 0 space, 1 word, 2 symbol
      while (p < end) {
        const size_t begin = offset + static_cast<size_t>(p - text.data());
        const uint16_t bits = char_class(classes, next_code_point(p));
        // A join control is both \w and invisible; \w wins as in the pattern.
        const int kind = bits & kWord ? 1 : bits & kSpace ? 0 : separate_symbols_ ? 2 : 1;
        const size_t stop = offset + static_cast<size_t>(p - text.data());
        if (kind != 0 && kind == previous)
          pieces.back().end = stop;
        else if (kind != 0)
          pieces.push_back({begin, stop});
        previous = kind;
      }
    });
  }

 private:
  bool separate_symbols_;
};

class CharacterSplit : public PreTokenizer {
 public:
  CharacterSplit(uint16_t classes, std::optional<char32_t> character, Behavior behavior)
      : classes_(classes), character_(character), behavior_(behavior) {}

  void apply(PieceBuffer& buffer) const override {
    const auto& table = bmp_classes();
    split_pieces(buffer, [&](std::string_view text, size_t offset, std::vector<Piece>& pieces) {
      split_at_characters(text, offset, behavior_, pieces, [&](char32_t c) {
        return character_ ? c == *character_ : (char_class(table, c) & classes_) != 0;
      });
    });
  }

 private:
  uint16_t classes_;
  std::optional<char32_t> character_;
  Behavior behavior_;
};

class PatternSplit : public PreTokenizer {
 public:
  PatternSplit(Pattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void apply(PieceBuffer& buffer) const override {
    std::vector<Stretch> stretches;
    split_pieces(buffer, [&](std::string_view text, size_t offset, std::vector<Piece>& pieces) {
      stretches.clear();
      size_t done = 0;
      const auto add = [&](size_t begin, size_t end, bool match) {
        stretches.push_back({offset + begin, offset + end, match != invert_});
      };
      // An empty match is a delimiter too: it keeps apart what lies around it.
      pattern_.for_each(text, [&](size_t begin, size_t end) {
        if (done < begin) add(done, begin, false);
        add(begin, end, true);
        done = end;
      });
      if (done < text.size()) add(done, text.size(), false);
      const size_t first = pieces.size();
      join_stretches(stretches, behavior_, pieces);
      pieces.erase(std::remove_if(pieces.begin() + static_cast<std::ptrdiff_t>(first), pieces.end(),
                                  [](const Piece& piece) { return piece.begin == piece.end; }),
                   pieces.end());
    });
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_;
};

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex)
      : add_prefix_space_(add_prefix_space), use_regex_(use_regex) {
    for (size_t byte = 0; byte < 256; ++byte) {
      std::string text;
      append_utf8(text, byte_level_alphabet()[byte]);
      mapped_[byte] = {text[0], text.size() > 1 ? text[1] : '\0', static_cast<unsigned char>(text.size())};
    }
  }

  void apply(PieceBuffer& buffer) const override {
    if (add_prefix_space_) prefix_spaces(buffer);
    if (use_regex_) {
      split_pieces(buffer, [](std::string_view text, size_t offset, std::vector<Piece>& pieces) {
        split_gpt2(text, pieces, offset);
      });
    }
    if (!buffer.origins.empty()) trace_bytes(buffer);
    std::string& out = buffer.spare_text;
    out.resize(2 * buffer.text.size());
    char* write = out.data();
    for (Piece& piece : buffer.pieces) {
      const char* p = buffer.text.data() + piece.begin;
      const char* const end = buffer.text.data() + piece.end;
      piece.begin = static_cast<size_t>(write - out.data());
      for (; p < end; ++p) {
        const Mapped& mapped = mapped_[static_cast<unsigned char>(*p)];
        write[0] = mapped.first;
        write[1] = mapped.second;
        write += mapped.size;
      }
      piece.end = static_cast<size_t>(write - out.data());
    }
    out.resize(static_cast<size_t>(write - out.data()));
    buffer.text.swap(out);
  }

 private:
  struct Mapped {
    char first, second;
    unsigned char size;
  };

  // The origins of the mapped bytes, piece by piece.
  void trace_bytes(PieceBuffer& buffer) const {
    buffer.spare_origins.clear();
    for (const Piece& piece : buffer.pieces) {
      for (size_t at = piece.begin; at < piece.end; ++at) {
        const Mapped& mapped = mapped_[static_cast<unsigned char>(buffer.text[at])];
        buffer.spare_origins.insert(buffer.spare_origins.end(), mapped.size, buffer.origins[at]);
      }
    }
    buffer.origins.swap(buffer.spare_origins);
  }

  static void prefix_spaces(PieceBuffer& buffer) {
    buffer.spare_text.clear();
    buffer.spare_origins.clear();
    for (Piece& piece : buffer.pieces) {
      const std::string_view text = buffer.view(piece);
      const size_t begin = buffer.spare_text.size();
      const bool wanted = !text.empty() && text.front() != ' ';
      if (wanted) buffer.spare_text.push_back(' ');
      buffer.spare_text.append(text);
      if (!buffer.origins.empty()) {
        if (wanted) buffer.spare_origins.push_back(buffer.origins[piece.begin]);
        buffer.spare_origins.insert(buffer.spare_origins.end(),
                                    buffer.origins.begin() + static_cast<std::ptrdiff_t>(piece.begin),
                                    buffer.origins.begin() + static_cast<std::ptrdiff_t>(piece.end));
      }
      piece = {begin, buffer.spare_text.size()};
    }
    buffer.text.swap(buffer.spare_text);
    buffer.origins.swap(buffer.spare_origins);
  }

  bool add_prefix_space_, use_regex_;
  std::array<Mapped, 256> mapped_{};
};

enum class PrependScheme { kAlways, kFirst, kNever };

class Metaspace : public PreTokenizer {
 public:
  Metaspace(char32_t replacement, PrependScheme scheme, bool split) : scheme_(scheme), split_(split) {
    append_utf8(replacement_, replacement);
  }

  void apply(PieceBuffer& buffer) const override {
    std::string& out = buffer.spare_text;
    out.clear();
    const bool traced = !buffer.origins.empty();
    buffer.spare_origins.clear();
    for (Piece& piece : buffer.pieces) {
      const std::string_view text = buffer.view(piece);
      const size_t begin = out.size();
      const bool marked = text.starts_with(replacement_) || text.starts_with(' ');
      const bool first = traced ? piece.begin < piece.end && buffer.origins[piece.begin].begin == 0
                                : buffer.at_start && piece.begin == 0;
      const bool wanted = scheme_ == PrependScheme::kAlways || (scheme_ == PrependScheme::kFirst && first);
      if (wanted && !marked) out += replacement_;
      // What is put in front stands for what comes after it.
      if (traced && !text.empty()) buffer.spare_origins.resize(out.size(), buffer.origins[piece.begin]);
      for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == ' ')
          out += replacement_;
        else
          out.push_back(text[i]);
        if (traced) buffer.spare_origins.resize(out.size(), buffer.origins[piece.begin + i]);
      }
      if (traced) buffer.spare_origins.resize(out.size(), {0, 0});
      piece = {begin, out.size()};
    }
    buffer.text.swap(out);
    buffer.origins.swap(buffer.spare_origins);
    if (!split_) return;
    split_pieces(buffer, [this](std::string_view text, size_t offset, std::vector<Piece>& pieces) {
      // Every replacement starts a piece; HF's merge-with-next leaves a run of them as single pieces.
      size_t begin = 0;
      while (begin < text.size()) {
        const size_t from =
            text.substr(begin).starts_with(replacement_) ? begin + replacement_.size() : begin;
        const size_t next = std::min(text.find(replacement_, from), text.size());
        pieces.push_back({offset + begin, offset + next});
        begin = next;
      }
    });
  }

  bool needs_origins() const override { return scheme_ == PrependScheme::kFirst; }

 private:
  std::string replacement_;
  PrependScheme scheme_;
  bool split_;
};

class PreTokenizerSequence : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(std::vector<std::unique_ptr<const PreTokenizer>> parts)
      : parts_(std::move(parts)) {}
  void apply(PieceBuffer& buffer) const override {
    for (const auto& part : parts_) part->apply(buffer);
  }
  bool needs_origins() const override {
    return std::any_of(parts_.begin(), parts_.end(), [](const auto& part) { return part->needs_origins(); });
  }

 private:
  std::vector<std::unique_ptr<const PreTokenizer>> parts_;
};

Behavior parse_behavior(const JsonView& json) {
  const std::string name = json.string();
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  json.fail(
      "unknown behavior \"" + name + "\"",
      did_you_mean(name, {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"}));
}

std::unique_ptr<const PreTokenizer> make_metaspace(const JsonView& json) {
  const auto replacement = json.find("replacement");
  const std::string scheme = json.string_or("prepend_scheme", "always");
  PrependScheme value = PrependScheme::kAlways;
  if (scheme == "first") {
    value = PrependScheme::kFirst;
  } else if (scheme == "never") {
    value = PrependScheme::kNever;
  } else if (scheme != "always") {
    json.at("prepend_scheme").fail("expected always, first or never, found \"" + scheme + "\"");
  }
  if (!json.boolean_or("add_prefix_space", true)) value = PrependScheme::kNever;
  return std::make_unique<Metaspace>(replacement ? replacement->character() : U'\u2581', value,
                                     json.boolean_or("split", true));
}

}  // namespace

void split_gpt2(std::string_view text, std::vector<Piece>& pieces, size_t offset) {
  const auto& table = bmp_classes();
  const char* const start = text.data();
  const char* const end = start + text.size();
  constexpr uint16_t kClass = kLetter | kNumber | kSpace;
  const auto class_at = [&](const char*& p) -> uint16_t {
    return char_class(table, next_code_point(p)) & kClass;
  };
  const auto skip_run = [&](const char* p, uint16_t wanted) {
    while (p < end) {
      const char* next = p;
      if (class_at(next) != wanted) break;
      p = next;
    }
    return p;
  };
  const auto contraction = [&](const char* p) -> size_t {
    if (end - p < 2) return 0;
    const char a = p[1];
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (end - p < 3) return 0;
    const char b = p[2];
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
  };
  for (const char* p = start; p < end;) {
    const char* const begin = p;
    const size_t short_form = *p == '\'' ? contraction(p) : 0;
    if (short_form) {
      p += short_form;
    } else {
      const char* first = p + (*p == ' ' && p + 1 < end);
      const char* next = first;
      const uint16_t kind = class_at(next);
      if (kind != kSpace) {
        p = skip_run(next, kind);
      } else {
        // White space: all of it at the end of the text, else all but the last character, which the next word
        // takes when it is a space.
        p = skip_run(p, kSpace);
        if (p < end) {
          const char* last = p - 1;
          while (is_continuation(*last)) --last;
          if (last > begin) p = last;
        }
      }
    }
    pieces.push_back({offset + static_cast<size_t>(begin - start), offset + static_cast<size_t>(p - start)});
  }
}

std::unique_ptr<const PreTokenizer> make_bert_pre_tokenizer() {
  return std::make_unique<BertPreTokenizer>();
}

std::unique_ptr<const PreTokenizer> make_pre_tokenizer(const JsonView& json) {
  const std::string type = json.at("type").string();
  if (type == "BertPreTokenizer") return make_bert_pre_tokenizer();
  if (type == "Whitespace") return std::make_unique<WordRuns>(true);
  if (type == "WhitespaceSplit") return std::make_unique<WordRuns>(false);
  if (type == "ByteLevel") {
    return std::make_unique<ByteLevel>(json.boolean_or("add_prefix_space", true),
                                       json.boolean_or("use_regex", true));
  }
  if (type == "Metaspace") return make_metaspace(json);
  if (type == "Split") {
    return std::make_unique<PatternSplit>(Pattern(json.at("pattern")), parse_behavior(json.at("behavior")),
                                          json.boolean_or("invert", false));
  }
  if (type == "Punctuation") {
    const auto behavior = json.find("behavior");
    return std::make_unique<CharacterSplit>(kPunctuation, std::nullopt,
                                            behavior ? parse_behavior(*behavior) : Behavior::kIsolated);
  }
  if (type == "Digits") {
    const bool individual = json.boolean_or("individual_digits", false);
    return std::make_unique<CharacterSplit>(kNumber, std::nullopt,
                                            individual ? Behavior::kIsolated : Behavior::kContiguous);
  }
  if (type == "CharDelimiterSplit") {
    return std::make_unique<CharacterSplit>(0, json.at("delimiter").character(), Behavior::kRemoved);
  }
  if (type == "Sequence") {
    std::vector<std::unique_ptr<const PreTokenizer>> parts;
    for (const auto& part : json.at("pretokenizers").elements()) parts.push_back(make_pre_tokenizer(part));
    return std::make_unique<PreTokenizerSequence>(std::move(parts));
  }
  json.fail_unknown("pre-tokenizer",
                    {"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "ByteLevel", "Metaspace", "Split",
                     "Punctuation", "Digits", "CharDelimiterSplit", "Sequence"});
}

}  // namespace msplora::detail
