#include "msplora/data/reader.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/strict_json.h"
#include "fmt/format.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

constexpr std::string_view kDelimiters = ",;\t|";  // of CSV files; the first wins a tie
constexpr size_t kSampledLines = 50;

// The records of the lines, to judge a delimiter by. A quote opens a field only at its beginning.
std::vector<std::vector<std::string>> split_sample(const std::vector<std::string>& lines, char delimiter) {
  std::vector<std::vector<std::string>> records;
  bool is_quoted = false;
  for (const std::string& line : lines) {
    if (!is_quoted && is_blank(line)) continue;
    if (!is_quoted) records.emplace_back(1);
    for (size_t i = 0; i < line.size(); ++i) {
      std::string& field = records.back().back();
      const char c = line[i];
      if (is_quoted ? c == '"' : c == '"' && field.empty()) {
        const bool is_doubled = is_quoted && i + 1 < line.size() && line[i + 1] == '"';
        if (is_doubled) field += line[++i];
        if (!is_doubled) is_quoted = !is_quoted;
      } else if (c == delimiter && !is_quoted) {
        records.back().emplace_back();
      } else if (c != '\r') {
        field += c;
      }
    }
  }
  if (records.size() > 1 && (is_quoted || lines.size() == kSampledLines))
    records.pop_back();  // perhaps a part
  return records;
}

char recognised_delimiter(const std::vector<std::string>& lines, const std::vector<std::string>& names) {
  char best = kDelimiters.front();
  std::pair<int64_t, size_t> most = {0, 1};  // names found, fields of every record
  for (const char delimiter : kDelimiters) {
    const auto records = split_sample(lines, delimiter);
    if (records.empty()) break;
    const auto& first = records.front();
    const auto found = std::count_if(names.begin(), names.end(), [&](const std::string& name) {
      return first.size() > 1 && std::find(first.begin(), first.end(), name) != first.end();
    });
    const bool is_even = std::all_of(records.begin(), records.end(),
                                     [&](const auto& record) { return record.size() == first.size(); });
    const std::pair<int64_t, size_t> here = {found, is_even ? first.size() : 1};
    if (here > most) {
      most = here;
      best = delimiter;
    }
  }
  return best;
}

char parse_delimiter(const std::string& text) {
  if (text == "tab" || text == "\t") return '\t';
  if (text.size() == 1 && kDelimiters.find(text.front()) != std::string_view::npos) return text.front();
  throw Error(ErrorCode::kConfig, "data.delimiter",
              fmt::format("expected auto, `,`, `;`, tab or `|`, found `{}`", text));
}

class TsvReader : public RecordReader {
 public:
  explicit TsvReader(const fs::path& path) : RecordReader(path) {}
  char delimiter() const override { return '\t'; }

  bool next(Record& record) override {
    record.clear();
    do {
      if (!lines_.next(line_)) return false;
    } while (is_blank(line_));
    record.line = lines_.line();
    record.beginning = beginning_of(line_);
    size_t begin = 0;
    for (size_t tab = line_.find('\t'); tab != std::string::npos; tab = line_.find('\t', begin)) {
      record.fields.emplace_back(line_, begin, tab - begin);
      begin = tab + 1;
    }
    record.fields.emplace_back(line_, begin);
    return true;
  }

 private:
  std::string line_;
};

class CsvReader : public RecordReader {
 public:
  CsvReader(const fs::path& path, const std::string& delimiter, const std::vector<std::string>& names)
      : RecordReader(path) {
    delimiter_ = delimiter == "auto" ? recognised_delimiter(lines_.peek(kSampledLines), names)
                                     : parse_delimiter(delimiter);
  }
  char delimiter() const override { return delimiter_; }

  bool next(Record& record) override {
    record.clear();
    do {
      if (!lines_.next(line_, /*keep_cr=*/true)) return false;
    } while (is_blank(line_));
    record.line = lines_.line();
    record.beginning = beginning_of(std::string_view(line_).substr(0, line_.find('\r')));
    size_t position = 0;
    while (read_field(record, position)) {
    }
    return true;
  }

 private:
  size_t end_of_record() const { return line_.size() - (!line_.empty() && line_.back() == '\r' ? 1 : 0); }

