#include <algorithm>
#include <charconv>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "fmt/format.h"
#include "fmt/ranges.h"
#include "msplora/data/dataset.h"
#include "text_util.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

constexpr size_t kHeaderSample = 200;

std::optional<size_t> position_of(const std::string& column) {
  size_t position = 0;
  const auto [end, code] = std::from_chars(column.data(), column.data() + column.size(), position);
  if (code != std::errc() || end != column.data() + column.size()) return std::nullopt;
  return position;
}

struct Verdict {
  bool header = false;
  std::string reason;
};

bool is_number(const std::string& text) {
  return parse_double(text).has_value();
}

// With columns given by position nothing in the configuration tells; the label column is compared with its
// rows.
Verdict judge_first_row(const std::deque<Record>& sample, const TableSpec& spec) {
  const std::optional<size_t> label = position_of(spec.label);
  const std::vector<std::string>& first = sample.front().fields;
  if (!label || *label >= first.size() || sample.size() < 2) {
    return {false, "the columns are given by position"};
  }
  std::map<std::string, int> counts;
  bool all_numbers = true;
  for (size_t i = 1; i < sample.size(); ++i) {
    if (*label >= sample[i].fields.size()) continue;
    const std::string value(trim(sample[i].fields[*label]));
    all_numbers = all_numbers && is_number(value);
    ++counts[value];
  }
  const std::string value(trim(first[*label]));
  if (all_numbers && !is_number(value)) {
    return {true, fmt::format("the label column holds numbers, but `{}` in the first row", value)};
  }
  const bool repeated =
      std::all_of(counts.begin(), counts.end(), [](const auto& item) { return item.second > 1; });
  if (sample.size() > 20 && repeated && counts.count(value) == 0) {
    return {true, fmt::format("the labels repeat, but `{}` stands in the first row alone", value)};
  }
  return {false,
          fmt::format("the columns are given by position and `{}` in the first row is a label", value)};
}

Verdict judge_header(const std::deque<Record>& sample, const TableSpec& spec) {
  if (spec.header == "yes") return {true, "the configuration says so"};
  if (spec.header == "no") return {false, "the configuration says so"};
  for (const std::string& column : {spec.text, spec.text_pair.value_or(spec.text), spec.label}) {
    const auto& first = sample.front().fields;
    if (!column.empty() && !position_of(column) &&
        std::find(first.begin(), first.end(), column) != first.end()) {
      return {true, fmt::format("the first row names the column `{}`", column)};
    }
  }
  // The label column of unlabelled files may be absent, so its name alone does not make a missing header an
  // error.
  if (!position_of(spec.text) || (spec.text_pair && !position_of(*spec.text_pair))) {
    return {true, "columns are given by name"};
  }
  return judge_first_row(sample, spec);
}

// Finds the wanted columns in the rows of one file.
class ColumnMap {
 public:
  ColumnMap(fs::path path, const TableSpec& spec) : path_(std::move(path)), spec_(spec) {}

  void resolve(const std::vector<std::string>& columns, bool header, int64_t line) {
    columns_ = columns;
    header_ = header;
    line_ = line;
    ErrorList problems;
    text_ = require(spec_.text, "text", problems);
    if (spec_.text_pair) pair_ = require(*spec_.text_pair, "text_pair", problems);
    if (!spec_.label.empty()) label_ = find(spec_.label, problems);
    if (!label_ && !spec_.label_optional) label_ = require(spec_.label, "label", problems);
    if (spec_.group) group_ = require(*spec_.group, "group", problems);
    problems.throw_if_any(ErrorCode::kData, path_.string());
  }

