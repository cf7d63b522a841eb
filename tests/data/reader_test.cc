#include "msplora/data/reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "error_text.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Fields = std::vector<std::string>;

std::vector<Record> read_all(const std::filesystem::path& path, FileFormat format) {
  const auto reader = RecordReader::open(path, format);
  std::vector<Record> records;
  Record record;
  while (reader->next(record)) records.push_back(record);
  return records;
}

std::vector<Fields> fields_of(const std::vector<Record>& records) {
  std::vector<Fields> fields;
  for (const Record& record : records) fields.push_back(record.fields);
  return fields;
}

TEST(TsvReader, SplitsAtTabsAndNothingElse) {
  TemporaryDirectory dir;
  const auto file = dir.write("a.tsv", "\xEF\xBB\xBF\"quoted\ttext\"\t1\r\n\n a, b \t\tlast");
  const auto records = read_all(file, FileFormat::kTsv);
  EXPECT_THAT(fields_of(records),
              ElementsAre(Fields{"\"quoted", "text\"", "1"}, Fields{" a, b ", "", "last"}));
  EXPECT_EQ(records[0].line, 1);
  EXPECT_EQ(records[1].line, 3);
}

TEST(CsvReader, FollowsRfc4180) {
  TemporaryDirectory dir;
  const auto file = dir.write("a.csv",
                              "text,label\r\n"
                              "\"a, \"\"b\"\"\",1\r\n"
                              "\"two\nlines\r\nthree\",\"\"\r\n"
                              ",\r\n"
                              "inner \"quote\" stays,x\n"
                              "\"last\",\"y\"");
  const auto records = read_all(file, FileFormat::kCsv);
  EXPECT_THAT(fields_of(records),
              ElementsAre(Fields{"text", "label"}, Fields{"a, \"b\"", "1"}, Fields{"two\nlines\r\nthree", ""},
                          Fields{"", ""}, Fields{"inner \"quote\" stays", "x"}, Fields{"last", "y"}));
  EXPECT_EQ(records[3].line, 6);  // embedded line ends count
  EXPECT_EQ(records[5].line, 8);
}

TEST(CsvReader, NamesTheLineOfDamage) {
  TemporaryDirectory dir;
  const auto open_quote = dir.write("open.csv", "a,b\nc,\"never closed\nd,e\n");
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { read_all(open_quote, FileFormat::kCsv); }),
              AllOf(HasSubstr("open.csv:2:"), HasSubstr("never closed")));
  const auto trailing = dir.write("trailing.csv", "a,b\n\"x\"y,1\n");
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { read_all(trailing, FileFormat::kCsv); }),
              AllOf(HasSubstr("trailing.csv:2:"), HasSubstr("found `y`")));
}

TEST(JsonlReader, ReadsScalarsAndNamesTheRest) {
  TemporaryDirectory dir;
  const auto file = dir.write("a.jsonl",
                              "{\"text\": \"caf\\u00e9\", \"label\": 2, \"ok\": true, \"score\": -1.5}\n\n"
                              "{\"meta\": {\"a\": 1}, \"none\": null, \"text\": \"\"}\n");
  const auto records = read_all(file, FileFormat::kJsonl);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_THAT(records[0].names, ElementsAre("text", "label", "ok", "score"));
  EXPECT_THAT(records[0].fields, ElementsAre("caf\xC3\xA9", "2", "true", "-1.5"));
  EXPECT_THAT(records[1].names, ElementsAre("text"));
  EXPECT_THAT(records[1].other_names, ElementsAre("meta", "none"));
  EXPECT_EQ(records[1].line, 3);
}

TEST(JsonlReader, NestedValuesAndNumbers) {
  TemporaryDirectory dir;
  const auto file =
      dir.write("a.jsonl", R"({"b": "x", "a": {"b": [2, {"c": 3}]}, "d": 1.5, "e": -0.0, "f": true,)"
                           R"( "g": null, "h": 18446744073709551615, "i": 1e3})");
  const auto reader = RecordReader::open(file, FileFormat::kJsonl);
  Record record;
  ASSERT_TRUE(reader->next(record));
  EXPECT_THAT(record.names, ElementsAre("b", "d", "e", "f", "h", "i"));
  EXPECT_THAT(record.fields, ElementsAre("x", "1.5", "-0.0", "true", "18446744073709551615", "1000.0"));
  EXPECT_THAT(record.other_names, ElementsAre("a", "g"));
  const auto huge = dir.write("b.jsonl", "{\"a\": 1e999}\n");
  EXPECT_THROW(RecordReader::open(huge, FileFormat::kJsonl)->next(record), Error);
}

TEST(JsonlReader, WhatReadersWouldTakeDifferentlyIsRefused) {
  TemporaryDirectory dir;
  const auto problem = [&](std::string_view text) {
    const auto file = dir.write("a.jsonl", text);
    Record record;
    return error_text(ErrorCode::kData, [&] { RecordReader::open(file, FileFormat::kJsonl)->next(record); });
  };
  using namespace std::string_view_literals;
  EXPECT_THAT(problem("{\"text\":\"abc\",\"label\":\"1\"}\0zzz\n"sv),
              HasSubstr("a.jsonl:1: expected one JSON object"));
  EXPECT_THAT(problem("{\"text\":\"abc\",\"label\":\"1\"}\0\n"sv), HasSubstr("damaged at byte 27"));
  EXPECT_THAT(problem(R"({"text":"abc","label":"1","label":"0"})"),
              HasSubstr("the key `label` appears twice"));
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_THAT(problem("{\"text\":\"abc\",\"more\":" + deep + "}"), HasSubstr("at most 64 levels deep"));
}

