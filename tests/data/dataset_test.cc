#include "msplora/data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "data/table_spec.h"
#include "error_text.h"
#include "msplora/core/option_io.h"
#include "msplora/data/label_map.h"
#include "msplora/data/notes.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Dataset labelled(const std::vector<std::string>& labels) {
  std::vector<Example> examples;
  for (const std::string& label : labels) {
    Example& example = examples.emplace_back();
    example.text = "text";
    example.label = label;
    example.line = static_cast<int64_t>(examples.size());
  }
  return Dataset("train.tsv", examples, true);
}

TEST(LabelMap, SortsNamesByBytesAndIntegersByValue) {
  EXPECT_THAT(LabelMap::from_data(labelled({"b", "a", "C", "b"})).names(), ElementsAre("C", "a", "b"));
  EXPECT_THAT(LabelMap::from_data(labelled({"10", "9", "-1", "9"})).names(), ElementsAre("-1", "9", "10"));
  EXPECT_THAT(error_text(ErrorCode::kData,
                         [] {
                           LabelMap::from_data(labelled({"a", "a"}));
                         }),
              HasSubstr("only `a`"));
}

TEST(LabelMap, ComesFromAList) {
  const LabelMap list = LabelMap::from_list({"1", "0"});
  EXPECT_EQ(list.find("1"), 0);
  EXPECT_EQ(list.id2label().at(0), "1");
  EXPECT_TRUE(LabelMap::is_placeholder({{0, "LABEL_0"}, {1, "LABEL_1"}}));
  EXPECT_FALSE(LabelMap::is_placeholder({{0, "LABEL_0"}, {1, "yes"}}));
  EXPECT_THROW(LabelMap::from_list({"a", "a"}), Error);
  EXPECT_THROW(list.name(2), Error);
}

// Sorted names are contradiction, entailment, neutral; GLUE's numbers are 0 entailment, 1 neutral.
TEST(LabelMap, NumbersAreNoClassesUnlessSomeoneSaysWhich) {
  const LabelMap map = LabelMap::from_list({"contradiction", "entailment", "neutral"});
  EXPECT_EQ(map.find("0"), std::nullopt);
  const Dataset data = labelled({"0"});
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { map.index_of(data, 0); }),
              AllOf(HasSubstr("train.tsv:1"), HasSubstr("--labels NAME,NAME,..."), HasSubstr("data.labels")));
  const LabelMap numbered = map.with_numbers({"entailment", "neutral", "contradiction"}, "--labels");
  EXPECT_EQ(numbered.find("0"), 1);
  EXPECT_EQ(numbered.find("2"), 0);
  EXPECT_EQ(numbered.find("3"), std::nullopt);
  EXPECT_EQ(numbered.find("01"), std::nullopt);
  EXPECT_EQ(numbered.find("neutral"), 2);
  EXPECT_EQ(numbered.names(), map.names());
}

TEST(LabelMap, NamesTakeThePlaceOfNumbersAlone) {
  const LabelMap named = LabelMap::from_list({"0", "1"}).with_numbers({"ham", "spam"}, "--labels");
  EXPECT_THAT(named.names(), ElementsAre("ham", "spam"));
  EXPECT_EQ(named.find("1"), 1);
  const LabelMap map = LabelMap::from_list({"ham", "spam"});
  EXPECT_THAT(error_text(ErrorCode::kConfig,
                         [&] {
                           map.with_numbers({"ham", "spma"}, "--labels");
                         }),
              AllOf(HasSubstr("--labels"), HasSubstr("did you mean `spam`?")));
  EXPECT_THAT(error_text(ErrorCode::kConfig, [&] { map.with_numbers({"ham"}, "--labels"); }),
              HasSubstr("1 class names for 2 classes: `ham`, `spam`"));
  EXPECT_THROW(map.with_numbers({"ham", "ham"}, "--labels"), Error);
}

