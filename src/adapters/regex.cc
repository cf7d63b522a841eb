#include "adapters/regex.h"

#include <fmt/format.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace msplora::detail {
namespace {

PcrePattern compile_python(const std::string& pattern) {
  try {
    return PcrePattern(pattern, PcrePattern::Text::kBytes);
  } catch (const PatternError& error) {
    throw std::invalid_argument(fmt::format("`{}` is no regular expression: {}", pattern, error.what()));
  }
}

bool find_in(PcreSearch& search, std::string_view text, PcreSearch::Where where) {
  try {
    return search.find(text, 0, where);
  } catch (const std::runtime_error& error) {
    throw std::invalid_argument(fmt::format("matching failed on `{}`: {}", text, error.what()));
  }
}

}  // namespace

PythonPattern::PythonPattern(const std::string& pattern) : compiled_(compile_python(pattern)) {}

bool PythonPattern::full_match(std::string_view text) const {
  PcreSearch search(compiled_);
  return find_in(search, text, PcreSearch::Where::kWhole);
}

std::optional<std::string> PythonPattern::match_group(std::string_view text) const {
  PcreSearch search(compiled_);
  if (!find_in(search, text, PcreSearch::Where::kAtStart)) return std::nullopt;
  const auto group = search.group(1);
  return group ? std::string(text.substr(group->first, group->second - group->first)) : std::string();
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
