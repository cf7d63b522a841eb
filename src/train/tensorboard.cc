#include "msplora/train/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "msplora/core/error.h"

namespace msplora {
namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit)
      value = (value >> 1) ^ ((value & 1) ? 0x82F63B78u : 0u);  // reflected polynomial
    table[i] = value;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kCrcTable = make_crc_table();

template <typename T>
void append_little_endian(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

// Wire types of protocol buffers.
enum WireType { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void append_key(std::string& out, int field, WireType type) {
  append_varint(out, static_cast<uint64_t>(field << 3 | type));
}

void append_bytes(std::string& out, int field, std::string_view bytes) {
  append_key(out, field, kBytes);
  append_varint(out, bytes.size());
  out += bytes;
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

uint32_t crc32c(std::string_view data) {
  uint32_t crc = 0xFFFFFFFFu;
  for (const char c : data) crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<uint8_t>(c)) & 0xFF];
  return ~crc;
}

uint32_t masked_crc32c(std::string_view data) {
  return std::rotr(crc32c(data), 15) + 0xA282EAD8u;
}

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& directory, int64_t resumed_step) {
  static std::atomic<int> counter{0};
  path_ = directory / fmt::format("{}{}.{}.{}", kTensorBoardPrefix, static_cast<int64_t>(wall_time()),
                                  ::getpid(), counter++);
  file_ = std::fopen(path_.c_str(), "wb");
  if (file_ == nullptr) {
    throw Error(ErrorCode::kIo, path_.string(),
                fmt::format("cannot create the file: {}", std::strerror(errno)));
  }
  std::string version;
  append_bytes(version, 3, "brain.Event:2");  // Event.file_version
  write_event(version, 0);
  if (resumed_step >= 0) {
    std::string status;
    append_key(status, 1, kVarint);  // SessionLog.status = START
    append_varint(status, 1);
    std::string log;
    append_bytes(log, 7, status);  // Event.session_log
    write_event(log, resumed_step + 1);
  }
  flush();
}

void TensorBoardWriter::remove_earlier(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> found;
  std::error_code code;
  for (const auto& entry : std::filesystem::directory_iterator(directory, code)) {
    if (entry.path().filename().string().starts_with(kTensorBoardPrefix)) found.push_back(entry.path());
  }
  for (const auto& path : found) std::filesystem::remove(path, code);
}

TensorBoardWriter::~TensorBoardWriter() {
  if (file_ != nullptr) std::fclose(file_);
}

void TensorBoardWriter::scalar(std::string_view tag, double value, int64_t step) {
  std::string entry;  // Summary.Value: tag = 1, simple_value = 2
  append_bytes(entry, 1, tag);
  append_key(entry, 2, kFixed32);
  append_little_endian(entry, std::bit_cast<uint32_t>(static_cast<float>(value)));
  std::string summary;
  append_bytes(summary, 1, entry);
  std::string field;
  append_bytes(field, 5, summary);  // Event.summary
  write_event(field, step);
}

void TensorBoardWriter::flush() {
  std::fflush(file_);
}

void TensorBoardWriter::write_event(std::string_view payload_field, int64_t step) {
  std::string event;  // Event: wall_time = 1, step = 2
  append_key(event, 1, kFixed64);
  append_little_endian(event, std::bit_cast<uint64_t>(wall_time()));
  append_key(event, 2, kVarint);
  append_varint(event, static_cast<uint64_t>(step));
  event += payload_field;
  write_record(event);
}

void TensorBoardWriter::write_record(std::string_view payload) {
  std::string record;
  append_little_endian(record, static_cast<uint64_t>(payload.size()));
  append_little_endian(record, masked_crc32c(record));
  record += payload;
  append_little_endian(record, masked_crc32c(payload));
  if (std::fwrite(record.data(), 1, record.size(), file_) != record.size()) {
    throw Error(ErrorCode::kIo, path_.string(), fmt::format("cannot write: {}", std::strerror(errno)));
  }
}

}  // namespace msplora
