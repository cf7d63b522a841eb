#include "msplora/data/glue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>

#include "error_text.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// The layout of each task with one row of our own in every file. Header names are those of the published
// files.
struct Layout {
  const char* task;
  const char* train;
  const char* test;
  const char* text;
  const char* pair;
  const char* label;
};

const Layout kLayouts[] = {
    {"cola", "src1\t0\t*\tThe cat sat mat.\n", "index\tsentence\n0\tThe cat sat.\n", "The cat sat mat.", "",
     "0"},
    {"sst2", "sentence\tlabel\na fine \"film\" \t1\n", "index\tsentence\n0\tdull\n", "a fine \"film\" ", "",
     "1"},
    {"mrpc",
     "\xEF\xBB\xBFQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t11\t12\tHe said so.\tSo he said.\r\n",
     "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t3\t4\tX\tY\n", "He said so.", "So he said.", "1"},
    {"stsb",
     "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
     "0\tcaptions\tf\t2012\t1\tnone\tnone\tA dog runs.\tA cat runs.\t2.250\n",
     "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\n"
     "0\tcaptions\tf\t2012\t1\tnone\tnone\tX\tY\n",
     "A dog runs.", "A cat runs.", "2.250"},
    {"qqp", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n5\t6\t7\tWhat is it?\tWhat's it?\t1\n",
     "id\tquestion1\tquestion2\n0\tX\tY\n", "What is it?", "What's it?", "1"},
    {"qnli", "index\tquestion\tsentence\tlabel\n0\tWho came?\tThe man came.\tentailment\n",
     "index\tquestion\tsentence\n0\tX\tY\n", "Who came?", "The man came.", "entailment"},
    {"rte", "index\tsentence1\tsentence2\tlabel\n0\tIt rains.\tIt is wet.\tnot_entailment\n",
     "index\tsentence1\tsentence2\n0\tX\tY\n", "It rains.", "It is wet.", "not_entailment"},
    {"wnli", "index\tsentence1\tsentence2\tlabel\n0\tTom saw Tim.\tTim was seen.\t1\n",
     "index\tsentence1\tsentence2\n0\tX\tY\n", "Tom saw Tim.", "Tim was seen.", "1"},
};

TEST(Glue, ReadsEveryTaskInItsLayout) {
  for (const Layout& layout : kLayouts) {
    SCOPED_TRACE(layout.task);
    TemporaryDirectory dir;
    dir.write("train.tsv", layout.train);
    dir.write("dev.tsv", layout.train);
    dir.write("test.tsv", layout.test);
    const GlueTask& task = glue_task(layout.task);
    const TaskData data = load_glue(task, dir.path(), {true, true, true});
    ASSERT_EQ(data.train.size(), 1u);
    EXPECT_EQ(data.train[0].text, layout.text);
    EXPECT_EQ(data.train[0].text_pair, layout.pair);
    EXPECT_EQ(data.train[0].has_pair, *layout.pair != '\0');
    EXPECT_EQ(data.train[0].label, layout.label);
    if (!task.labels.empty()) {
      EXPECT_THAT(task.labels, testing::Contains(layout.label));
    }
    ASSERT_EQ(data.validation.size(), 1u);
    EXPECT_EQ(data.validation[0].name, "validation");
    ASSERT_EQ(data.test.size(), 1u);
    EXPECT_FALSE(data.test[0].data.has_labels());
    EXPECT_EQ(data.test[0].data[0].has_pair, data.train[0].has_pair);
  }
}

TEST(Glue, MnliHasTwoDevSetsAndTakesTheGoldLabel) {
  const std::string columns = "index\tpromptID\tpairID\tgenre\tp1\tp2\tp3\tp4\tsentence1\tsentence2\t";
  const std::string row = "0\t1\t1n\tfiction\t.\t.\t.\t.\tShe left.\tShe stayed.\t";
  TemporaryDirectory dir;
  dir.write("train.tsv",
            columns + "label1\tgold_label\n" + row + "neutral\tcontradiction\n" + row + "neutral\t-\n");
  const std::string dev = columns + "label1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n" + row +
                          "neutral\tneutral\tentailment\tentailment\tneutral\tneutral\n";
  dir.write("dev_matched.tsv", dev);
  dir.write("dev_mismatched.tsv", dev);
  const TaskData data = load_glue(glue_task("mnli"), dir.path(), {true, true, false});
  ASSERT_EQ(data.train.size(), 1u);  // "-" is no label
  EXPECT_THAT(data.train.notes(), ElementsAre(HasSubstr("1 incomplete rows left out, the first in line 3")));
  EXPECT_EQ(data.train[0].label, "contradiction");
  ASSERT_EQ(data.validation.size(), 2u);
  EXPECT_EQ(data.validation[0].name, "validation_matched");
  EXPECT_EQ(data.validation[1].name, "validation_mismatched");
  EXPECT_EQ(data.validation[1].data[0].label, "neutral");
  EXPECT_EQ(data.validation[1].data[0].text_pair, "She stayed.");
}

TEST(Glue, BrokenRowsAreLeftOutAndCounted) {
  TemporaryDirectory dir;
  const auto file = dir.write("train.tsv",
                              "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
                              "1\t2\t3\tA?\tB?\t0\nbroken\t4\n1\t2\t3\tC?\tD?\t1\n");
  const Dataset data = read_glue_file(glue_task("qqp"), file, true);
  EXPECT_EQ(data.size(), 2u);
  EXPECT_THAT(data.notes(), ElementsAre(HasSubstr("1 incomplete rows left out, the first in line 3")));
}

TEST(Glue, MrpcFromTheOriginalFiles) {
  TemporaryDirectory dir;
  dir.write("msr_paraphrase_train.txt",
            "\xEF\xBB\xBFQuality\t#1 ID\t#2 ID\t#1 String\t#2 "
            "String\n1\t1\t2\ta\tb\n0\t3\t4\tc\td\n1\t5\t6\te\tf\n");
  dir.write("msr_paraphrase_test.txt",
            "\xEF\xBB\xBFQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tg\th\n");
  dir.write("dev_ids.tsv", "3\t4\n");
  const TaskData data = load_glue(glue_task("mrpc"), dir.path(), {true, true, true});
  EXPECT_EQ(data.train.size(), 2u);
  ASSERT_EQ(data.validation[0].data.size(), 1u);
  EXPECT_EQ(data.validation[0].data[0].text, "c");
  EXPECT_EQ(data.test[0].data[0].text_pair, "h");
}

TEST(Glue, WrongFoldersAreNamed) {
  TemporaryDirectory dir;
  dir.write("RTE/train.tsv", "index\tsentence1\tsentence2\tlabel\n");
  EXPECT_THAT(error_text(ErrorCode::kIo,
                         [&] {
                           load_glue(glue_task("rte"), dir.path(), {true, false, false});
                         }),
              AllOf(HasSubstr("train.tsv"), HasSubstr("set data.dir to")));
  EXPECT_THAT(error_text(ErrorCode::kData,
                         [&] {
                           load_glue(glue_task("rte"), dir.path() / "RTE", {true, false, false});
                         }),
              HasSubstr("no examples"));
  EXPECT_THAT(error_text(ErrorCode::kData,
                         [&] {
                           load_glue(glue_task("stsb"), dir.path() / "RTE", {true, false, false});
                         }),
              AllOf(HasSubstr("train.tsv:1"), HasSubstr("header of GLUE task `stsb`")));
  EXPECT_THROW(load_glue(glue_task("rte"), dir.path() / "none", {}), Error);
  EXPECT_EQ(glue_task_names().size(), 9u);
}

}  // namespace
}  // namespace msplora
