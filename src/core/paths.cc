#include "msplora/core/paths.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

#include "core/path_failure.h"

namespace msplora {
namespace fs = std::filesystem;

bool path_exists(const fs::path& path) noexcept {
  std::error_code code;
  return fs::exists(path, code);
}

bool directory_exists(const fs::path& path) noexcept {
  std::error_code code;
  return fs::is_directory(path, code);
}

std::vector<fs::path> entries_of(const fs::path& directory) {
  std::vector<fs::path> entries;
  std::error_code code;
  for (fs::directory_iterator at(directory, code), end; !code && at != end; at.increment(code))
    entries.push_back(at->path());
  std::sort(entries.begin(), entries.end());
  return entries;
}

fs::path absolute_path(const fs::path& path) {
  std::error_code code;
  const fs::path whole = fs::absolute(path, code);
  return code ? path : whole;
}

fs::path path_of_program() {
  const fs::path link = "/proc/self/exe";
  std::error_code code;
  const fs::path program = fs::read_symlink(link, code);
  if (code) detail::fail_at(link, "read", code.value());
  return program;
}

uint64_t size_of_file(const fs::path& path) {
  std::error_code code;
  const uint64_t size = fs::file_size(path, code);
  if (code) detail::fail_at(path, "find the size", code.value());
  return size;
}

void make_directories(const fs::path& path) {
  std::error_code code;
  fs::create_directories(path, code);
  if (code) detail::fail_at(path, "create the directory", code.value());
}

void remove_path(const fs::path& path) {
  std::error_code code;
  fs::remove_all(path, code);
  if (code) detail::fail_at(path, "remove", code.value());
}

void rename_path(const fs::path& from, const fs::path& to) {
  std::error_code code;
  fs::rename(from, to, code);
  if (code) detail::fail_at(to, "rename " + from.string() + " to it", code.value());
}

void sync_path(const fs::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  const int code = ::fsync(file) == 0 ? 0 : errno;
  ::close(file);
  if (code == EIO || code == ENOSPC || code == EDQUOT) detail::fail_at(path, "write", code);
}

}  // namespace msplora
