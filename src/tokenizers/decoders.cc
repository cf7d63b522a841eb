#include "tokenizers/decoders.h"

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizers/byte_decoders.h"
#include "tokenizers/regex.h"
#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace {

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  size_t at = from.empty() ? std::string::npos : text.find(from);
  if (at == std::string::npos) return;
  std::string out;
  size_t done = 0;
  for (; at != std::string::npos; at = text.find(from, done)) {
    out.append(text, done, at - done).append(to);
    done = at + from.size();
  }
  text = out.append(text, done);
}

// Takes back the spaces that English text does not have; the order is that of the reference.
void clean_up(std::string& text) {
  constexpr std::pair<const char*, const char*> kRules[] = {
      {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
      {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : kRules) replace_all(text, from, to);
}

class WordPieceStage : public TokenStage {
 public:
  WordPieceStage(TextSink& next, std::string prefix, bool cleanup)
      : TokenStage(next), prefix_(std::move(prefix)), cleanup_(cleanup) {}

 protected:
  void token(std::string& token) override {
    if (!first_) {
      if (token.starts_with(prefix_))
        token.erase(0, prefix_.size());
      else
        token.insert(token.begin(), ' ');
    }
    first_ = false;
    if (cleanup_) clean_up(token);
    pass(token);
  }

 private:
  std::string prefix_;
  bool cleanup_;
  bool first_ = true;
};

// The suffix of a word is a space, but nothing in the last token.
class BpeStage : public TokenStage {
 public:
  BpeStage(TextSink& next, std::string suffix) : TokenStage(next), suffix_(std::move(suffix)) {}
  void finish() override {
    end_held("");
    next_.finish();
  }

 protected:
  void token(std::string& token) override {
    end_held(" ");
    const size_t certain = suffix_.empty() ? token.size() : std::min(token.find(suffix_), token.size());
    next_.text(std::string_view(token).substr(0, certain));
    held_ = token.substr(certain);
    has_token_ = true;
  }

 private:
  void end_held(std::string_view in_place_of_suffix) {
    if (!has_token_) return;
    replace_all(held_, suffix_, in_place_of_suffix);
    pass(held_);
    has_token_ = false;
  }

  std::string suffix_;
  std::string held_;  // of the last token, from its first suffix on
  bool has_token_ = false;
};

class ReplaceStage : public TokenStage {
 public:
  ReplaceStage(TextSink& next, const Pattern& pattern, const std::string& content)
      : TokenStage(next), pattern_(pattern), content_(content) {}

 protected:
  void token(std::string& token) override {
    out_.clear();
    pattern_.replace(token, content_, out_);
    pass(out_);
  }

 private:
  const Pattern& pattern_;
  const std::string& content_;
  std::string out_;
};

class FuseStage : public TextSink {
 public:
  explicit FuseStage(TextSink& next) : next_(next) {}
  void text(std::string_view part) override { next_.text(part); }
  void end_token() override {}
  void finish() override {
    next_.end_token();
    next_.finish();
  }

 private:
  TextSink& next_;
};

// Takes a character away from both ends of every token, so and so often at most.
class StripStage : public TextSink {
 public:
  StripStage(TextSink& next, std::string content, size_t start, size_t stop)
      : next_(next), content_(std::move(content)), start_(start), stop_(stop), left_(start) {}

  void text(std::string_view part) override {
    for (; left_ > 0 && part.starts_with(content_); --left_) part.remove_prefix(content_.size());
    if (part.empty()) return;
    left_ = 0;
    for (; held_ > 0; --held_) waiting_ += content_;
    waiting_ += part;
    size_t size = waiting_.size();
    while (held_ < stop_ && std::string_view(waiting_).substr(0, size).ends_with(content_)) {
      size -= content_.size();
      ++held_;
    }
    next_.text(std::string_view(waiting_).substr(0, size));
    waiting_.clear();
  }
  void end_token() override {
    left_ = start_;
    held_ = 0;
    next_.end_token();
  }
  void finish() override { next_.finish(); }

 private:
  TextSink& next_;
  std::string content_;
  size_t start_, stop_;
  size_t left_;      // how many may still go at the start
  size_t held_ = 0;  // how many at the end have not been passed on
  std::string waiting_;
};

class MetaspaceStage : public TokenStage {
 public:
  MetaspaceStage(TextSink& next, std::string replacement, bool prepended)
      : TokenStage(next), replacement_(std::move(replacement)), drop_(prepended) {}

 protected:
  void token(std::string& token) override {
    replace_all(token, replacement_, drop_ ? "" : " ");
    drop_ = false;
    pass(token);
  }

 private:
  std::string replacement_;
  bool drop_;  // the first token loses all of them
};

class SpacedStage : public TextSink {
 public:
  explicit SpacedStage(TextSink& next) : next_(next) {}
  void text(std::string_view part) override {
    if (between_) next_.text(" ");
    between_ = false;
    next_.text(part);
  }
  void end_token() override {
    if (between_) next_.text(" ");
    between_ = true;
    next_.end_token();
  }
  void finish() override { next_.finish(); }

 private:
  TextSink& next_;
  bool between_ = false;
};

// A decoder that is no more than how its stage is made.
class SimpleDecoder : public Decoder {
 public:
  using Make = std::function<std::unique_ptr<TextSink>(TextSink& next)>;
  explicit SimpleDecoder(Make make) : make_(std::move(make)) {}
  std::unique_ptr<TextSink> open(TextSink& next, ByteRuns) const override { return make_(next); }

 private:
  Make make_;
};

std::unique_ptr<const Decoder> simple(SimpleDecoder::Make make) {
  return std::make_unique<SimpleDecoder>(std::move(make));
}

// Owns the stages that pass their text on to each other.
class ChainedStages : public TextSink {
 public:
  ChainedStages(const std::vector<std::unique_ptr<const Decoder>>& parts, TextSink& next, ByteRuns runs) {
    first_ = &next;
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
      stages_.push_back((*part)->open(*first_, runs));
      first_ = stages_.back().get();
    }
  }
  void text(std::string_view part) override { first_->text(part); }
  void end_token() override { first_->end_token(); }
  void finish() override { first_->finish(); }

 private:
  std::vector<std::unique_ptr<TextSink>> stages_;  // last first
  TextSink* first_;
};

class SequenceDecoder : public Decoder {
 public:
  explicit SequenceDecoder(std::vector<std::unique_ptr<const Decoder>> parts) : parts_(std::move(parts)) {}
  std::unique_ptr<TextSink> open(TextSink& next, ByteRuns runs) const override {
    return std::make_unique<ChainedStages>(parts_, next, runs);
  }

 private:
  std::vector<std::unique_ptr<const Decoder>> parts_;
};

std::unique_ptr<const Decoder> make_strip(const JsonView& json) {
  std::string content;
  append_utf8(content, json.at("content").character());
  const auto start = static_cast<size_t>(json.at("start").integer(0, INT32_MAX));
  const auto stop = static_cast<size_t>(json.at("stop").integer(0, INT32_MAX));
  return simple([=](TextSink& next) { return std::make_unique<StripStage>(next, content, start, stop); });
}

std::unique_ptr<const Decoder> make_metaspace_decoder(const JsonView& json) {
  const auto given = json.find("replacement");
  std::string replacement;
  append_utf8(replacement, given ? given->character() : U'\u2581');
  const bool prepended =
      json.string_or("prepend_scheme", "always") != "never" && json.boolean_or("add_prefix_space", true);
  return simple(
      [=](TextSink& next) { return std::make_unique<MetaspaceStage>(next, replacement, prepended); });
}

}  // namespace

