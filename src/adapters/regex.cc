#define PCRE2_CODE_UNIT_WIDTH 8

#include "adapters/regex.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace msplora::detail {
namespace {

std::string pcre_message(int code) {
  PCRE2_UCHAR buffer[256];
  return pcre2_get_error_message(code, buffer, sizeof(buffer)) < 0 ? "unknown error"
                                                                   : reinterpret_cast<const char*>(buffer);
}

using MatchData = std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)>;

/// The match data, or null when there is no match.
MatchData run(const void* code, std::string_view text, uint32_t options) {
  const auto* compiled = static_cast<const pcre2_code*>(code);
  MatchData data(pcre2_match_data_create_from_pattern(compiled, nullptr), &pcre2_match_data_free);
  const int rc = pcre2_match(compiled, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, options,
                             data.get(), nullptr);
  if (rc == PCRE2_ERROR_NOMATCH) return MatchData(nullptr, &pcre2_match_data_free);
  if (rc < 0) {
    throw std::invalid_argument(fmt::format("matching failed on `{}`: {}", text, pcre_message(rc)));
  }
  return data;
}

}  // namespace

Regex::Regex(const std::string& pattern) {
  int code = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* compiled =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), 0, &code, &offset, nullptr);
  if (compiled == nullptr) {
    throw std::invalid_argument(
        fmt::format("`{}` is no regular expression: {} at offset {}", pattern, pcre_message(code), offset));
  }
  code_ = std::shared_ptr<void>(compiled, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
}

bool Regex::full_match(std::string_view text) const {
  return run(code_.get(), text, PCRE2_ANCHORED | PCRE2_ENDANCHORED) != nullptr;
}

std::optional<std::string> Regex::match_group(std::string_view text) const {
  const MatchData data = run(code_.get(), text, PCRE2_ANCHORED);
  if (data == nullptr) return std::nullopt;
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data.get());
  if (pcre2_get_ovector_count(data.get()) < 2 || ends[2] == PCRE2_UNSET) return std::string();
  return std::string(text.substr(ends[2], ends[3] - ends[2]));
}

std::string escape_regex(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (std::string_view(R"(\^$.|?*+()[]{}-)").find(c) != std::string_view::npos) escaped += '\\';
    escaped += c;
  }
  return escaped;
}

}  // namespace msplora::detail
