#include "msplora/data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "data/table_spec.h"
#include "error_text.h"
#include "msplora/data/notes.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(ReadTable, MapsColumnsByName) {
  TemporaryDirectory dir;
  const auto file = dir.write("a.csv", "id,label,premise,hypothesis\n7, yes ,\"p,1\",h1\n8,no,p2,h2\n");
  TableSpec spec = spec_of(FileFormat::kCsv, "premise", "label");
  spec.text_pair = "hypothesis";
  const Dataset data = read_table(file, spec);
  ASSERT_EQ(data.size(), 2u);
  EXPECT_EQ(data[0].text, "p,1");
  EXPECT_EQ(data[0].text_pair, "h1");
  EXPECT_TRUE(data[0].has_pair);
  EXPECT_EQ(data[0].label, "yes");
  EXPECT_EQ(data.where(1), file.string() + ":3");
  EXPECT_THAT(data.columns(), ElementsAre("id", "label", "premise", "hypothesis"));
  EXPECT_THAT(data.notes(), ElementsAre(HasSubstr("the first row names the column `premise`")));
}

TEST(ReadTable, JsonKeysMayComeInAnyOrder) {
  TemporaryDirectory dir;
  const auto file = dir.write(
      "a.jsonl", "{\"text\": \"a\", \"label\": 1}\n{\"label\": 0, \"more\": [1], \"text\": \"b\"}\n");
  const Dataset data = read_table(file, spec_of(FileFormat::kJsonl, "text", "label"));
  ASSERT_EQ(data.size(), 2u);
  EXPECT_EQ(data[1].text, "b");
  EXPECT_EQ(data[1].label, "0");
  const auto missing =
      dir.write("b.jsonl", "{\"text\": \"a\", \"label\": 1}\n{\"txt\": \"b\", \"label\": 0}\n");
  EXPECT_THAT(error_text(ErrorCode::kData,
                         [&] { read_table(missing, spec_of(FileFormat::kJsonl, "text", "label")); }),
              AllOf(HasSubstr("b.jsonl:2"), HasSubstr("did you mean `txt`?")));
  const auto null = dir.write("c.jsonl", "{\"text\": null, \"label\": 1}\n");
  EXPECT_THAT(
      error_text(ErrorCode::kData, [&] { read_table(null, spec_of(FileFormat::kJsonl, "text", "label")); }),
      AllOf(HasSubstr("c.jsonl:1"), HasSubstr("found null")));
}

TEST(ReadTable, DecidesOnHeadersAndSaysWhy) {
  TemporaryDirectory dir;
  std::string rows;
  for (int i = 0; i < 30; ++i) rows += "text " + std::to_string(i) + "\t" + (i % 2 ? "pos" : "neg") + "\n";
  const TableSpec spec = spec_of(FileFormat::kTsv, "0", "1");
  const Dataset plain = read_table(dir.write("plain.tsv", rows), spec);
  EXPECT_EQ(plain.size(), 30u);
  EXPECT_THAT(plain.notes(), ElementsAre(HasSubstr("no header")));
  const Dataset headed = read_table(dir.write("headed.tsv", "sentence\tlabel\n" + rows), spec);
  EXPECT_EQ(headed.size(), 30u);
  EXPECT_THAT(headed.notes(), ElementsAre(HasSubstr("with a header (the labels repeat")));
  const Dataset numbers = read_table(dir.write("numbers.tsv", "s\tscore\na\t1.5\nb\t2\n"), spec);
  EXPECT_EQ(numbers.size(), 2u);
  EXPECT_THAT(numbers.notes(), ElementsAre(HasSubstr("holds numbers, but `score`")));

  TableSpec forced = spec;
  forced.header = "no";
  EXPECT_EQ(read_table(dir.path() / "headed.tsv", forced).size(), 31u);
  forced.header = "yes";
  EXPECT_EQ(read_table(dir.path() / "plain.tsv", forced).size(), 29u);
}