TEST(LabelMap, UnknownLabelsAreNamedWithTheNearest) {
  const LabelMap map = LabelMap::from_list({"positive", "negative"});
  const Dataset data = labelled({"positive", "positve"});
  EXPECT_EQ(map.index_of(data, 0), 0);
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { map.index_of(data, 1); }),
              AllOf(HasSubstr("train.tsv:2"), HasSubstr("`positve`"), HasSubstr("`positive`, `negative`"),
                    HasSubstr("did you mean `positive`?")));
}

TEST(SplitDataset, PartitionsBySeed) {
  std::vector<std::string> labels;
  for (int i = 0; i < 100; ++i) labels.push_back(std::to_string(i));
  const Dataset data = labelled(labels);
  const auto [rest, taken] = split_dataset(data, 0.2, 1);
  EXPECT_EQ(taken.size(), 20u);
  std::set<std::string> seen;
  for (const auto* part : {&rest, &taken}) {
    for (const Example& example : part->examples()) seen.insert(example.label);
  }
  EXPECT_EQ(seen.size(), 100u);
  const auto same = split_dataset(data, 0.2, 1), other = split_dataset(data, 0.2, 2);
  EXPECT_EQ(same.second.label_counts(), taken.label_counts());
  EXPECT_NE(other.second.label_counts(), taken.label_counts());
  EXPECT_EQ(split_dataset(data, 1e-9, 1).second.size(), 1u);
  EXPECT_EQ(split_dataset(data, 0.999999, 1).first.size(), 1u);
  EXPECT_THROW(split_dataset(labelled({"a"}), 0.5, 1), Error);
}

TEST(SplitDataset, GivesEachClassItsShare) {
  std::vector<std::string> labels;
  for (int i = 0; i < 200; ++i) labels.push_back(i % 20 == 0 ? "rare" : i % 4 == 1 ? "some" : "many");
  labels.push_back("single");
  const Dataset data = labelled(labels);
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const auto [rest, taken] = split_dataset(data, 0.2, seed, /*by_class=*/true);
    // 10, 50, 140 and 1 examples: a fifth of each, and the odd one out of 40 goes to the largest remainder.
    EXPECT_THAT(taken.label_counts(),
                ElementsAre(testing::Pair("many", 28), testing::Pair("rare", 2), testing::Pair("some", 10)));
    EXPECT_EQ(rest.size() + taken.size(), 201u);
    EXPECT_EQ(rest.label_counts().at("single"), 1);
    for (size_t i = 1; i < taken.size(); ++i) EXPECT_LT(taken[i - 1].line, taken[i].line);
  }
  const auto one = split_dataset(data, 0.2, 3, true), same = split_dataset(data, 0.2, 3, true),
             other = split_dataset(data, 0.2, 4, true);
  const auto lines = [](const Dataset& part) {
    std::vector<int64_t> all;
    for (const Example& example : part.examples()) all.push_back(example.line);
    return all;
  };
  EXPECT_EQ(lines(one.second), lines(same.second));
  EXPECT_NE(lines(one.second), lines(other.second));
  // One example of each stays for training.
  EXPECT_THAT(error_text(ErrorCode::kData,
                         [&] {
                           split_dataset(labelled({"a", "b"}), 0.1, 1, true);
                         }),
              HasSubstr("every class has one example"));
  EXPECT_EQ(split_dataset(labelled({"a", "b", "c", "c"}), 0.5, 1, true).second.label_counts(),
            (std::map<std::string, int64_t>{{"c", 1}}));
  EXPECT_EQ(split_dataset(labelled({"a", "a", "b", "b"}), 0.999, 1, true).first.label_counts().size(), 2u);
}

TEST(LoadTaskData, ClassesAreThoseOfTheWholeFile) {
  TemporaryDirectory dir;
  DataConfig config;
  std::string rows = "text,label\n";
  for (int i = 0; i < 20; ++i) rows += "t" + std::to_string(i) + (i % 2 ? ",a\n" : ",b\n");
  config.train = dir.write("train.csv", rows + "odd,c\n").string();
  config.validation_fraction = 0.3;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const TaskData data = load_task_data(config, LabelKind::kClass, seed);
    EXPECT_THAT(data.class_counts,
                ElementsAre(testing::Pair("a", 10), testing::Pair("b", 10), testing::Pair("c", 1)));
    EXPECT_EQ(data.train.label_counts().count("c"), 1u);
    EXPECT_THAT(data.notes,
                Contains(HasSubstr("1 of 3 classes have too few examples for one to be set aside")));
  }
}