  // Objects of a JSONL file may list their keys in any order.
  void resolve(const Record& record) {
    if (record.names == columns_ && !columns_.empty()) return;
    for (const std::string* column : {&spec_.text, spec_.text_pair ? &*spec_.text_pair : nullptr,
                                      &spec_.label, spec_.group ? &*spec_.group : nullptr}) {
      if (column == nullptr) continue;
      const auto& others = record.other_names;
      if (std::find(others.begin(), others.end(), *column) == others.end()) continue;
      if (column == &spec_.label && spec_.label_optional) continue;
      throw Error(
          ErrorCode::kData, file_and_line(path_, record.line),
          fmt::format(
              "expected a string, number or boolean under `{}`, found null, an array or an object; the "
              "line begins \"{}\"",
              *column, record.beginning));
    }
    is_keyed_ = true;
    others_ = record.other_names;
    resolve(record.names, true, record.line);
  }

  Example example(Record& record) const {
    Example example;
    example.line = record.line;
    // Copies: two columns of the mapping may be the same.
    example.text = record.fields[*text_];
    if (pair_) {
      example.text_pair = record.fields[*pair_];
      example.has_pair = true;
    }
    if (label_) example.label = std::string(trim(record.fields[*label_]));
    if (group_) example.group = std::string(trim(record.fields[*group_]));
    return example;
  }

 private:
  std::optional<size_t> find(const std::string& column, ErrorList& problems) const {
    if (header_) {
      const auto count = std::count(columns_.begin(), columns_.end(), column);
      if (count > 1) {
        problems.add(file_and_line(path_, line_), fmt::format("{} columns are called `{}`", count, column),
                     "give the column by its position, counted from 0");
      }
      const auto found = std::find(columns_.begin(), columns_.end(), column);
      if (found != columns_.end()) return static_cast<size_t>(found - columns_.begin());
    }
    const std::optional<size_t> position = position_of(column);
    if (position && *position < columns_.size()) return position;
    return std::nullopt;
  }

  /// Old Macs', which are one line to all readers.
  bool lines_end_in_cr() const {
    return header_ && std::any_of(columns_.begin(), columns_.end(), [](const std::string& name) {
             return name.find('\r') != std::string::npos;
           });
  }

  /// What may be done about a column that is not there.
  std::string hint_for(const std::string& column, const std::string& key) const {
    if (columns_.size() == 1 && columns_.front().find_first_of(",;|") != std::string::npos && !is_keyed_) {
      return fmt::format("the fields seem to have `{}` between them; set data.delimiter",
                         columns_.front()[columns_.front().find_first_of(",;|")]);
    }
    if (lines_end_in_cr())
      return "the lines seem to end in CR alone; rewrite them: tr '\\r' '\\n' < FILE > NEW";
    if (!header_ && !position_of(column))
      return "without a header, columns are given by position, counted from 0";
    for (const char* conversation : {"messages", "conversations"}) {
      if (std::find(others_.begin(), others_.end(), conversation) != others_.end())
        return "conversations are read by task.type: sft (eval: --task sft)";
    }
    std::string hint = did_you_mean(column, columns_);
    std::string flag = key;
    std::replace(flag.begin(), flag.end(), '_', '-');
    hint += fmt::format("{}data.{} names it{}", hint.empty() ? "" : " ", key,
                        key == "group" ? "" : fmt::format(" (--{} of eval and predict)", flag));
    if (!is_keyed_) hint += ", and data.header says whether the first row is a header";
    return hint;
  }

  /// The columns that are there.
  std::string found() const {
    const char* kind = is_keyed_ ? "keys" : "columns";
    if (!header_) return fmt::format("{} {}: 0 to {}", columns_.size(), kind, columns_.size() - 1);
    std::string text = columns_.empty()
                           ? fmt::format("no {} of texts or numbers", kind)
                           : fmt::format("{} {}: `{}`", columns_.size(), kind, fmt::join(columns_, "`, `"));
    if (!others_.empty())
      text += fmt::format("; with null, an array or an object under `{}`", fmt::join(others_, "`, `"));
    return text;
  }