  // Reads the field that starts at `position` and moves behind its separator; false after the last of the
  // record.
  bool read_field(Record& record, size_t& position) {
    std::string field;
    size_t end = end_of_record();
    if (position < end && line_[position] == '"') {
      position = read_quoted(record, position + 1, field);
      end = end_of_record();
      if (position < end && line_[position] != delimiter_) {
        throw Error(
            ErrorCode::kData, file_and_line(path(), lines_.line()),
            fmt::format(
                "expected {} or the end of the line after a closing quote, found `{}`; the record begins "
                "\"{}\"",
                delimiter_ == ',' ? "a comma" : "`" + delimiter_name(delimiter_) + "`", line_[position],
                record.beginning),
            "a quote inside a quoted field is written twice");
      }
    } else {
      const size_t next = std::min(line_.find(delimiter_, position), end);
      field.assign(line_, position, next - position);
      position = next;
    }
    record.fields.push_back(std::move(field));
    if (position >= end) return false;
    ++position;
    return true;
  }

  // Reads up to the closing quote, over line ends if need be; returns the position behind it in the current
  // line.
  size_t read_quoted(const Record& record, size_t position, std::string& field) {
    for (;;) {
      const size_t quote = line_.find('"', position);
      if (quote == std::string::npos) {
        field.append(line_, position, std::string::npos).push_back('\n');
        if (!lines_.next(line_, /*keep_cr=*/true)) {
          throw Error(
              ErrorCode::kData, file_and_line(path(), record.line),
              fmt::format("the quoted field is never closed; the record begins \"{}\"", record.beginning));
        }
        position = 0;
        continue;
      }
      field.append(line_, position, quote - position);
      if (quote + 1 >= line_.size() || line_[quote + 1] != '"') return quote + 1;
      field.push_back('"');
      position = quote + 2;
    }
  }

  std::string line_;
  char delimiter_ = ',';
};

// The members of one JSON object, in order, without a tree: finding a key in nlohmann's ordered objects takes
// a walk over all of them.
class ObjectMembers : public nlohmann::json_sax<nlohmann::json> {
 public:
  struct Member {
    std::string name;
    std::optional<std::string> value;  // nothing for null, arrays and objects
  };
  std::vector<Member> members;
  const char* top = nullptr;  // what stands there when it is no object
  size_t damaged_at = 0;
  std::optional<std::string> repeated;  // a name that is there twice
  bool is_too_deep = false;

  bool null() override { return scalar("null", std::nullopt); }
  bool boolean(bool value) override { return scalar("boolean", value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return scalar("number", std::to_string(value)); }
  bool number_unsigned(number_unsigned_t value) override { return scalar("number", std::to_string(value)); }
  bool number_float(number_float_t value, const string_t&) override {
    return scalar("number", nlohmann::json(value).dump());
  }
  bool string(string_t& value) override { return scalar("string", std::move(value)); }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override {
    if (depth_ == 1 && top == nullptr) members[current_].value.reset();
    is_too_deep = ++depth_ > static_cast<size_t>(detail::JsonRules{}.max_depth);
    return !is_too_deep;
  }
  bool end_object() override { return --depth_, true; }
  bool start_array(size_t) override {
    if (depth_ == 0) top = "array";
    return start_object(0);
  }
  bool end_array() override { return --depth_, true; }
  bool key(string_t& name) override {
    if (depth_ != 1 || top != nullptr) return true;
    const auto [known, is_new] = places_.try_emplace(name, members.size());
    current_ = known->second;
    if (is_new) {
      members.push_back({std::move(name), std::nullopt});
    } else {
      repeated = std::move(name);
    }
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    damaged_at = position;
    return false;
  }

 private:
  bool scalar(const char* type, std::optional<std::string> value) {
    if (depth_ == 0) top = type;
    if (depth_ == 1 && top == nullptr) members[current_].value = std::move(value);
    return true;
  }

  size_t depth_ = 0;
  size_t current_ = 0;
  std::unordered_map<std::string, size_t> places_;
};

class JsonlReader : public RecordReader {
 public:
  explicit JsonlReader(const fs::path& path) : RecordReader(path) {}