TEST(LoadTaskData, SeveralFilesAreOneDataSetThatKnowsItsPlaces) {
  TemporaryDirectory dir;
  DataConfig config;
  DataFiles files;
  files.files = {{dir.write("a.csv", "text,label\na,1\nb,0\n").string(), 1.0},
                 {dir.write("b.tsv", "label\ttext\n1\tc\n0\td\n1\te\n").string(), 2.0}};
  config.train = files;
  const TaskData data = load_task_data(config, LabelKind::kClass, 1);
  ASSERT_EQ(data.train.size(), 5U);
  EXPECT_EQ(data.train[2].text, "c");
  EXPECT_EQ(data.train.where(1), (dir.path() / "a.csv:3").string());
  EXPECT_EQ(data.train.where(4), (dir.path() / "b.tsv:4").string());
  EXPECT_THAT(data.train.notes(),
              Contains(testing::AllOf(HasSubstr("5 rows"), HasSubstr("b.tsv 3 (weight 2)"))));
  EXPECT_THAT(data.train.draw_weights().groups, ElementsAre(0, 0, 1, 1, 1));
  EXPECT_THAT(data.train.subset({1, 3}).draw_weights().groups, ElementsAre(0, 1));
  EXPECT_EQ(data.train.subset({3}).where(0), (dir.path() / "b.tsv:3").string());

  files.files[1].weight = 1.0;
  config.train = files;
  EXPECT_THAT(load_task_data(config, LabelKind::kClass, 1).train.draw_weights().groups, IsEmpty());
  dir.write("b.tsv", "label\ttext\n1\tc\n0\n");
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { load_task_data(config, LabelKind::kClass, 1); }),
              HasSubstr("b.tsv:3"));
  files.files[1].weight = 2.0;
  config.validation = files;
  EXPECT_THAT(error_text(ErrorCode::kConfig, [&] { load_task_data(config, LabelKind::kClass, 1); }),
              HasSubstr("data.validation"));
}

TEST(DataFiles, WeightsHaveBounds) {
  for (const char* weight : {"1.0e300", "1.0e12", "1001", "0", "-1", "nan"}) {
    DataConfig config;
    ErrorList errors;
    apply_override(config, std::string("train=[{path: cls.tsv, weight: ") + weight + "}]", errors);
    ASSERT_EQ(errors.size(), 1u) << weight;
    EXPECT_THAT(errors.problems()[0].what(), HasSubstr("train")) << weight;
    EXPECT_THAT(errors.problems()[0].what(), HasSubstr("`weight` of cls.tsv: expected a number")) << weight;
  }
  DataFiles files;
  EXPECT_TRUE(files.read(nlohmann::json{{"path", "a"}, {"weight", 1000}}));
  EXPECT_FALSE(files.read(nlohmann::json{{"path", "a"}, {"weight", 1e300}}));
  EXPECT_FALSE(files.read(nlohmann::json{{"path", "a"}, {"weight", 0}}));
}