TEST(ReadTable, ReportsWrongWidthsWithLineAndText) {
  TemporaryDirectory dir;
  const auto file = dir.write("a.tsv", "text\tlabel\ngood\t1\nno tab here\n");
  EXPECT_THAT(
      error_text(ErrorCode::kData, [&] { read_table(file, spec_of(FileFormat::kTsv, "text", "label")); }),
      AllOf(HasSubstr("a.tsv:3:"), HasSubstr("expected 2 tab-separated fields, found 1"),
            HasSubstr("\"no tab here\"")));
}

TEST(ReadTable, ReportsMissingColumnsTogether) {
  TemporaryDirectory dir;
  const auto file = dir.write("a.tsv", "sentense\tlabl\nx\t1\n");
  const std::string text =
      error_text(ErrorCode::kData, [&] { read_table(file, spec_of(FileFormat::kTsv, "sentence", "label")); });
  EXPECT_THAT(text, AllOf(HasSubstr("`sentense`, `labl`"), HasSubstr("did you mean `sentense`?"),
                          HasSubstr("did you mean `labl`?")));
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { read_table(file, spec_of(FileFormat::kTsv, "0", "5")); }),
              HasSubstr("no column `5` (data.label); found 2 columns: 0 to 1"));
  const auto twice = dir.write("b.tsv", "text\ttext\tlabel\nx\ty\t1\n");
  EXPECT_THAT(
      error_text(ErrorCode::kData, [&] { read_table(twice, spec_of(FileFormat::kTsv, "text", "label")); }),
      HasSubstr("2 columns are called `text`"));
}

TEST(ReadTable, KeysThatAreThereAreNamedWithWhatNamesAnother) {
  TemporaryDirectory dir;
  const auto said = [&](const std::string& line) {
    const auto file = dir.write("a.jsonl", line);
    return error_text(ErrorCode::kData,
                      [&] { read_table(file, spec_of(FileFormat::kJsonl, "text", "label")); });
  };
  EXPECT_THAT(
      said("{\"review\": \"a\", \"stars\": 3, \"tags\": [], \"note\": null}\n"),
      AllOf(HasSubstr("a.jsonl:1: no key `text` (data.text); found 2 keys: `review`, `stars`; with null, "
                      "an array or an object under `tags`, `note` (data.text names it (--text of eval and "
                      "predict))"),
            HasSubstr("no key `label` (data.label)"), HasSubstr("(--label of eval and predict)")));
  EXPECT_THAT(said("{\"messages\": [], \"label\": \"x\"}\n"),
              AllOf(HasSubstr("found 1 keys: `label`; with null, an array or an object under `messages`"),
                    HasSubstr("conversations are read by task.type: sft (eval: --task sft)")));
  EXPECT_THAT(said("{\"text\": [\"a\"], \"label\": \"x\"}\n"),
              HasSubstr("expected a string, number or boolean under `text`"));
  const auto csv = dir.write("a.csv", "review,stars\na,3\n");
  EXPECT_THAT(
      error_text(ErrorCode::kData, [&] { read_table(csv, spec_of(FileFormat::kCsv, "text", "label")); }),
      AllOf(HasSubstr(
                "a.csv:1: no column `text` (data.text); found 2 columns: `review`, `stars` (data.text names "
                "it (--text of eval and predict), and data.header says"),
            HasSubstr("data.label names it (--label of eval and predict)")));
}

TEST(ReadTable, RejectsEmptyFilesAndLabels) {
  TemporaryDirectory dir;
  const TableSpec spec = spec_of(FileFormat::kTsv, "text", "label");
  for (const char* content : {"", "\n\n", "\xEF\xBB\xBF"}) {
    const auto file = dir.write("empty.tsv", content);
    EXPECT_THAT(error_text(ErrorCode::kData, [&] { read_table(file, spec); }),
                HasSubstr("the file is empty"));
  }
  const auto header = dir.write("header.tsv", "text\tlabel\n");
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { read_table(header, spec); }), HasSubstr("no examples"));
  const auto label = dir.write("label.tsv", "text\tlabel\na\t1\nb\t \n");
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { read_table(label, spec); }),
              AllOf(HasSubstr("label.tsv:3"), HasSubstr("label is empty")));
}

