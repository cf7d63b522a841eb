#define PCRE2_CODE_UNIT_WIDTH 8

#include "core/pcre.h"

#include <pcre2.h>

#include <array>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace msplora::detail {
namespace {

std::string pcre_message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  if (pcre2_get_error_message(code, text.data(), text.size()) == PCRE2_ERROR_BADDATA) return "unknown error";
  return reinterpret_cast<const char*>(text.data());
}

uint32_t match_options(PcreSearch::Where where) {
  switch (where) {
    case PcreSearch::Where::kAnywhere:
      return 0;
    case PcreSearch::Where::kAtStart:
      return PCRE2_ANCHORED;
    case PcreSearch::Where::kWhole:
      break;
  }
  return PCRE2_ANCHORED | PCRE2_ENDANCHORED;
}

}  // namespace

PcrePattern::PcrePattern(const std::string& pattern, Text text) {
  // The library's own defaults for line ends depend on how it was built.
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), &pcre2_compile_context_free);
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int code = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* compiled =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    text == Text::kUnicode ? PCRE2_UTF | PCRE2_UCP : 0, &code, &offset, context.get());
  if (!compiled) throw PatternError(pcre_message(code), offset);
  code_ = std::shared_ptr<const void>(compiled, [](pcre2_code* owned) { pcre2_code_free(owned); });
  // Without JIT support in the library matching is slower but the same.
  pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
}

PcreSearch::PcreSearch(const PcrePattern& pattern)
    : code_(pattern.code_.get()),
      match_data_(pcre2_match_data_create_from_pattern(static_cast<const pcre2_code*>(code_), nullptr)) {
  if (!match_data_) throw std::bad_alloc();
}

PcreSearch::~PcreSearch() {
  pcre2_match_data_free(static_cast<pcre2_match_data*>(match_data_));
}

bool PcreSearch::find(std::string_view text, size_t from, Where where) {
  const uint32_t options = PCRE2_NO_UTF_CHECK | match_options(where);
  const auto search = [&](uint32_t extra) {
    return pcre2_match(static_cast<const pcre2_code*>(code_), reinterpret_cast<PCRE2_SPTR>(text.data()),
                       text.size(), from, options | extra, static_cast<pcre2_match_data*>(match_data_),
                       nullptr);
  };
  int result = search(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = search(PCRE2_NO_JIT);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) {
    throw std::runtime_error("the pattern gave up on a text of " + std::to_string(text.size()) +
                             " bytes: " + pcre_message(result));
  }
  return true;
}

std::optional<PcreSearch::Range> PcreSearch::group(size_t number) const {
  auto* data = static_cast<pcre2_match_data*>(match_data_);
  if (number >= pcre2_get_ovector_count(data)) return std::nullopt;
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data) + 2 * number;
  if (bounds[0] == PCRE2_UNSET) return std::nullopt;
  return Range{bounds[0], bounds[1]};
}

}  // namespace msplora::detail