TEST(LoadTaskData, ReadsFilesAndSplits) {
  TemporaryDirectory dir;
  DataConfig config;
  config.train = dir.write("train.csv", "text,label\na,1\nb,0\nc,1\nd,0\n").string();
  config.test = dir.write("test.csv", "text\nx\n").string();
  config.validation_fraction = 0.25;
  const TaskData data = load_task_data(config, LabelKind::kClass, 3, {true, true, true});
  EXPECT_EQ(data.train.size(), 3u);
  ASSERT_EQ(data.validation.size(), 1u);
  EXPECT_EQ(data.validation[0].data.size(), 1u);
  EXPECT_THAT(data.validation[0].data.notes(), Contains(HasSubstr("1 of 4 examples set aside")));
  ASSERT_EQ(data.test.size(), 1u);
  EXPECT_FALSE(data.test[0].data.has_labels());
  EXPECT_THAT(data.metrics, IsEmpty());  // those of the task

  // A task without labels reads none, wherever one stands and where there is none.
  const TaskData texts = load_task_data(config, LabelKind::kNone, 3, {true, true, true});
  EXPECT_FALSE(texts.train.has_labels());
  EXPECT_TRUE(texts.class_counts.empty());
  config.train = config.test;
  config.validation_fraction = 0;
  EXPECT_EQ(load_task_data(config, LabelKind::kNone, 3).train.size(), 1u);
  EXPECT_THROW(load_task_data(config, LabelKind::kClass, 3), Error);
  config.train = (dir.path() / "train.csv").string();
  config.validation_fraction = 0.25;

  const TaskData only = load_task_data(config, LabelKind::kClass, 3, {false, true, false});
  EXPECT_TRUE(only.train.empty());
  EXPECT_EQ(only.validation[0].data[0].text, data.validation[0].data[0].text);
}

TEST(Notes, Classes) {
  using Counts = std::map<std::string, int64_t>;
  const auto notes = [](const Counts& counts) { return class_notes("t.tsv", counts, false); };
  EXPECT_TRUE(notes({{"yes", 5}, {"no", 9}}).empty());
  EXPECT_THAT(notes({{"Technik", 58}, {"technik", 1}, {"b", 7}}),
              ElementsAre(HasSubstr("fewer than 5 examples: `technik` (1)"),
                          HasSubstr("case or spaces: `Technik` (58), `technik` (1)")));
  EXPECT_THAT(notes({{"STRASSE", 9},
                     {"stra\xC3\x9F"
                      "e",
                      9},
                     {"a b", 9},
                     {"a  b", 9}}),
              ElementsAre(HasSubstr("`a  b` (9), `a b` (9)"), HasSubstr("`STRASSE` (9)")));
  EXPECT_THAT(notes({{"a", 9}, {"b", 9}, {"a|b", 6}}), ElementsAre(HasSubstr("several in one")));
  EXPECT_TRUE(notes({{"Lob, Kritik", 9}, {"Frage", 9}}).empty());
  Counts values, codes;
  for (int i = 0; i < 21; ++i) {
    values[std::to_string(i) + ".5"] = 9;
    codes[std::to_string(i)] = 9;
  }
  EXPECT_THAT(error_text(ErrorCode::kData, [&] { notes(values); }), HasSubstr("set task.type to regression"));
  EXPECT_TRUE(class_notes("t.tsv", values, true).empty());
  EXPECT_THAT(notes(codes), ElementsAre(HasSubstr("the 21 classes are numbers")));
  EXPECT_THAT(notes({{"0", 9}, {"0.0", 9}, {"1", 9}, {"a", 9}}),
              ElementsAre(HasSubstr("the same number: `0` (9), `0.0` (9)")));
  Counts texts;
  for (int i = 0; i < 30; ++i) texts["text " + std::to_string(i)] = 1 + i / 29;
  EXPECT_THAT(notes(texts), Contains(HasSubstr("nearly every example is a class of its own (30 classes")));
  EXPECT_THAT(notes({{"0.5", 9}, {"1.0", 9}}), ElementsAre(HasSubstr("if they are amounts")));
}

TEST(Notes, EqualTextsAcrossASplitAndWithDifferentLabels) {
  TemporaryDirectory dir;
  DataConfig config;
  config.train = dir.write("train.tsv", "text\tlabel\na\t1\n a \t0\nb\t1\nb\t1\nc\t0\n").string();
  config.validation = dir.write("dev.tsv", "text\tlabel\nb\t0\nc\t0\nd\t1\n").string();
  const TaskData data = load_task_data(config, LabelKind::kClass, 1);
  EXPECT_THAT(data.notes, Contains(AllOf(HasSubstr("1 training texts occur with different labels"),
                                         HasSubstr("train.tsv:2 is `1`, line 3 is `0`"))));
  EXPECT_THAT(data.notes, Contains(AllOf(HasSubstr("2 of 3 validation examples"),
                                         HasSubstr("1 of them with another label"), HasSubstr("dev.tsv:2"),
                                         HasSubstr("train.tsv:4"))));
}

