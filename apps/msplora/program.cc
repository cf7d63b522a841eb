#include "program.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "msplora/core/dtype_names.h"
#include "msplora/core/dump_json.h"
#include "msplora/core/input_file.h"
#include "msplora/core/log.h"
#include "msplora/core/threads.h"
#include "msplora/nn/device.h"

namespace msplora {
namespace {

/// Characters on the screen, counting each UTF-8 sequence as one.
size_t width_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

/// NaN for what is no number.
double number_of(const std::string& text) {
  double value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  return code == std::errc() && end == text.data() + text.size() ? value
                                                                 : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

void add_common(CLI::App& command, CommonOptions& common) {
  command.add_flag("--json", common.json, "Machine-readable output on standard output");
  command.add_option("--threads", common.threads, "Threads; 0: as many as this process may use")
      ->check(non_negative_number())
      ->check(CLI::Validator(
          [](const std::string& text) {
            return number_of(text) > kMostThreads
                       ? fmt::format("expected at most {}, found {}", kMostThreads, text)
                       : std::string();
          },
          ""))
      ->type_name("N");
  command.add_option("--device", common.device, "Where the model runs: cpu, cuda or cuda:N")
      ->type_name("NAME");
  command
      .add_option("--log-format", common.log_format,
                  "Lines on standard error: text, or json (one object a line, with its time)")
      ->check(CLI::IsMember({"text", "json"}));
  command.add_flag("--debug", common.debug, "Show details of errors");
}

CLI::Validator positive_number() {
  return CLI::Validator(
      [](const std::string& text) {
        return number_of(text) > 0 ? std::string() : fmt::format("expected a number above 0, found {}", text);
      },
      "POSITIVE");
}

CLI::Validator non_negative_number() {
  return CLI::Validator(
      [](const std::string& text) {
        return number_of(text) >= 0 ? std::string()
                                    : fmt::format("expected 0 or a number above it, found {}", text);
      },
      "NONNEGATIVE");
}

CLI::Validator dtype_choice(std::vector<std::string> names) {
  const std::string list = fmt::format("{{{}}}", fmt::join(names, ","));
  return CLI::Validator(
      [names = std::move(names), list](std::string& value) {
        const std::string usual = usual_dtype_name(value);
        if (std::find(names.begin(), names.end(), usual) == names.end()) return value + " not in " + list;
        value = usual;
        return std::string();
      },
      list);
}

c10::Device device_of(const CommonOptions& common) {
  return parse_device(common.device.empty() ? "cpu" : common.device);
}

std::string with_commas(int64_t number) {
  std::string digits = std::to_string(number);
  const size_t begin = digits.front() == '-' ? 1 : 0;
  for (size_t at = digits.size(); at > begin + 3;) digits.insert(at -= 3, ",");
  return digits;
}

std::string bytes_text(int64_t bytes) {
  const double kib = static_cast<double>(bytes) / 1024.0;
  if (kib < 1024) return fmt::format("{:.0f} KiB", kib);
  if (kib < 1024 * 1024) return fmt::format("{:.1f} MiB", kib / 1024);
  return fmt::format("{:.2f} GiB", kib / (1024 * 1024));
}

std::string shortened(const std::vector<std::string>& names, size_t shown) {
  std::string text;
  for (size_t i = 0; i < std::min(shown, names.size()); ++i) text += (i > 0 ? ", " : "") + names[i];
  if (names.size() > shown) text += fmt::format(" and {} more", names.size() - shown);
  return text;
}

std::vector<std::string> split_commas(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    if (comma > begin) parts.push_back(text.substr(begin, comma - begin));
    begin = comma + 1;
  }
  return parts;
}

std::vector<std::string> split_names(const std::string& text) {
  std::vector<std::string> names;
  std::string name;
  bool is_quoted = false;
  const auto add = [&] {
    const size_t begin = name.find_first_not_of(' ');
    if (begin != std::string::npos)
      names.push_back(name.substr(begin, name.find_last_not_of(' ') + 1 - begin));
    name.clear();
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"' && is_quoted && i + 1 < text.size() && text[i + 1] == '"') {
      name += text[++i];
    } else if (c == '"') {
      is_quoted = !is_quoted;
    } else if (c == ',' && !is_quoted) {
      add();
    } else {
      name += c;
    }
  }
  add();
  return names;
}

TextTable::TextTable(std::vector<std::string> header, std::vector<bool> right) : right_(std::move(right)) {
  right_.resize(header.size(), false);
  for (std::string& cell : header) cell = printable_line(cell);
  rows_.push_back(std::move(header));
}

void TextTable::add(std::vector<std::string> row) {
  row.resize(rows_.front().size());
  for (std::string& cell : row) cell = printable_line(cell);
  rows_.push_back(std::move(row));
}

std::vector<size_t> TextTable::widths() const {
  std::vector<size_t> widths(rows_.front().size(), 3);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  return widths;
}

std::string TextTable::padded(const std::string& cell, size_t column, size_t width) const {
  const std::string space(width - width_of(cell), ' ');
  return right_[column] ? space + cell : cell + space;
}

std::string TextTable::text(const std::string& indent) const {
  const std::vector<size_t> widths = this->widths();
  std::string out;
  for (const auto& row : rows_) {
    std::string line = indent;
    for (size_t i = 0; i < row.size(); ++i) line += (i > 0 ? "  " : "") + padded(row[i], i, widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string TextTable::markdown() const {
  const std::vector<size_t> widths = this->widths();
  std::string out;
  for (size_t r = 0; r < rows_.size(); ++r) {
    for (size_t i = 0; i < rows_[r].size(); ++i)
      out += fmt::format("| {} ", padded(rows_[r][i], i, widths[i]));
    out += "|\n";
    if (r > 0) continue;
    for (size_t i = 0; i < widths.size(); ++i) {
      out += fmt::format("|{}{}", std::string(widths[i] + 1, '-'), right_[i] ? ":" : "-");
    }
    out += "|\n";
  }
  return out;
}

void refuse_packed_name(const std::string& file, const std::string& option) {
  const std::string plain = unpacked_name(file).string();
  if (plain == file) return;
  throw Error(ErrorCode::kUsage, option, fmt::format("{}: files are written unpacked", file),
              fmt::format("write {} and pack that", plain));
}

void say(const CommonOptions& common, const std::string& text) {
  if (!common.json) {
    std::cout << text << std::flush;
    return;
  }
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) log_info(line);
}

void print_json(const nlohmann::ordered_json& json) {
  std::cout << dump_json(json, 2) << "\n";
}

}  // namespace msplora
