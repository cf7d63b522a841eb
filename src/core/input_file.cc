#include "msplora/core/input_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <lzma.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <new>
#include <span>
#include <streambuf>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace msplora {
namespace fs = std::filesystem;
namespace {

using namespace std::string_view_literals;

constexpr size_t kBlockBytes = size_t{128} << 10;
constexpr std::string_view kGzip = "\x1F\x8B"sv, kXz = "\xFD\x37zXZ\0"sv;

[[noreturn]] void refuse_packed(const fs::path& path, const std::string& problem,
                                const std::string& hint = {}) {
  throw Error(ErrorCode::kFormat, path.string(), problem, hint);
}

/// The bytes of a file, in blocks.
class ByteSource {
 public:
  explicit ByteSource(fs::path path) : path_(std::move(path)), block_(kBlockBytes) {
    std::error_code code;
    if (fs::is_directory(path_, code))
      throw Error(ErrorCode::kIo, path_.string(), "expected a file, found a directory");
    descriptor_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor_ < 0) fail("open");
  }
  ~ByteSource() { ::close(descriptor_); }
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  const fs::path& path() const { return path_; }
  uint64_t bytes_read() const { return bytes_read_; }
  /// Bytes that were read and not taken.
  std::span<unsigned char> rest() { return {block_.data() + begin_, end_ - begin_}; }
  void take(size_t count) { begin_ += count; }
  /// Adds to the rest until it has `least` bytes (a pipe gives few at a time); fewer only at the end.
  std::span<unsigned char> need(size_t least) {
    if (rest().size() < least && begin_ > 0) {
      std::copy(block_.begin() + static_cast<std::ptrdiff_t>(begin_),
                block_.begin() + static_cast<std::ptrdiff_t>(end_), block_.begin());
      end_ -= std::exchange(begin_, 0);
    }
    while (rest().size() < least) {
      const ssize_t got = ::read(descriptor_, block_.data() + end_, block_.size() - end_);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail("read");
      if (got == 0) break;
      end_ += static_cast<size_t>(got);
      bytes_read_ += static_cast<uint64_t>(got);
    }
    return rest();
  }
  bool begins_with(std::string_view magic) {
    const auto bytes = need(magic.size());
    return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
  }

 private:
  [[noreturn]] void fail(const char* action) const {
    throw Error(ErrorCode::kIo, path_.string(), fmt::format("cannot {}: {}", action, std::strerror(errno)));
  }

  fs::path path_;
  std::vector<unsigned char> block_;
  size_t begin_ = 0, end_ = 0;
  uint64_t bytes_read_ = 0;
  int descriptor_ = -1;
};

/// Gives the content behind a source, some bytes at a time; 0 at the end.
class Unpacker {
 public:
  explicit Unpacker(ByteSource& source) : source_(source) {}
  virtual ~Unpacker() = default;
  Unpacker(const Unpacker&) = delete;
  Unpacker& operator=(const Unpacker&) = delete;
  virtual size_t read(std::span<unsigned char> out) = 0;

 protected:
  ByteSource& source_;
};

class Plain : public Unpacker {
 public:
  using Unpacker::Unpacker;
  size_t read(std::span<unsigned char> out) override {
    const auto bytes = source_.need(1);
    const size_t count = std::min(bytes.size(), out.size());
    std::copy_n(bytes.begin(), count, out.begin());
    source_.take(count);
    return count;
  }
};

class Gzip : public Unpacker {
 public:
  explicit Gzip(ByteSource& source) : Unpacker(source) {
    constexpr int kWithHeader = 16;  // added to the size of the window
    if (inflateInit2(&stream_, MAX_WBITS + kWithHeader) != Z_OK) throw std::bad_alloc();
  }
  ~Gzip() override { inflateEnd(&stream_); }

  size_t read(std::span<unsigned char> out) override {
    stream_.next_out = out.data();
    stream_.avail_out = static_cast<uInt>(out.size());
    while (stream_.avail_out == out.size() && !is_over_) {
      if (is_between_) next_member();
      if (is_over_) break;
      const auto bytes = source_.need(1);
      if (bytes.empty()) refuse_packed(source_.path(), "the gzip data end too early: the file was cut");
      stream_.next_in = bytes.data();
      stream_.avail_in = static_cast<uInt>(bytes.size());
      const int code = inflate(&stream_, Z_NO_FLUSH);
      source_.take(bytes.size() - stream_.avail_in);
      if (code == Z_STREAM_END) {
        is_between_ = true;
      } else if (code != Z_OK) {
        refuse_packed(source_.path(), fmt::format("the gzip data are damaged ({})",
                                                  stream_.msg != nullptr ? stream_.msg : "no known form"));
      }
    }
    return out.size() - stream_.avail_out;
  }