  bool next(Record& record) override {
    record.clear();
    do {
      if (!lines_.next(line_)) return false;
    } while (is_blank(line_));
    record.line = lines_.line();
    record.beginning = beginning_of(line_);
    record.source = line_;
    ObjectMembers object;
    const size_t zero = detail::find_zero_byte(line_);
    if (zero != std::string::npos) object.damaged_at = zero + 1;
    const bool is_whole = zero == std::string::npos && nlohmann::json::sax_parse(line_, &object);
    if (object.is_too_deep) {
      throw Error(ErrorCode::kData, file_and_line(path(), record.line),
                  fmt::format("expected JSON nested at most {} levels deep; the line begins \"{}\"",
                              detail::JsonRules{}.max_depth, record.beginning));
    }
    if (!is_whole) {
      throw Error(
          ErrorCode::kData, file_and_line(path(), record.line),
          fmt::format("expected one JSON object on the line, but it is damaged at byte {}; the line begins "
                      "\"{}\"",
                      object.damaged_at, record.beginning));
    }
    if (object.repeated) {
      throw Error(ErrorCode::kData, file_and_line(path(), record.line),
                  fmt::format("the key `{}` appears twice in one object; the line begins \"{}\"",
                              *object.repeated, record.beginning));
    }
    if (object.top != nullptr) {
      throw Error(ErrorCode::kData, file_and_line(path(), record.line),
                  fmt::format("expected a JSON object, found {}; the line begins \"{}\"", object.top,
                              record.beginning),
                  std::string_view(object.top) == "array"
                      ? "one object a line is read; of an array of them: jq -c '.[]' FILE > NEW.jsonl"
                      : "");
    }
    for (ObjectMembers::Member& member : object.members) {
      if (!member.value) {
        record.other_names.push_back(std::move(member.name));
        continue;
      }
      record.names.push_back(std::move(member.name));
      record.fields.push_back(*std::move(member.value));
    }
    return true;
  }

 private:
  std::string line_;
};

}  // namespace

FileFormat resolve_format(const fs::path& path, std::string_view format) {
  if (format == "tsv") return FileFormat::kTsv;
  if (format == "csv") return FileFormat::kCsv;
  if (format == "jsonl") return FileFormat::kJsonl;
  if (format != "auto") {
    throw Error(ErrorCode::kConfig, "data.format",
                fmt::format("expected auto, tsv, csv or jsonl, found `{}`", format),
                did_you_mean(format, {"auto", "tsv", "csv", "jsonl"}));
  }
  std::string extension = unpacked_name(path).extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (extension == ".tsv" || extension == ".txt" || extension == ".tab") return FileFormat::kTsv;
  if (extension == ".csv") return FileFormat::kCsv;
  if (extension == ".jsonl" || extension == ".ndjson" || extension == ".json") return FileFormat::kJsonl;
  throw Error(ErrorCode::kConfig, path.string(),
              fmt::format("the extension `{}` does not tell the form of the file", extension),
              "set data.format to tsv, csv or jsonl");
}

void Record::clear() {
  fields.clear();
  names.clear();
  other_names.clear();
  source.clear();
  line = 0;
  beginning.clear();
}

std::unique_ptr<RecordReader> RecordReader::open(const fs::path& path, FileFormat format,
                                                 const std::string& delimiter,
                                                 const std::vector<std::string>& names) {
  if (format == FileFormat::kJsonl) return std::make_unique<JsonlReader>(path);
  const bool has_tabs = delimiter == "auto" || parse_delimiter(delimiter) == '\t';
  if (format == FileFormat::kTsv && has_tabs) return std::make_unique<TsvReader>(path);
  return std::make_unique<CsvReader>(path, delimiter, names);
}

std::string delimiter_name(char delimiter) {
  return delimiter == '\t' ? "tab" : std::string(1, delimiter);
}

std::string beginning_of(std::string_view line) {
  constexpr size_t kBeginning = 60;
  if (line.size() <= kBeginning) return std::string(line);
  size_t end = kBeginning;
  while (end > 0 && (static_cast<unsigned char>(line[end]) & 0xC0) == 0x80) --end;
  return std::string(line.substr(0, end)) + "...";
}

}  // namespace msplora
