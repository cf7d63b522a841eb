#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/data/reader.h"
#include "msplora/runs/report.h"

namespace msplora {
namespace {

constexpr std::string_view kTestPairsHeader = "part,prediction,target";
constexpr std::string_view kNamedHeader = "part,prediction,target,predicted label,label";

bool parse_number(std::string_view text, float& value) {
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

std::string csv_text(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted.append(c == '"' ? 2 : 1, c);
  return quoted + "\"";
}

/// The classes of a part in their order; empty for a task without classes.
std::vector<std::string> names_of(const RunReport& report, const std::string& part) {
  const auto found = report.classes.find(part);
  if (found == report.classes.end() || !found->second.is_object() || !found->second.contains("labels"))
    return {};
  return found->second["labels"].get<std::vector<std::string>>();
}

}  // namespace

std::string test_pairs_csv(const RunReport& report) {
  bool has_names = !report.test_pairs.empty();
  for (const auto& [part, pairs] : report.test_pairs)
    has_names = has_names && !names_of(report, part).empty();
  std::string text = fmt::format("{}\n", has_names ? kNamedHeader : kTestPairsHeader);
  for (const auto& [part, pairs] : report.test_pairs) {
    const std::vector<std::string> names = has_names ? names_of(report, part) : std::vector<std::string>();
    const auto name = [&](float index) { return csv_text(names.at(static_cast<size_t>(index))); };
    for (const MetricPair& pair : pairs) {
      text += fmt::format("{},{},{}", csv_text(part), pair.prediction, pair.target);
      if (has_names) text += fmt::format(",{},{}", name(pair.prediction), name(pair.target));
      text += "\n";
    }
  }
  return text;
}

std::vector<MetricPair> read_test_pairs(const std::filesystem::path& file) {
  const auto reader = RecordReader::open(file, FileFormat::kCsv, ",");
  Record record;
  const auto fail = [&](const std::string& problem) {
    throw Error(ErrorCode::kFormat, file_and_line(file, record.line), problem);
  };
  if (!reader->next(record) || (record.beginning != kTestPairsHeader && record.beginning != kNamedHeader))
    fail(fmt::format("expected the header `{}` or `{}`", kTestPairsHeader, kNamedHeader));
  const size_t behind = record.fields.size() - 1;  // columns behind the part, which may have commas
  std::vector<MetricPair> pairs;
  while (reader->next(record)) {
    MetricPair pair;
    const size_t at = record.fields.size() - behind;
    if (record.fields.size() <= behind || !parse_number(record.fields[at], pair.prediction) ||
        !parse_number(record.fields[at + 1], pair.target))
      fail("expected a part, a prediction and a target");
    pairs.push_back(pair);
  }
  return pairs;
}

}  // namespace msplora
