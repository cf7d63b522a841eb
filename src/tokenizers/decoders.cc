#include "tokenizers/decoders.h"

#include <charconv>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

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

class WordPieceDecoder : public Decoder {
 public:
  WordPieceDecoder(std::string prefix, bool cleanup) : prefix_(std::move(prefix)), cleanup_(cleanup) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0) {
        if (tokens[i].starts_with(prefix_))
          tokens[i].erase(0, prefix_.size());
        else
          tokens[i].insert(tokens[i].begin(), ' ');
      }
      if (cleanup_) clean_up(tokens[i]);
    }
  }

 private:
  std::string prefix_;
  bool cleanup_;
};

class ByteLevelDecoder : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::string bytes;
    for (const auto& token : tokens) {
      const size_t before = bytes.size();
      const char* p = token.data();
      const char* const end = p + token.size();
      while (p < end) {
        const int byte = byte_of_alphabet(next_code_point(p));
        if (byte < 0) break;
        bytes.push_back(static_cast<char>(byte));
        if (p == end) break;
      }
      // A token outside the byte alphabet (an added one) stands for itself.
      if (bytes.size() - before != count_code_points(token)) bytes.replace(before, std::string::npos, token);
    }
    std::string buffer;
    const std::string_view text = valid_utf8(bytes, buffer);
    tokens.assign(1, std::string(text));
  }
};

class BpeDecoder : public Decoder {
 public:
  explicit BpeDecoder(std::string suffix) : suffix_(std::move(suffix)) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i)
      replace_all(tokens[i], suffix_, i + 1 == tokens.size() ? "" : " ");
  }

 private:
  std::string suffix_;
};

class ReplaceDecoder : public Decoder {
 public:
  ReplaceDecoder(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(std::vector<std::string>& tokens) const override {
    std::string out;
    for (auto& token : tokens) {
      out.clear();
      pattern_.replace(token, content_, out);
      token = out;
    }
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class FuseDecoder : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::string all;
    for (const auto& token : tokens) all += token;
    tokens.assign(1, all);
  }
};

class StripDecoder : public Decoder {
 public:
  StripDecoder(char32_t content, int64_t start, int64_t stop) : start_(start), stop_(stop) {
    append_utf8(content_, content);
  }
  void apply(std::vector<std::string>& tokens) const override {
    for (auto& token : tokens) {
      std::string_view rest = token;
      for (int64_t i = 0; i < start_ && rest.starts_with(content_); ++i) rest.remove_prefix(content_.size());
      token.erase(0, token.size() - rest.size());
      for (int64_t i = 0; i < stop_ && token.ends_with(content_); ++i)
        token.resize(token.size() - content_.size());
    }
  }

 private:
  std::string content_;
  int64_t start_, stop_;
};

class ByteFallbackDecoder : public Decoder {
 public:
  void apply(std::vector<std::string>& tokens) const override {
    std::vector<std::string> out;
    std::string bytes;
    const auto flush = [&] {
      std::string buffer;
      if (bytes.empty()) return;
      // A run that is not valid as a whole becomes one replacement character per byte.
      if (valid_utf8(bytes, buffer).data() == bytes.data())
        out.push_back(bytes);
      else
        out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
      bytes.clear();
    };
    for (auto& token : tokens) {
      unsigned value = 0;
      const bool shaped = token.size() == 6 && token.starts_with("<0x") && token.back() == '>';
      if (shaped && std::from_chars(token.data() + 3, token.data() + 5, value, 16).ptr == token.data() + 5) {
        bytes.push_back(static_cast<char>(value));
      } else {
        flush();
        out.push_back(std::move(token));
      }
    }
    flush();
    tokens = std::move(out);
  }
};

class MetaspaceDecoder : public Decoder {
 public:
  MetaspaceDecoder(char32_t replacement, bool prepended) : prepended_(prepended) {
    append_utf8(replacement_, replacement);
  }
  void apply(std::vector<std::string>& tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i)
      replace_all(tokens[i], replacement_, i == 0 && prepended_ ? "" : " ");
  }

 private:
  std::string replacement_;
  bool prepended_;
};

class SequenceDecoder : public Decoder {
 public:
  explicit SequenceDecoder(std::vector<std::unique_ptr<const Decoder>> parts) : parts_(std::move(parts)) {}
  void apply(std::vector<std::string>& tokens) const override {
    for (const auto& part : parts_) part->apply(tokens);
  }

 private:
  std::vector<std::unique_ptr<const Decoder>> parts_;
};

}  // namespace

std::unique_ptr<const Decoder> make_decoder(const JsonView& json) {
  const std::string type = json.at("type").string();
  if (type == "WordPiece") {
    return std::make_unique<WordPieceDecoder>(json.string_or("prefix", "##"),
                                              json.boolean_or("cleanup", true));
  }
  if (type == "ByteLevel") return std::make_unique<ByteLevelDecoder>();
  if (type == "BPEDecoder") return std::make_unique<BpeDecoder>(json.string_or("suffix", "</w>"));
  if (type == "Replace") {
    return std::make_unique<ReplaceDecoder>(Pattern(json.at("pattern")), json.at("content").string());
  }
  if (type == "Fuse") return std::make_unique<FuseDecoder>();
  if (type == "Strip") {
    return std::make_unique<StripDecoder>(json.at("content").character(),
                                          json.at("start").integer(0, INT32_MAX),
                                          json.at("stop").integer(0, INT32_MAX));
  }
  if (type == "ByteFallback") return std::make_unique<ByteFallbackDecoder>();
  if (type == "Metaspace") {
    const auto replacement = json.find("replacement");
    const bool prepended =
        json.string_or("prepend_scheme", "always") != "never" && json.boolean_or("add_prefix_space", true);
    return std::make_unique<MetaspaceDecoder>(replacement ? replacement->character() : U'\u2581', prepended);
  }
  if (type == "Sequence") {
    std::vector<std::unique_ptr<const Decoder>> parts;
    for (const auto& part : json.at("decoders").elements()) parts.push_back(make_decoder(part));
    return std::make_unique<SequenceDecoder>(std::move(parts));
  }
  json.fail_unknown("decoder", {"WordPiece", "ByteLevel", "BPEDecoder", "Replace", "Fuse", "Strip",
                                "ByteFallback", "Metaspace", "Sequence"});
}

}  // namespace msplora::detail
