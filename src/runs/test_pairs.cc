#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/runs/report.h"

namespace msplora {
namespace {

constexpr std::string_view kTestPairsHeader = "part,prediction,target";

bool parse_number(std::string_view text, float& value) {
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

/// A line "part,prediction,target", read from its end: parts may have commas.
bool parse_pair(std::string_view line, MetricPair& pair) {
  const size_t second = line.rfind(',');
  if (second == std::string_view::npos || second == 0) return false;
  const size_t first = line.rfind(',', second - 1);
  if (first == std::string_view::npos) return false;
  return parse_number(line.substr(first + 1, second - first - 1), pair.prediction) &&
         parse_number(line.substr(second + 1), pair.target);
}

}  // namespace

std::string test_pairs_csv(const RunReport& report) {
  std::string text = fmt::format("{}\n", kTestPairsHeader);
  for (const auto& [part, pairs] : report.test_pairs) {
    for (const MetricPair& pair : pairs)
      text += fmt::format("{},{},{}\n", part, pair.prediction, pair.target);
  }
  return text;
}

std::vector<MetricPair> read_test_pairs(const std::filesystem::path& file) {
  const std::string text = read_file(file);
  std::vector<MetricPair> pairs;
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    if (++number == 1 && line == kTestPairsHeader) continue;
    MetricPair pair;
    if (number == 1 || !parse_pair(line, pair)) {
      throw Error(ErrorCode::kFormat, fmt::format("{}:{}", file.string(), number),
                  number == 1 ? fmt::format("expected the header `{}`", kTestPairsHeader)
                              : std::string("expected a part, a prediction and a target"));
    }
    pairs.push_back(pair);
  }
  return pairs;
}

}  // namespace msplora