  size_t require(const std::string& column, const char* key, ErrorList& problems) const {
    if (const std::optional<size_t> place = find(column, problems)) return *place;
    problems.add(
        file_and_line(path_, line_),
        fmt::format("no {} `{}` (data.{}); found {}", is_keyed_ ? "key" : "column", column, key, found()),
        hint_for(column, key));
    return 0;
  }

  fs::path path_;
  const TableSpec& spec_;
  std::vector<std::string> columns_;
  bool header_ = false;
  bool is_keyed_ = false;            // JSONL
  std::vector<std::string> others_;  // its keys that hold no text
  int64_t line_ = 1;
  std::optional<size_t> text_, pair_, label_, group_;
};

constexpr char kReadQuotes[] = "set data.format to csv and data.delimiter to tab to have quotes read";

/// Without quotes in the form, a field that a writer of CSV quoted for its line end stands on two lines.
std::string open_quote_hint(const Record& record) {
  const bool is_open = std::any_of(record.fields.begin(), record.fields.end(), [](const std::string& field) {
    return field.starts_with('"') && (field.size() == 1 || !field.ends_with('"'));
  });
  return is_open ? fmt::format("a quoted field may go on in the next line: {}", kReadQuotes) : "";
}

void check_width(const fs::path& path, const Record& record, size_t expected, char delimiter,
                 bool has_quotes) {
  if (record.fields.size() == expected) return;
  const std::string separator = delimiter == ',' ? "comma" : delimiter_name(delimiter);
  throw Error(ErrorCode::kData, file_and_line(path, record.line),
              fmt::format("expected {} {}-separated fields, found {}; the line begins \"{}\"", expected,
                          separator, record.fields.size(), record.beginning),
              has_quotes ? "" : open_quote_hint(record));
}

/// As writers of CSV put a text between quotes that has quotes in it: `"he said ""no"""`.
bool is_quoted_twice(std::string_view text) {
  if (text.size() < 4 || !text.starts_with('"') || !text.ends_with('"')) return false;
  text = text.substr(1, text.size() - 2);
  bool has_pair = false;
  for (size_t at = text.find('"'); at != std::string_view::npos; at = text.find('"', at + 2)) {
    if (at + 1 == text.size() || text[at + 1] != '"') return false;
    has_pair = true;
  }
  return has_pair;
}

std::string quote_note(const std::vector<Example>& examples) {
  size_t count = 0;
  const Example* first = nullptr;
  for (const Example& example : examples) {
    if (!is_quoted_twice(example.text) && !is_quoted_twice(example.text_pair)) continue;
    if (count++ == 0) first = &example;
  }
  if (first == nullptr) return {};
  return fmt::format(
      "{} examples have a text between quotes with doubled quotes in it, which stay as they are, "
      "the first on line {}; if a program quoted them, {}",
      count, first->line, kReadQuotes);
}

// A label column that is empty throughout (unlabelled test files) is no label column.
bool check_labels(const fs::path& path, std::vector<Example>& examples, const TableSpec& spec) {
  constexpr size_t kShown = 10;
  if (spec.label_ignored) return false;
  std::vector<const Example*> empty;
  for (const Example& example : examples) {
    if (example.label.empty()) empty.push_back(&example);
  }
  if (empty.empty()) return true;
  if (empty.size() == examples.size() && spec.label_optional) return false;
  std::string others;
  if (empty.size() > 1) {
    std::vector<int64_t> lines;
    for (size_t i = 1; i < std::min(empty.size(), kShown); ++i) lines.push_back(empty[i]->line);
    others = fmt::format("; so are those of {} other examples (lines {}{})", empty.size() - 1,
                         fmt::join(lines, ", "), empty.size() > kShown ? ", ..." : "");
  }
  throw Error(
      ErrorCode::kData, file_and_line(path, empty.front()->line),
      fmt::format("the label is empty (the text begins \"{}\"){}", beginning_of(empty.front()->text), others),
      spec.label_optional ? "all examples of the file have a label, or none" : "");
}

