#include "msplora/train/tensorboard.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "msplora/core/file.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

// Vectors of RFC 3720, B.4, and of the usual check string.
TEST(TensorBoard, Crc32c) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
}

template <typename T>
T read_as(const std::string& bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

std::vector<std::string> read_records(const std::string& bytes) {
  std::vector<std::string> records;
  size_t at = 0;
  while (at < bytes.size()) {
    const auto length = read_as<uint64_t>(bytes, at);
    EXPECT_EQ(read_as<uint32_t>(bytes, at + 8), masked_crc32c(bytes.substr(at, 8)));
    records.push_back(bytes.substr(at + 12, length));
    EXPECT_EQ(read_as<uint32_t>(bytes, at + 12 + length), masked_crc32c(records.back()));
    at += 16 + length;
  }
  EXPECT_EQ(at, bytes.size());
  return records;
}

TEST(TensorBoard, WritesScalarEvents) {
  TemporaryDirectory directory;
  std::filesystem::path path;
  {
    TensorBoardWriter writer(directory.path());
    path = writer.path();
    writer.scalar("loss", 0.5, 300);
  }
  const auto records = read_records(read_file(path));
  ASSERT_EQ(records.size(), 2u);
  EXPECT_NE(records[0].find("brain.Event:2"), std::string::npos);
  // wall_time (9 bytes), step = 300 as a varint, summary { value { tag: "loss" simple_value: 0.5 } }
  const std::string event = records[1].substr(9);
  EXPECT_EQ(event, std::string("\x10\xAC\x02\x2A\x0D\x0A\x0B\x0A\x04loss\x15\x00\x00\x00\x3F", 18));
}

TEST(TensorBoard, AResumedRunDropsLaterSteps) {
  TemporaryDirectory directory;
  std::filesystem::path path;
  {
    TensorBoardWriter writer(directory.path(), 5);
    path = writer.path();
  }
  const auto records = read_records(read_file(path));
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[1].substr(9),
            std::string("\x10\x06\x3A\x02\x08\x01", 6));  // step 6, session_log { status: START }
}

}  // namespace
}  // namespace msplora