TEST(ReadTable, LabelsAreOptionalWhereAllowed) {
  TemporaryDirectory dir;
  TableSpec spec = spec_of(FileFormat::kTsv, "text", "label");
  spec.label_optional = true;
  EXPECT_FALSE(read_table(dir.write("a.tsv", "text\tid\nx\t1\n"), spec).has_labels());
  EXPECT_FALSE(read_table(dir.write("b.tsv", "text\tlabel\nx\t\n"), spec).has_labels());
  EXPECT_TRUE(read_table(dir.write("c.tsv", "text\tlabel\nx\t1\n"), spec).has_labels());
  const auto partly = dir.write("e.tsv", "text\tlabel\nx\t1\ny\t\n");
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { read_table(partly, spec); }),
              HasSubstr("have a label, or none"));
  spec.label_ignored = true;
  EXPECT_FALSE(read_table(partly, spec).has_labels());
  spec.text = "0";
  spec.label = "1";
  EXPECT_FALSE(read_table(dir.write("d.tsv", "only text\nmore text\n"), spec).has_labels());
}

TEST(ReadTable, QuotesOfTsvAreSaid) {
  TemporaryDirectory dir;
  TableSpec spec = spec_of(FileFormat::kTsv, "text", "label");
  const std::string rows =
      "text\tlabel\n\"he said \"\"great\"\" ok\"\ta\n\"quoted\"\tb\n\"a\"\"b\" \"c\"\ta\n\"\"\ta\n";
  const auto file = dir.write("a.tsv", rows);
  EXPECT_THAT(read_table(file, spec).notes(), Contains(AllOf(HasSubstr("1 examples"), HasSubstr("line 2"),
                                                             HasSubstr("data.delimiter to tab"))));
  const auto broken = dir.write("b.tsv", "text\tlabel\n\"a\nb\"\ta\n");
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { read_table(broken, spec); }),
              AllOf(HasSubstr("b.tsv:2"), HasSubstr("data.format to csv and data.delimiter to tab")));
  spec.format = FileFormat::kCsv;
  spec.delimiter = "tab";
  EXPECT_EQ(read_table(broken, spec)[0].text, "a\nb");
  EXPECT_THAT(read_table(dir.write("c.csv", rows.substr(0, rows.find("\"quoted\""))), spec).notes(),
              testing::Not(Contains(HasSubstr("doubled"))));
}

TEST(ReadTable, FormsOfOtherProgramsAreNamed) {
  TemporaryDirectory dir;
  const auto old = dir.write("a.csv", "text,label\rhello,a\rbye,b\r");
  EXPECT_THAT(
      error_text(ErrorCode::kData, [&] { read_table(old, spec_of(FileFormat::kCsv, "text", "label")); }),
      HasSubstr("end in CR alone"));
  const auto array = dir.write("a.json", "[{\"text\": \"a\", \"label\": 1}]");
  EXPECT_THAT(
      error_text(ErrorCode::kData, [&] { read_table(array, spec_of(FileFormat::kJsonl, "text", "label")); }),
      HasSubstr("jq -c '.[]'"));
}

TEST(RegressionTarget, ParsesNumbersAndNamesTheLine) {
  TemporaryDirectory dir;
  const auto file = dir.write("a.tsv", "text\tlabel\na\t 3.75\nb\t1e-2\nc\tnan\nd\t1,5\n");
  const Dataset data = read_table(file, spec_of(FileFormat::kTsv, "text", "label"));
  EXPECT_EQ(regression_target(data, 0), 3.75);
  EXPECT_EQ(regression_target(data, 1), 0.01);
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { regression_target(data, 2); }), HasSubstr("a.tsv:4"));
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { regression_target(data, 3); }), HasSubstr("found `1,5`"));
}

