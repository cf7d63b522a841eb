#include "msplora/core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>

#include "core/path_failure.h"
#include "msplora/core/paths.h"

namespace msplora {
namespace fs = std::filesystem;
namespace {

using detail::fail_at;

// Unique within the machine: two processes writing the same file must not share a temporary.
fs::path temporary_beside(const fs::path& path) {
  static std::atomic<unsigned> counter{0};
  return path.string() + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter++);
}

}  // namespace

void require_file(const fs::path& path) {
  std::error_code code;
  const fs::file_status status = fs::status(path, code);
  if (!fs::exists(status) || fs::is_regular_file(status)) return;
  if (fs::is_directory(status))
    throw Error(ErrorCode::kIo, path.string(), "expected a file, found a directory");
  const char* kind = fs::is_fifo(status) ? "a pipe" : fs::is_socket(status) ? "a socket" : "a device";
  throw Error(ErrorCode::kIo, path.string(),
              std::string("expected a file, found ") + kind + ": it is read more than once",
              "write what comes out of it into a file, and name that");
}

std::string read_file(const fs::path& path) {
  errno = 0;
  if (directory_exists(path))
    throw Error(ErrorCode::kIo, path.string(), "expected a file, found a directory");
  std::ifstream in(path, std::ios::binary);
  if (!in) fail_at(path, "open", errno ? errno : ENOENT);
  std::ostringstream content;
  content << in.rdbuf();
  if (in.bad()) fail_at(path, "read", errno ? errno : EIO);
  return std::move(content).str();
}

void write_file_atomically(const fs::path& path, std::string_view content) {
  write_file_atomically(path, [content](std::ostream& out) {
    out.write(content.data(), static_cast<std::streamsize>(content.size()));
  });
}

namespace {

// A pipe or a device has no old content to keep, and must not be replaced by a file.
bool write_in_place(const fs::path& path, const std::function<void(std::ostream&)>& write) {
  std::error_code code;
  const fs::file_status status = fs::status(path, code);
  if (!fs::exists(status) || fs::is_regular_file(status) || fs::is_directory(status)) return false;
  errno = 0;
  std::ofstream out(path, std::ios::binary);
  if (!out) fail_at(path, "open", errno);
  write(out);
  out.flush();
  if (!out) fail_at(path, "write", errno ? errno : EIO);
  return true;
}

fs::path target_of_links(const fs::path& path) {
  constexpr int kMostLinks = 40;
  fs::path target = path;
  std::error_code code;
  for (int link = 0; link < kMostLinks && fs::is_symlink(target, code); ++link) {
    const fs::path next = fs::read_symlink(target, code);
    if (code) break;
    target = target.parent_path() / next;  // an absolute one stands for itself
  }
  return target;
}

}  // namespace

namespace {

bool lies_in(const fs::path& input, const fs::path& directory) {
  std::error_code code;
  const auto place = [&](const fs::path& path) {
    return (fs::weakly_canonical(path, code) / "").lexically_normal().string();
  };
  return place(input).starts_with(place(directory));
}

}  // namespace

void refuse_input_as_output(const fs::path& output, const std::vector<fs::path>& inputs,
                            const std::string& option) {
  std::error_code code;
  if (!fs::exists(output, code)) return;
  const auto fail_with = [&](const std::string& problem) {
    throw Error(ErrorCode::kUsage, option, problem, "write to another place");
  };
  const auto refuse = [&](const fs::path& input) {
    fail_with(output == input ? output.string() + " is read by this command too"
                              : output.string() + " is the same as " + input.string() + ", which is read");
  };
  for (const fs::path& input : inputs) {
    if (fs::equivalent(output, input, code)) refuse(input);
    if (fs::is_directory(output, code)) {
      if (lies_in(input, output)) fail_with(input.string() + ", which is read, lies in " + output.string());
      continue;
    }
    for (const fs::directory_entry& entry : fs::directory_iterator(input, code)) {
      if (fs::equivalent(output, entry.path(), code)) refuse(entry.path());
    }
  }
}

void write_file_atomically(const fs::path& where, const std::function<void(std::ostream&)>& write) {
  if (write_in_place(where, write)) return;
  const fs::path path = target_of_links(where);
  const fs::path temporary = temporary_beside(path);
  try {
    errno = 0;
    std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
    if (!out) fail_at(path, "create a file beside it", errno);
    write(out);
    out.flush();
    if (!out) fail_at(path, "write", errno ? errno : EIO);
    errno = 0;
    out.close();
    if (!out) fail_at(path, "write", errno ? errno : EIO);
    sync_path(temporary);
    if (::rename(temporary.c_str(), path.c_str()) != 0)
      fail_at(path, "rename the new file into place", errno);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  const fs::path parent = path.parent_path();
  sync_path(parent.empty() ? fs::path(".") : parent);
}

bool is_filled_directory(const fs::path& path) {
  std::error_code code;
  return fs::is_directory(path, code) && !fs::is_empty(path, code);
}

void prepare_output_directory(const fs::path& path, bool overwrite) {
  std::error_code code;
  const bool is_directory = fs::is_directory(path, code);
  if (fs::exists(path, code) && !is_directory) {
    throw Error(ErrorCode::kIo, path.string(), "expected a directory, found a file");
  }
  if (!overwrite && is_filled_directory(path)) {
    throw Error(ErrorCode::kIo, path.string(), "the output directory exists and is not empty",
                "choose another directory or pass --overwrite");
  }
  make_directories(path);
}

void prepare_output_file(const fs::path& path, bool overwrite) {
  std::error_code code;
  if (fs::is_directory(path, code))
    throw Error(ErrorCode::kIo, path.string(), "expected a file, found a directory", "name a file in it");
  if (fs::is_regular_file(path, code) && !overwrite)
    throw Error(ErrorCode::kIo, path.string(), "the output file exists",
                "choose another one or pass --overwrite");
  if (path.has_parent_path()) make_directories(path.parent_path());
}

std::shared_ptr<const MappedFile> MappedFile::open(const fs::path& path) {
  require_file(path);  // opening a pipe would wait for who writes to it
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail_at(path, "open", errno);
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    const int code = S_ISDIR(info.st_mode) ? EISDIR : errno;
    ::close(fd);
    fail_at(path, "map", code);
  }
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->size_ = static_cast<size_t>(info.st_size);
  if (file->size_ > 0) {
    void* address = ::mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, fd, 0);
    const int code = errno;
    ::close(fd);
    if (address == MAP_FAILED) fail_at(path, "map", code);
    file->data_ = static_cast<const std::byte*>(address);
  } else {
    ::close(fd);
  }
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace msplora