 private:
  void next_member() {
    if (source_.begins_with(kGzip)) {
      inflateReset(&stream_);
      is_between_ = false;
      return;
    }
    for (auto bytes = source_.need(1); !bytes.empty(); bytes = source_.need(1)) {
      if (std::any_of(bytes.begin(), bytes.end(), [](unsigned char byte) { return byte != 0; }))
        refuse_packed(source_.path(), "something that is not gzip follows the gzip data");
      source_.take(bytes.size());
    }
    is_over_ = true;
  }

  z_stream stream_{};
  bool is_between_ = false, is_over_ = false;
};

class Xz : public Unpacker {
 public:
  explicit Xz(ByteSource& source) : Unpacker(source) {
    constexpr uint64_t kMostMemory = uint64_t{256} << 20;
    if (lzma_stream_decoder(&stream_, kMostMemory, LZMA_CONCATENATED) != LZMA_OK) throw std::bad_alloc();
  }
  ~Xz() override { lzma_end(&stream_); }

  size_t read(std::span<unsigned char> out) override {
    stream_.next_out = out.data();
    stream_.avail_out = out.size();
    while (stream_.avail_out == out.size() && !is_over_) {
      const auto bytes = source_.need(1);
      stream_.next_in = bytes.data();
      stream_.avail_in = bytes.size();
      const lzma_ret code = lzma_code(&stream_, bytes.empty() ? LZMA_FINISH : LZMA_RUN);
      source_.take(bytes.size() - stream_.avail_in);
      if (code == LZMA_STREAM_END) {
        is_over_ = true;
      } else if (code != LZMA_OK) {
        refuse_packed(source_.path(), problem_of(code));
      }
    }
    return out.size() - stream_.avail_out;
  }

 private:
  static std::string problem_of(lzma_ret code) {
    if (code == LZMA_BUF_ERROR) return "the xz data end too early: the file was cut";
    if (code == LZMA_OPTIONS_ERROR) return "the xz data use a filter that liblzma does not know";
    if (code == LZMA_MEM_ERROR) throw std::bad_alloc();
    if (code == LZMA_MEMLIMIT_ERROR) return "unpacking the xz data would take more than 256 MiB of memory";
    return "the xz data are damaged, or followed by something that is not xz";
  }

  lzma_stream stream_ = LZMA_STREAM_INIT;
  bool is_over_ = false;
};

std::unique_ptr<Unpacker> unpacker_of(ByteSource& source) {
  if (source.begins_with(kGzip)) return std::make_unique<Gzip>(source);
  if (source.begins_with(kXz)) return std::make_unique<Xz>(source);
  static constexpr std::array<std::pair<std::string_view, const char*>, 4> kOthers = {
      {{"BZh"sv, "bzip2"},
       {"\x28\xB5\x2F\xFD"sv, "zstd"},
       {"\x04\x22\x4D\x18"sv, "lz4"},
       {"PK\3\4"sv, "zip"}}};
  for (const auto& [magic, name] : kOthers) {
    if (magic == "BZh" && unpacked_name(source.path()).extension() != ".bz2") continue;  // text may begin so
    if (source.begins_with(magic))
      refuse_packed(source.path(), fmt::format("is packed by {}; packed files are read of gzip and xz", name),
                    "unpack it first");
  }
  return std::make_unique<Plain>(source);
}

class UnpackingBuffer : public std::streambuf {
 public:
  explicit UnpackingBuffer(const fs::path& path)
      : source_(path), unpacker_(unpacker_of(source_)), block_(kBlockBytes) {}

 protected:
  int_type underflow() override {
    if (gptr() < egptr()) return traits_type::to_int_type(*gptr());
    const size_t count = unpacker_->read({reinterpret_cast<unsigned char*>(block_.data()), block_.size()});
    given_ += count;
    constexpr uint64_t kFreeBytes = uint64_t{64} << 20, kMostTimes = 500;
    if (given_ > kFreeBytes && given_ / kMostTimes > source_.bytes_read()) {
      refuse_packed(source_.path(),
                    fmt::format("{} packed bytes unpack to more than {} MiB, {} times as much",
                                source_.bytes_read(), given_ >> 20, kMostTimes),
                    "is it made to fill a disk? unpack it by hand if it is meant so");
    }
    setg(block_.data(), block_.data(), block_.data() + count);
    return count == 0 ? traits_type::eof() : traits_type::to_int_type(block_[0]);
  }

 private:
  ByteSource source_;
  std::unique_ptr<Unpacker> unpacker_;
  std::vector<char> block_;
  uint64_t given_ = 0;
};

}  // namespace

InputFile::InputFile(const fs::path& path)
    : std::istream(nullptr), buffer_(std::make_unique<UnpackingBuffer>(path)) {
  rdbuf(buffer_.get());
  exceptions(std::ios::badbit);  // what the buffer throws passes through
}
InputFile::~InputFile() = default;

std::string read_input_file(const fs::path& path) {
  InputFile in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

fs::path unpacked_name(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension == ".gz" || extension == ".xz" ? fs::path(path).replace_extension() : path;
}

}  // namespace msplora
