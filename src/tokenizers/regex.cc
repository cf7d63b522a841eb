#include "tokenizers/regex.h"

#include <stdexcept>
#include <string>
#include <string_view>

#include "tokenizers/oniguruma.h"

namespace msplora::detail {
namespace {

std::string translated(const std::string& pattern, UnicodeTables tables, const JsonView& source) {
  try {
    return oniguruma_to_pcre2(pattern, tables);
  } catch (const PatternError& error) {
    source.fail(std::string("the pattern cannot be used: ") + error.what());
  }
}

PcrePattern compiled(const std::string& pattern, const JsonView& source) {
  try {
    return PcrePattern(pattern, PcrePattern::Text::kUnicode);
  } catch (const PatternError& error) {
    source.fail(std::string("the pattern cannot be used: ") + error.what());
  }
}

}  // namespace

TextPattern::TextPattern(const std::string& pattern, const JsonView& source)
    : TextPattern(translated(pattern, UnicodeTables::kOfLibrary, source),
                  translated(pattern, UnicodeTables::kUnicode16, source), source) {}

TextPattern::TextPattern(const std::string& usual, const std::string& exact, const JsonView& source)
    : usual_(compiled(usual, source)), where_(source.where()) {
  if (exact != usual) exact_ = compiled(exact, source);
}

bool TextPattern::find(PcreSearch& search, std::string_view text, size_t from) const {
  try {
    return search.find(text, from);
  } catch (const std::runtime_error& error) {
    throw Error(ErrorCode::kData, where_, error.what());
  }
}

Pattern::Pattern(const JsonView& json) {
  if (const auto literal = json.find("String")) {
    literal_ = literal->string();
  } else if (const auto regex = json.find("Regex")) {
    regex_.emplace(regex->string(), *regex);
  } else {
    json.fail("expected {\"String\": ...} or {\"Regex\": ...}");
  }
}

void Pattern::replace(std::string_view text, std::string_view content, std::string& out) const {
  size_t copied = 0;
  for_each(text, [&](size_t begin, size_t end) {
    out.append(text.substr(copied, begin - copied)).append(content);
    copied = end;
  });
  out.append(text.substr(copied));
}

}  // namespace msplora::detail