std::unique_ptr<const Decoder> make_decoder(const JsonView& json) {
  const std::string type = json.at("type").string();
  if (type == "WordPiece") {
    return simple([prefix = json.string_or("prefix", "##"), cleanup = json.boolean_or("cleanup", true)](
                      TextSink& next) { return std::make_unique<WordPieceStage>(next, prefix, cleanup); });
  }
  if (type == "ByteLevel") return make_byte_level_decoder();
  if (type == "BPEDecoder") {
    return simple([suffix = json.string_or("suffix", "</w>")](TextSink& next) {
      return std::make_unique<BpeStage>(next, suffix);
    });
  }
  if (type == "Replace") {
    return simple([pattern = std::make_shared<const Pattern>(json.at("pattern")),
                   content = json.at("content").string()](TextSink& next) {
      return std::make_unique<ReplaceStage>(next, *pattern, content);
    });
  }
  if (type == "Fuse") return simple([](TextSink& next) { return std::make_unique<FuseStage>(next); });
  if (type == "Strip") return make_strip(json);
  if (type == "ByteFallback") return make_byte_fallback_decoder();
  if (type == "Metaspace") return make_metaspace_decoder(json);
  if (type == "Sequence") {
    std::vector<std::unique_ptr<const Decoder>> parts;
    for (const auto& part : json.at("decoders").elements()) parts.push_back(make_decoder(part));
    return std::make_unique<SequenceDecoder>(std::move(parts));
  }
  json.fail_unknown("decoder", {"WordPiece", "ByteLevel", "BPEDecoder", "Replace", "Fuse", "Strip",
                                "ByteFallback", "Metaspace", "Sequence"});
}

std::unique_ptr<const Decoder> make_spaced_decoder() {
  return simple([](TextSink& next) { return std::make_unique<SpacedStage>(next); });
}

}  // namespace msplora::detail
