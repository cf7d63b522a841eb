#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/error.h"

namespace msplora {

/// Reads lines of UTF-8 text one at a time: LF or CRLF, an optional byte order mark, a last line with or
/// without its end; packed by gzip or xz, or not (core/input_file.h). Throws Error{kIo} and Error{kFormat} as
/// InputFile does, Error{kData} naming file, line and byte where the text is not UTF-8.
class LineReader {
 public:
  explicit LineReader(const std::filesystem::path& path);
  ~LineReader();
  /// The next line without its LF (and without the CR of a CRLF, unless `keep_cr`). False at the end.
  bool next(std::string& line, bool keep_cr = false);
  /// The next lines, at most `count`, with their CRs, without taking them.
  std::vector<std::string> peek(size_t count);
  int64_t line() const noexcept { return line_; }  // number of the line last read, from 1
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  struct Stream;
  bool read_raw(std::string& line);
  std::filesystem::path path_;
  std::unique_ptr<Stream> stream_;
  std::deque<std::string> ahead_;  // lines that were peeked at
  int64_t line_ = 0;
};

/// "file:line", the way messages name a place.
std::string file_and_line(const std::filesystem::path& path, int64_t line);

/// Byte offset of the first byte that is not well-formed UTF-8, or npos.
size_t find_invalid_utf8(std::string_view text);

}  // namespace msplora
