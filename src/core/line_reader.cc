#include "msplora/core/line_reader.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/input_file.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

struct LineReader::Stream {
  InputFile in;
};

LineReader::LineReader(const fs::path& path) : path_(path), stream_(new Stream{InputFile(path)}) {}

LineReader::~LineReader() = default;

bool LineReader::read_raw(std::string& line) {
  if (!std::getline(stream_->in, line)) return false;
  const int64_t number = line_ + static_cast<int64_t>(ahead_.size()) + 1;
  if (number == 1 && line.starts_with(kByteOrderMark)) line.erase(0, kByteOrderMark.size());
  if (const size_t bad = find_invalid_utf8(line); bad != std::string::npos) {
    const bool utf16 = number == 1 && (line.starts_with("\xFF\xFE") || line.starts_with("\xFE\xFF"));
    throw Error(ErrorCode::kData, file_and_line(path_, number),
                fmt::format("expected UTF-8, found the byte 0x{:02X} at position {} of the line",
                            static_cast<unsigned char>(line[bad]), bad + 1),
                utf16 ? "the file looks like UTF-16; convert it with `iconv -f utf-16 -t utf-8`"
                      : "convert the file, for example with `iconv -f latin1 -t utf-8`");
  }
  return true;
}

bool LineReader::next(std::string& line, bool keep_cr) {
  if (!ahead_.empty()) {
    line = std::move(ahead_.front());
    ahead_.pop_front();
  } else if (!read_raw(line)) {
    return false;
  }
  ++line_;
  if (!keep_cr && !line.empty() && line.back() == '\r') line.pop_back();
  return true;
}

std::vector<std::string> LineReader::peek(size_t count) {
  std::string line;
  while (ahead_.size() < count && read_raw(line)) ahead_.push_back(line);
  return {ahead_.begin(), ahead_.begin() + static_cast<std::ptrdiff_t>(std::min(count, ahead_.size()))};
}

std::string file_and_line(const fs::path& path, int64_t line) {
  return fmt::format("{}:{}", path.string(), line);
}

size_t find_invalid_utf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  size_t i = 0;
  while (i < text.size()) {
    uint64_t block;
    if (i + sizeof(block) <= text.size()) {
      std::memcpy(&block, bytes + i, sizeof(block));
      if ((block & 0x8080808080808080ull) == 0) {
        i += sizeof(block);
        continue;
      }
    }
    if (bytes[i] < 0x80) {
      ++i;
      continue;
    }
    utf8proc_int32_t code_point;
    const auto length =
        utf8proc_iterate(bytes + i, static_cast<utf8proc_ssize_t>(text.size() - i), &code_point);
    if (length < 0) return i;
    i += static_cast<size_t>(length);
  }
  return std::string_view::npos;
}

}  // namespace msplora
