#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/line_reader.h"

namespace msplora {

enum class FileFormat { kTsv, kCsv, kJsonl };

/// `format` is "tsv", "csv", "jsonl" or "auto" (by the extension, below that of a packed
/// file; ".txt" counts as TSV, ".json" and ".ndjson" as JSONL). Throws Error{kConfig} when it says nothing.
FileFormat resolve_format(const std::filesystem::path& path, std::string_view format);

/// One record of a table.
struct Record {
  std::vector<std::string> fields;
  std::vector<std::string> names;        // keys of the fields (JSONL only)
  std::vector<std::string> other_names;  // keys whose values are null, arrays or objects (JSONL only)
  std::string source;                    // the line itself (JSONL only)
  int64_t line = 0;                      // where it starts, from 1
  std::string beginning;                 // first characters of its line, for messages

  void clear();
};

/// Reads the records of a file one at a time, in constant memory. Blank lines are left out.
///
/// TSV: fields between tabs, no quoting (as GLUE). CSV: RFC 4180, with quoted fields that may hold
/// delimiters, line ends and doubled quotes. JSONL: one object a line whose values are strings, numbers or
/// booleans (which become "true" and "false"); keys with other values are only named. Throws Error{kData}
/// naming file and line for damaged records.
class RecordReader {
 public:
  /// `delimiter` of CSV is ",", ";", "tab", "|" or "auto", which takes the one among these under which the
  /// first record holds most of the `names`, else the one that gives the first records one number of fields.
  /// A TSV file with another delimiter than "auto" and "tab" is read as CSV. Throws Error{kConfig} for
  /// another.
  static std::unique_ptr<RecordReader> open(const std::filesystem::path& path, FileFormat format,
                                            const std::string& delimiter = "auto",
                                            const std::vector<std::string>& names = {});
  virtual ~RecordReader() = default;
  virtual bool next(Record& record) = 0;
  /// Between the fields; 0 for JSONL.
  virtual char delimiter() const { return 0; }
  const std::filesystem::path& path() const noexcept { return lines_.path(); }

 protected:
  explicit RecordReader(const std::filesystem::path& path) : lines_(path) {}
  LineReader lines_;
};

/// The first characters of a text, cut between code points, for messages.
std::string beginning_of(std::string_view line);

/// "tab", else the character itself.
std::string delimiter_name(char delimiter);

}  // namespace msplora
