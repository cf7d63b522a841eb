#pragma once

#include <filesystem>
#include <istream>
#include <memory>
#include <streambuf>
#include <string>

#include "msplora/core/error.h"

namespace msplora {

/// A file of data that is read once, front to back: its bytes as they are, or unpacked where the file begins
/// as gzip (RFC 1952) or xz does, whatever its name is. Members one after the other are one content; zeros
/// behind the last one (padding) are passed over. Works on pipes, holds some 256 KiB and what the format
/// needs, at most 256 MiB.
///
/// The constructor and whatever reads throw Error{kIo} where the file cannot be read, Error{kFormat} where it
/// is cut, damaged, followed by something else, packed in another known way (bzip2, zstd, lz4, zip), or
/// unpacks to more than 64 MiB and 500 times what was read, as texts do not.
class InputFile : public std::istream {
 public:
  explicit InputFile(const std::filesystem::path& path);
  ~InputFile() override;

 private:
  std::unique_ptr<std::streambuf> buffer_;
};

/// The whole content, unpacked. Throws as InputFile.
std::string read_input_file(const std::filesystem::path& path);

/// The name whose extension says what the content is: without the .gz or .xz at its end.
std::filesystem::path unpacked_name(const std::filesystem::path& path);

}  // namespace msplora
