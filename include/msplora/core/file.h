#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/error.h"

namespace msplora {

/// The whole file as bytes. Throws Error{kIo} naming the file when it cannot be read.
std::string read_file(const std::filesystem::path& path);

/// Throws Error{kIo} for what is there and is no regular file (a directory, pipe or device): asked of what is
/// read more than once, or mapped. What is not there is left to who opens it.
void require_file(const std::filesystem::path& path);

/// Writes `content` beside `path` and renames it into place, so that a reader sees the old file or the new
/// one, never a part. A link stays and its target is replaced; what is no regular file (a pipe, /dev/null) is
/// written to as it is. Syncs to disk before the rename. Throws Error{kIo} (full disk, permissions); the old
/// file stays.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

/// The same for content produced piecewise: `write` receives the stream of the temporary file.
void write_file_atomically(const std::filesystem::path& path,
                           const std::function<void(std::ostream&)>& write);

/// Throws Error{kUsage} when writing to `output` could replace what is read: when it is one of `inputs`, or a
/// file in a directory among them, or a directory that one of them lies in, at any depth, through whatever
/// path, symbolic or hard link. A directory inside an input is none of its files and may be written.
/// `option` names the output.
void refuse_input_as_output(const std::filesystem::path& output,
                            const std::vector<std::filesystem::path>& inputs,
                            const std::string& option = "--output");

/// Whether it is a directory with something in it.
bool is_filled_directory(const std::filesystem::path& path);

/// Fails with Error{kIo} when `path` exists and is a non-empty directory or a file, unless `overwrite`;
/// creates the directory otherwise. Nothing inside is deleted.
void prepare_output_directory(const std::filesystem::path& path, bool overwrite);

/// The same for a file: fails with Error{kIo} when it exists, unless `overwrite`, and when it is a directory;
/// creates the directory that it lies in.
void prepare_output_file(const std::filesystem::path& path, bool overwrite);

/// A read-only memory map of a whole file, closed with the last owner.
class MappedFile {
 public:
  /// Throws Error{kIo} when the file cannot be opened or mapped. An empty file maps to size 0.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const noexcept { return data_; }
  size_t size() const noexcept { return size_; }

 private:
  MappedFile() = default;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace msplora
