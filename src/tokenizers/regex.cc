#include "tokenizers/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <memory>
#include <new>
#include <string>
#include <string_view>

#include "tokenizers/unicode.h"

namespace msplora::detail {
namespace {

std::string pcre_message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

Regex::Regex(const std::string& pattern, const JsonView& source) : pattern_(pattern), where_(source.where()) {
  int code = 0;
  PCRE2_SIZE offset = 0;
  code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP,
                        &code, &offset, nullptr);
  if (!code_) {
    source.fail("the pattern does not compile at offset " + std::to_string(offset) + ": " +
                pcre_message(code));
  }
  // Without JIT support in the library matching is slower but the same.
  pcre2_jit_compile(static_cast<pcre2_code*>(code_), PCRE2_JIT_COMPLETE);
}

Regex::~Regex() {
  pcre2_code_free(static_cast<pcre2_code*>(code_));
}

Regex::Searcher::Searcher(const Regex& regex, std::string_view text)
    : regex_(regex),
      text_(text),
      match_data_(pcre2_match_data_create_from_pattern(static_cast<pcre2_code*>(regex.code_), nullptr)) {
  if (!match_data_) throw std::bad_alloc();
}

Regex::Searcher::~Searcher() {
  pcre2_match_data_free(static_cast<pcre2_match_data*>(match_data_));
}

bool Regex::Searcher::next(Match& match) {
  if (position_ > text_.size()) return false;
  const auto* code = static_cast<const pcre2_code*>(regex_.code_);
  auto* data = static_cast<pcre2_match_data*>(match_data_);
  const auto search = [&](uint32_t options) {
    return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), position_,
                       PCRE2_NO_UTF_CHECK | options, data, nullptr);
  };
  int result = search(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = search(PCRE2_NO_JIT);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) {
    throw Error(ErrorCode::kData, regex_.where_,
                "the pattern gave up on a text of " + std::to_string(text_.size()) +
                    " bytes: " + pcre_message(result));
  }
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data);
  match = {bounds[0], bounds[1]};
  // \K can set the start past the end; such a match covers nothing.
  if (match.begin > match.end) match.begin = match.end;
  position_ = match.end;
  if (match.begin == match.end) position_ += match.end < text_.size() ? utf8_length(text_[match.end]) : 1;
  return true;
}

Pattern::Pattern(const JsonView& json) {
  if (const auto literal = json.find("String")) {
    literal_ = literal->string();
  } else if (const auto regex = json.find("Regex")) {
    regex_source_ = regex->string();
    regex_ = std::make_shared<const Regex>(regex_source_, *regex);
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
