#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cmath>
#include <string>

#include "report/colours.h"
#include "report/frame.h"
#include "report/png.h"
#include "report/text.h"

namespace msplora::report {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(ReportColours, CanBeToldFromTheirGround) {
  EXPECT_NEAR(contrast(colour("000000"), colour("FFFFFF")), 21.0, 1e-9);
  EXPECT_NEAR(contrast(colour("777777"), colour("FFFFFF")), 4.48, 0.01);  // a known pair that fails 4.5
  for (const Scheme& scheme : {light_scheme(), dark_scheme()}) {
    const Colour ground = scheme_colour(scheme, "--bg");
    for (const char* text : {"--fg", "--muted", "--accent"}) {
      EXPECT_GE(contrast(scheme_colour(scheme, text), ground), 4.5) << text;
      EXPECT_GE(contrast(scheme_colour(scheme, text), scheme_colour(scheme, "--card")), 4.5) << text;
    }
    for (const char* line : {"--axis", "--s0", "--s1", "--s2", "--s3", "--s4", "--s5", "--s6", "--s7"}) {
      EXPECT_GE(contrast(scheme_colour(scheme, line), ground), 3.0) << line;
    }
  }
  for (const Colours colours : {Colours::kSequential, Colours::kDiverging}) {
    for (int i = 0; i <= 100; ++i) {
      const Colour cell = scale_colour(colours, i / 100.0);
      EXPECT_GE(contrast(ink_on(cell), cell), 4.5) << i;
    }
  }
}

TEST(ReportColours, ScalesEndWhereTheyShould) {
  EXPECT_EQ(hex(scale_colour(Colours::kSequential, 0)), "#00204d");
  EXPECT_EQ(hex(scale_colour(Colours::kSequential, 7)), "#ffea46");
  EXPECT_EQ(hex(scale_colour(Colours::kSequential, 1.0 / 9)), "#00336f");
  EXPECT_EQ(hex(scale_colour(Colours::kDiverging, -1)), "#0072b2");
  EXPECT_EQ(hex(scale_colour(Colours::kDiverging, 0.5)), "#f3f3f1");
}

TEST(ReportText, IsEscaped) {
  EXPECT_EQ(escaped("<b>&\"'</b>"), "&lt;b&gt;&amp;&quot;&#39;&lt;/b&gt;");
  EXPECT_EQ(escaped("a\x01"
                    "b\nc\x7f"),
            "a\\x01b c\\x7f");
  EXPECT_EQ(escaped("a\u202Egnp.exe"), "a\\u202egnp.exe");  // would be read as "aexe.png"
  EXPECT_EQ(escaped("\xff\xc3"), "\uFFFD\uFFFD");
  EXPECT_EQ(escaped("naïve 日本 😀"), "naïve 日本 😀");
}

TEST(ReportText, IsCutWhereItDoesNotFit) {
  EXPECT_EQ(cut_to_width("short", 100), "short");
  const std::string cut = cut_to_width("日本語の長い名前のアダプター", 80);
  EXPECT_THAT(cut, HasSubstr("…"));
  EXPECT_LE(text_width(cut), 80);
  EXPECT_EQ(escaped(cut), cut);  // no character was cut in two
  EXPECT_THAT(wrapped("one two three", text_width("one two"), 3), ElementsAre("one two", "three"));
  EXPECT_THAT(wrapped("one two three four", text_width("one two"), 1), ElementsAre(HasSubstr("…")));
  EXPECT_THAT(wrapped("", 10, 2), ElementsAre());
}

TEST(ReportText, Base64) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foobar"), "Zm9vYmFy");  // RFC 4648, section 10
}

TEST(ReportText, NamesAreSpreadWithoutMeeting) {
  EXPECT_THAT(spread({10, 50}, 12, 0, 100), ElementsAre(10, 50));
  EXPECT_THAT(spread({50, 50}, 12, 0, 100), ElementsAre(44, 56));
  EXPECT_THAT(spread({99, 100, 98}, 12, 0, 100), ElementsAre(88, 100, 76));
  EXPECT_THAT(spread({-5, 3}, 12, 0, 100), ElementsAre(0, 12));
  EXPECT_THAT(spread({}, 12, 0, 100), ElementsAre());
}

/// The data of a chunk, whose checksum must be right.
std::string chunk_of(const std::string& file, const std::string& type) {
  const size_t at = file.find(type);
  const auto number = [&](size_t from) {
    uint32_t value = 0;
    for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(file[from + i]);
    return value;
  };
  const uint32_t length = number(at - 4);
  const auto sum = crc32(0, reinterpret_cast<const Bytef*>(file.data() + at), length + 4);
  EXPECT_EQ(number(at + 4 + length), static_cast<uint32_t>(sum)) << type;
  return file.substr(at + 4, length);
}

TEST(ReportPng, HoldsItsPixels) {
  const std::string file = png(3, 2, {0, 1, 2, 2, 1, 0}, {{255, 0, 0}, {0, 255, 0}, {}});
  EXPECT_EQ(file.substr(0, 8), "\x89PNG\r\n\x1a\n");
  EXPECT_EQ(chunk_of(file, "IHDR"), std::string("\0\0\0\3\0\0\0\2\10\3\0\0\0", 13));
  EXPECT_EQ(chunk_of(file, "PLTE"), std::string("\xff\0\0\0\xff\0\0\0\0", 9));
  EXPECT_EQ(chunk_of(file, "tRNS"), std::string("\xff\xff\0", 3));
  EXPECT_EQ(chunk_of(file, "IEND"), "");
  const std::string packed = chunk_of(file, "IDAT");
  std::string rows(8, 'x');
  uLongf size = rows.size();
  ASSERT_EQ(uncompress(reinterpret_cast<Bytef*>(rows.data()), &size,
                       reinterpret_cast<const Bytef*>(packed.data()), packed.size()),
            Z_OK);
  EXPECT_EQ(rows, std::string("\0\0\1\2\0\2\1\0", 8));
  EXPECT_ANY_THROW(png(2, 2, {0}, {{}}));
}

}  // namespace
}  // namespace msplora::report