// Looking through all earlier keys for each would not end.
TEST(JsonlReader, ManyKeysTakeLinearTime) {
  TemporaryDirectory dir;
  std::string line = "{";
  constexpr size_t kKeys = 1000000;
  for (size_t i = 0; i < kKeys; ++i) line += (i > 0 ? ",\"k" : "\"k") + std::to_string(i) + "\":1";
  const auto file = dir.write("a.jsonl", line + "}\n");
  const auto reader = RecordReader::open(file, FileFormat::kJsonl);
  Record record;
  ASSERT_TRUE(reader->next(record));
  EXPECT_EQ(record.names.size(), kKeys);
  EXPECT_EQ(record.names.back(), "k" + std::to_string(kKeys - 1));
}

TEST(JsonlReader, NamesTheLineOfDamage) {
  TemporaryDirectory dir;
  const auto damaged = dir.write("a.jsonl", "{\"a\": 1}\n{\"a\": \n");
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { read_all(damaged, FileFormat::kJsonl); }),
              HasSubstr("a.jsonl:2:"));
  const auto array = dir.write("b.jsonl", "[1, 2]\n");
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { read_all(array, FileFormat::kJsonl); }),
              AllOf(HasSubstr("b.jsonl:1:"), HasSubstr("found array")));
}

TEST(LineReader, RejectsWhatIsNotUtf8) {
  TemporaryDirectory dir;
  const auto latin = dir.write("latin.tsv", "fine\t1\ncaf\xE9\t0\n");
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { read_all(latin, FileFormat::kTsv); }),
              AllOf(HasSubstr("latin.tsv:2:"), HasSubstr("0xE9 at position 4")));
  const auto wide = dir.write("wide.tsv", std::string_view("\xFF\xFE\x61\x00\x09\x00", 6));
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { read_all(wide, FileFormat::kTsv); }), HasSubstr("UTF-16"));
  EXPECT_THAT(error_text(ErrorCode::kIo, [&] { read_all(dir.path() / "missing.tsv", FileFormat::kTsv); }),
              HasSubstr("No such file"));
  EXPECT_THAT(error_text(ErrorCode::kIo, [&] { read_all(dir.path(), FileFormat::kTsv); }),
              HasSubstr("directory"));
}

TEST(Utf8, FindsTheFirstBadByte) {
  const size_t none = std::string_view::npos;
  EXPECT_EQ(find_invalid_utf8(""), none);
  EXPECT_EQ(find_invalid_utf8("plain ascii, longer than one block"), none);
  EXPECT_EQ(find_invalid_utf8("\xF0\x9F\x98\x80 \xE4\xB8\xAD \xC3\xA9"), none);
  EXPECT_EQ(find_invalid_utf8("12345678\xC3"), 8u);          // cut off
  EXPECT_EQ(find_invalid_utf8("ab\xC0\xAF"), 2u);            // overlong
  EXPECT_EQ(find_invalid_utf8("abc\xED\xA0\x80"), 3u);       // surrogate
  EXPECT_EQ(find_invalid_utf8("abcd\xF4\x90\x80\x80"), 4u);  // above U+10FFFF
  EXPECT_EQ(find_invalid_utf8("\x80"), 0u);                  // lone continuation
}

TEST(ResolveFormat, GoesByExtension) {
  EXPECT_EQ(resolve_format("x/y.TSV", "auto"), FileFormat::kTsv);
  EXPECT_EQ(resolve_format("y.csv", "auto"), FileFormat::kCsv);
  EXPECT_EQ(resolve_format("y.ndjson", "auto"), FileFormat::kJsonl);
  EXPECT_EQ(resolve_format("y.csv", "jsonl"), FileFormat::kJsonl);
  EXPECT_THAT(error_text(ErrorCode::kConfig, [] { resolve_format("y.parquet", "auto"); }),
              HasSubstr(".parquet"));
  EXPECT_THAT(error_text(ErrorCode::kConfig, [] { resolve_format("y.csv", "json"); }), HasSubstr("`jsonl`"));
}

// `printf 'text\tlabel\na\tyes\n' | gzip -n9`.
TEST(Reader, PackedTablesAreReadByTheFormThatTheirNameHasBelow) {
  using namespace std::string_literals;
  const TemporaryDirectory scratch;
  const std::string packed =
      "\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\x2b\x49\xad\x28\xe1\xcc\x49\x4c\x4a\xcd\xe1\x4a\xe4\xac\x4c"
      "\x2d\xe6\x02\x00\x18\x61\x4c\x0e\x11\x00\x00\x00"s;
  const auto file = scratch.write("rows.tsv.gz", packed);
  EXPECT_EQ(resolve_format(file, "auto"), FileFormat::kTsv);
  EXPECT_EQ(resolve_format("rows.CSV.XZ", "auto"), FileFormat::kCsv);
  EXPECT_THAT(fields_of(read_all(file, FileFormat::kTsv)),
              ElementsAre(Fields{"text", "label"}, Fields{"a", "yes"}));
  const auto cut = scratch.write("cut.tsv.gz", packed.substr(0, packed.size() - 4));
  EXPECT_THAT(error_text(ErrorCode::kFormat, [&] { read_all(cut, FileFormat::kTsv); }),
              HasSubstr("cut.tsv.gz"));
}

}  // namespace
}  // namespace msplora
