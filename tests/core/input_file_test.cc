// Files of data, packed or not: what gzip and xz wrote, and what becomes of such a file on its way.
#include "msplora/core/input_file.h"
#include "error_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <lzma.h>
#include <zlib.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "temporary_directory.h"

namespace msplora {
namespace {

using namespace std::string_literals;
using testing::AllOf;
using testing::HasSubstr;

// `printf 'one\ntwo\n'` through Debian's gzip 1.12 (-n9) and xz 5.4.1.
const std::string kTwoLines = "one\ntwo\n";
const std::string kByGzip =
    "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xcb\xcf\x4b\xe5\x2a\x29\xcf\xe7\x02\x00\xe6\x0b\xba\x12\x08\x00"
    "\x00\x00"s;
const std::string kByXz =
    "\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46\x02\x00\x21\x01\x16\x00\x00\x00\x74\x2f\xe5\xa3\x01\x00"
    "\x07\x6f\x6e\x65\x0a\x74\x77\x6f\x0a\x00\x51\xab\x9e\xaf\x57\x75\x70\x49\x00\x01\x20\x08\xbb\x19\xd9\xbb"
    "\x1f\xb6\xf3\x7d\x01\x00\x00\x00\x00\x04\x59\x5a"s;

std::string gzip(const std::string& content) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 9, Z_DEFLATED, MAX_WBITS + 16, 9, Z_DEFAULT_STRATEGY), Z_OK);
  std::string packed(deflateBound(&stream, content.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(packed.size() - stream.avail_out);
  deflateEnd(&stream);
  return packed;
}

std::string xz(const std::string& content, uint32_t preset = 0) {
  std::string packed(lzma_stream_buffer_bound(content.size()), '\0');
  size_t size = 0;
  EXPECT_EQ(lzma_easy_buffer_encode(preset, LZMA_CHECK_CRC64, nullptr,
                                    reinterpret_cast<const uint8_t*>(content.data()), content.size(),
                                    reinterpret_cast<uint8_t*>(packed.data()), &size, packed.size()),
            LZMA_OK);
  packed.resize(size);
  return packed;
}

/// Longer than any block in between, and not of one kind of line.
std::string long_text() {
  std::string text;
  for (int i = 0; i < 150000; ++i) text += std::to_string(i * 7919 % 100003) + (i % 3 == 0 ? " a\n" : "\n");
  return text;
}

class InputFileTest : public ::testing::Test {
 protected:
  std::string read(const std::string& content, const std::string& name = "rows") const {
    return read_input_file(scratch_.write(name, content));
  }
  std::string refusal(const std::string& content, const std::string& name = "rows") const {
    return error_text(ErrorCode::kFormat, [&] { read(content, name); });
  }
  TemporaryDirectory scratch_;
};

TEST_F(InputFileTest, TheFirstBytesSayHowAFileIsPackedWhateverItIsCalled) {
  EXPECT_EQ(read(kTwoLines, "rows.gz"), kTwoLines);
  EXPECT_EQ(read(kByGzip, "rows.txt"), kTwoLines);
  EXPECT_EQ(read(kByXz, "rows.gz"), kTwoLines);
  EXPECT_EQ(read(""), "");
  EXPECT_EQ(read("\x1f"), "\x1f");
  EXPECT_EQ(read("BZhong is no archive"), "BZhong is no archive");
}

TEST_F(InputFileTest, LongFilesAndTheirLinesComeBack) {
  const std::string text = long_text();
  for (const std::string& packed : {text, gzip(text), xz(text), xz(text, 9)}) {
    EXPECT_TRUE(read(packed) == text);
    InputFile in(scratch_.write("lines", packed));
    std::string lines;
    for (std::string line; std::getline(in, line);) lines += line + "\n";
    EXPECT_TRUE(lines == text);
  }
}

TEST_F(InputFileTest, MembersOneAfterTheOtherAreOneContentAndPaddingIsNone) {
  EXPECT_EQ(read(kByGzip + kByGzip + gzip("") + gzip("end")), kTwoLines + kTwoLines + "end");
  EXPECT_EQ(read(kByXz + kByXz + std::string(8, '\0') + xz("end")), kTwoLines + kTwoLines + "end");
  EXPECT_EQ(read(kByGzip + std::string(1000, '\0')), kTwoLines);
}

TEST_F(InputFileTest, EveryCutIsAnError) {
  for (const std::string& packed : {kByGzip, kByXz, kByGzip + kByGzip}) {
    for (size_t length = 6; length < packed.size(); ++length) {
      if (length == kByGzip.size() && packed.size() == 2 * length) continue;  // a whole file
      SCOPED_TRACE(length);
      // One byte of a second member's mark is no member.
      EXPECT_THAT(refusal(packed.substr(0, length), "cut.gz"),
                  AllOf(HasSubstr("cut.gz"), testing::AnyOf(HasSubstr("cut"), HasSubstr("follows"))));
    }
  }
}

TEST_F(InputFileTest, EveryDamagedByteOfTheContentIsFound) {
  // Behind the marks and, of gzip, what its header says of time and system.
  const size_t padding =
      kByGzip.size() - 9;  // bits behind the end of the content, before checksum and length
  for (size_t i = 10; i < kByGzip.size(); ++i) {
    if (i == padding) continue;
    std::string damaged = kByGzip;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    refusal(damaged, "damaged.gz");
  }
  for (size_t i = 6; i < kByXz.size(); ++i) {
    std::string damaged = kByXz;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    refusal(damaged, "damaged.xz");
  }
}

TEST_F(InputFileTest, WhatFollowsIsNotPassedOver) {
  EXPECT_THAT(refusal(kByGzip + "one more"), HasSubstr("not gzip follows"));
  EXPECT_THAT(refusal(kByGzip + std::string(300000, '\0') + "x"), HasSubstr("not gzip follows"));
  EXPECT_THAT(refusal(kByXz + "one more!!!!"), HasSubstr("followed by something"));
}

TEST_F(InputFileTest, OtherWaysToPackAreNamed) {
  EXPECT_THAT(refusal("\x28\xB5\x2F\xFD rest", "a.zst"), AllOf(HasSubstr("zstd"), HasSubstr("gzip and xz")));
  EXPECT_THAT(refusal("PK\x03\x04 rest", "a.zip"), HasSubstr("zip"));
  EXPECT_THAT(refusal("BZh91AY", "a.bz2"), HasSubstr("bzip2"));
}

TEST_F(InputFileTest, WhatUnpacksWithoutEndIsRefused) {
  const std::string zeros(size_t{80} << 20, 'a');
  EXPECT_THAT(refusal(gzip(zeros), "bomb.gz"), AllOf(HasSubstr("bomb.gz"), HasSubstr("MiB")));
  EXPECT_THAT(refusal(xz(zeros), "bomb.xz"), AllOf(HasSubstr("bomb.xz"), HasSubstr("MiB")));
  EXPECT_EQ(read(gzip(zeros.substr(0, 10 << 20))).size(), size_t{10} << 20);
}

TEST_F(InputFileTest, MissingFilesAndDirectoriesAreErrors) {
  EXPECT_THAT(error_text(ErrorCode::kIo, [&] { InputFile in(scratch_.path() / "none"); }),
              HasSubstr("cannot open"));
  EXPECT_THAT(error_text(ErrorCode::kIo, [&] { InputFile in(scratch_.path()); }), HasSubstr("directory"));
}

TEST(UnpackedName, IsTheNameThatSaysWhatTheContentIs) {
  EXPECT_EQ(unpacked_name("a/rows.jsonl.gz"), "a/rows.jsonl");
  EXPECT_EQ(unpacked_name("rows.csv.XZ"), "rows.csv");
  EXPECT_EQ(unpacked_name("rows.csv"), "rows.csv");
}

}  // namespace
}  // namespace msplora