std::vector<std::string> named_columns(const TableSpec& spec) {
  std::vector<std::string> names;
  for (const auto& column :
       {std::optional(spec.text), spec.text_pair, std::optional(spec.label), spec.group}) {
    if (column && !column->empty() && !position_of(*column)) names.push_back(*column);
  }
  return names;
}

/// How many texts are empty; of pairs, each side and both.
std::string empty_note(const std::vector<Example>& examples) {
  size_t first = 0, second = 0, both = 0;
  for (const Example& example : examples) {
    const bool no_text = trim(example.text).empty();
    const bool no_pair = example.has_pair && trim(example.text_pair).empty();
    if (no_text) ++first;
    if (no_pair) ++second;
    if (no_text && no_pair) ++both;
  }
  if (first + second == 0) return {};
  if (second == 0) return fmt::format("{} examples have an empty text", first);
  return fmt::format("{} examples have an empty text, {} an empty second text, {} of them both", first,
                     second, both);
}

std::vector<std::string> numbered_columns(size_t count) {
  std::vector<std::string> columns;
  for (size_t i = 0; i < count; ++i) columns.push_back(std::to_string(i));
  return columns;
}

}  // namespace

Dataset read_table(const fs::path& path, const TableSpec& spec) {
  const auto reader = RecordReader::open(path, spec.format, spec.delimiter, named_columns(spec));
  std::deque<Record> sample;
  Record record;
  while (sample.size() < kHeaderSample && reader->next(record)) sample.push_back(record);
  if (sample.empty())
    throw Error(ErrorCode::kData, path.string(), "the file is empty; expected at least one example");

  ColumnMap map(path, spec);
  const bool keyed = spec.format == FileFormat::kJsonl;
  const bool has_quotes = spec.format == FileFormat::kCsv || reader->delimiter() != '\t';
  std::vector<std::string> columns;
  std::string note;
  if (!keyed) {
    const Verdict verdict = judge_header(sample, spec);
    columns = verdict.header ? sample.front().fields : numbered_columns(sample.front().fields.size());
    map.resolve(columns, verdict.header, sample.front().line);
    note = fmt::format("{}: {} header ({})", path.string(), verdict.header ? "with a" : "no", verdict.reason);
    if (verdict.header) sample.pop_front();
  } else {
    columns = sample.front().names;
  }

  std::vector<Example> examples;
  for (;;) {
    if (!sample.empty()) {
      record = std::move(sample.front());
      sample.pop_front();
    } else if (!reader->next(record)) {
      break;
    }
    if (keyed) {
      map.resolve(record);
    } else {
      check_width(path, record, columns.size(), reader->delimiter(), has_quotes);
    }
    examples.push_back(map.example(record));
    if (spec.keep_fields && keyed) examples.back().fields = {record.source};
    if (spec.keep_fields && !keyed) examples.back().fields = record.fields;
  }
  if (examples.empty()) throw Error(ErrorCode::kData, path.string(), "the file has a header but no examples");
  const bool has_labels = check_labels(path, examples, spec);
  const std::string empty = empty_note(examples);
  const std::string quotes = has_quotes || keyed ? std::string() : quote_note(examples);
  Dataset data(path, std::move(examples), has_labels);
  data.set_columns(std::move(columns));
  if (!note.empty()) data.add_note(std::move(note));
  const bool is_usual = reader->delimiter() == (spec.format == FileFormat::kTsv ? '\t' : ',');
  if (!keyed && !is_usual) {
    const bool is_recognised = spec.delimiter == "auto";
    data.add_note(fmt::format("{}: `{}` between fields ({})", path.string(),
                              delimiter_name(reader->delimiter()),
                              is_recognised ? "recognised" : "the configuration says so"));
    if (is_recognised) data.set_delimiter_note(data.notes().back());
  }
  for (const std::string& text : {empty, quotes}) {
    if (!text.empty()) data.add_note(fmt::format("{}: {}", path.string(), text));
  }
  data.set_delimiter(reader->delimiter());
  return data;
}

}  // namespace msplora