TEST(ReadTable, RecognisesDelimitersAndSaysSo) {
  TemporaryDirectory dir;
  TableSpec spec = spec_of(FileFormat::kCsv, "text", "label");
  for (const std::string delimiter : {",", ";", "\t", "|"}) {
    const std::string d = delimiter;
    // The text holds the other characters too, and a line break between quotes.
    const auto file = dir.write("a.csv", "id" + d + "text" + d + "label\n1" + d + "\"a, b; c| d\ne\"" + d +
                                             "yes\n2" + d + "f" + d + "no\n");
    const Dataset data = read_table(file, spec);
    ASSERT_EQ(data.size(), 2u) << delimiter;
    EXPECT_EQ(data[0].text, "a, b; c| d\ne");
    EXPECT_EQ(data[1].label, "no");
    EXPECT_EQ(data[1].line, 4);
    const std::string name = delimiter == "\t" ? "`tab`" : "`" + delimiter + "`";
    const bool is_said =
        testing::Matches(Contains(HasSubstr(name + " between fields (recognised)")))(data.notes());
    EXPECT_EQ(is_said, delimiter != ",");
  }
  // Without names the number of fields decides; commas in texts do not.
  spec = spec_of(FileFormat::kCsv, "0", "1");
  EXPECT_EQ(read_table(dir.write("b.csv", "a, b;yes\nc;no\nd, e, f;no\n"), spec)[2].text, "d, e, f");
  EXPECT_EQ(read_table(dir.write("c.csv", "a;b,yes\nc,no\n"), spec)[0].text, "a;b");
  spec.delimiter = ",";
  EXPECT_EQ(read_table(dir.write("d.csv", "a;b,yes;1\nc;d,no;2\n"), spec)[1].label, "no;2");
  spec = spec_of(FileFormat::kTsv, "text", "label");
  const auto semicolons = dir.write("e.tsv", "text;label\na;yes\nb;no\n");
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { read_table(semicolons, spec); }),
              HasSubstr("data.delimiter"));
  spec.delimiter = ";";
  EXPECT_EQ(read_table(semicolons, spec)[1].label, "no");
  spec.delimiter = "x";
  EXPECT_THROW(read_table(semicolons, spec), Error);
}

TEST(ReadTable, CountsEmptyTextsOnBothSides) {
  TemporaryDirectory dir;
  TableSpec spec = spec_of(FileFormat::kTsv, "a", "label");
  spec.text_pair = "b";
  const auto file = dir.write("a.tsv", "a\tb\tlabel\n\tx\t1\ny\t\t0\nz\t \t0\n\t\t1\nu\tv\t1\n");
  EXPECT_THAT(read_table(file, spec).notes(),
              Contains(HasSubstr("2 examples have an empty text, 3 an empty second text, 1 of them both")));
}

TEST(ReadTable, KeepsFieldsWhenAsked) {
  TemporaryDirectory dir;
  TableSpec spec = spec_of(FileFormat::kCsv, "text", "label");
  const auto file = dir.write("a.csv", "id,text,label\n\"1,2\", a ,x\n");
  EXPECT_TRUE(read_table(file, spec)[0].fields.empty());
  spec.keep_fields = true;
  EXPECT_THAT(read_table(file, spec)[0].fields, ElementsAre("1,2", " a ", "x"));
}

TEST(ReadTable, AllEmptyLabelsAreReported) {
  TemporaryDirectory dir;
  const auto file = dir.write("a.tsv", "text\tlabel\na\t1\nb\t\nc\t0\nd\t\ne\t\n");
  EXPECT_THAT(
      error_text(ErrorCode::kData, [&] { read_table(file, spec_of(FileFormat::kTsv, "text", "label")); }),
      AllOf(HasSubstr("a.tsv:3"), HasSubstr("2 other examples (lines 5, 6)")));
}

}  // namespace
}  // namespace msplora