TEST(Notes, SentencesAsClassesFillNoScreen) {
  TemporaryDirectory dir;
  std::vector<std::string> names;
  for (int i = 0; i < 300; ++i) names.push_back(std::string(200, 'a') + std::to_string(i));
  const auto file = dir.write("a.tsv", "text\tlabel\nx\tother\n");
  const Dataset data = read_table(file, spec_of(FileFormat::kTsv, "text", "label"));
  const LabelMap map = LabelMap::from_list(names);
  const std::string text = error_text(ErrorCode::kData, [&] { static_cast<void>(map.index_of(data, 0)); });
  EXPECT_THAT(text, AllOf(HasSubstr("none of the 300 known labels"), HasSubstr("more")));
  EXPECT_LT(text.size(), 800u);
}

TEST(Notes, OneColumnForTextAndLabel) {
  TemporaryDirectory dir;
  DataConfig config;
  config.train = dir.write("train.tsv", "text\tlabel\na\t1\nb\t0\n").string();
  EXPECT_THAT(load_task_data(config, LabelKind::kClass, 1).notes,
              testing::Not(Contains(HasSubstr("same column"))));
  config.text = "label";
  EXPECT_THAT(load_task_data(config, LabelKind::kClass, 1).notes,
              Contains(HasSubstr("data.text and data.label are the same column, `label`")));
}

TEST(LoadTaskData, ReportsAllContradictionsAtOnce) {
  DataConfig config;
  config.dir = "somewhere";
  config.labels = {"a", "a"};
  EXPECT_THAT(error_text(ErrorCode::kConfig, [&] { load_task_data(config, LabelKind::kNumber, 0); }),
              AllOf(HasSubstr("data.dir"), HasSubstr("data.train"), HasSubstr("data.labels"),
                    HasSubstr("named twice")));
  config = {};
  config.glue_task = "sts-b";
  EXPECT_THAT(error_text(ErrorCode::kConfig, [&] { load_task_data(config, LabelKind::kNumber, 0); }),
              HasSubstr("did you mean `stsb`?"));
  config.glue_task = "stsb";
  config.train = "x.tsv";
  EXPECT_THAT(
      error_text(ErrorCode::kConfig, [&] { load_task_data(config, LabelKind::kClass, 0); }),
      AllOf(HasSubstr("data.dir"), HasSubstr("brings its own files"), HasSubstr("is a regression task")));
}

// Counts by awk and grep over the same files.
TEST(RealData, Sst2AndCola) {
  const char* root = std::getenv("MSPLORA_DATA");
  if (root == nullptr) GTEST_SKIP() << "MSPLORA_DATA is not set";
  const std::filesystem::path dir(root);
  const Dataset sst2 = read_table(dir / "sst2" / "train.tsv", spec_of(FileFormat::kTsv, "0", "1"));
  EXPECT_EQ(sst2.size(), 6920u);
  EXPECT_THAT(sst2.label_counts(), ElementsAre(testing::Pair("0", 3310), testing::Pair("1", 3610)));
  EXPECT_EQ(read_table(dir / "sst2" / "dev.tsv", spec_of(FileFormat::kTsv, "0", "1")).size(), 872u);
  const Dataset cola = read_table(dir / "cola" / "in_domain_train.tsv", spec_of(FileFormat::kTsv, "3", "1"));
  EXPECT_EQ(cola.size(), 8551u);
  EXPECT_THAT(cola.label_counts(), ElementsAre(testing::Pair("0", 2528), testing::Pair("1", 6023)));
  EXPECT_EQ(cola[0].text, "Our friends won't buy this analysis, let alone the next one we propose.");
  const auto rest = read_table(dir / "cola" / "out_of_domain_dev.tsv", spec_of(FileFormat::kTsv, "3", "1"));
  EXPECT_EQ(rest.size(), 516u);
}

}  // namespace
}  // namespace msplora
