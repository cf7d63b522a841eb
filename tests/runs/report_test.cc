#include "msplora/runs/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "error_text.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/runs/run.h"
#include "temporary_directory.h"
#include "train/tiny_run.h"

namespace msplora {
namespace {

using testing::HasSubstr;

RunReport some_report() {
  RunReport report;
  report.method = "lora";
  report.trainable = {30, 20, 1, 9, {{"0", 12}, {"1", 8}}};
  report.steps = 7;
  report.total_steps = 9;
  report.last_loss = 0.25;
  report.best_metric = "loss";
  report.best = MetricValues{{"loss", 0.5}, {"accuracy", 0.75}};
  report.best_step = 4;
  report.last = MetricValues{{"loss", 0.625}};
  report.test = MetricValues{{"accuracy", 0.5}};
  report.seconds = 1.5;
  report.tokens = 1000;
  report.adapters = {{"peft", "run/adapter"}};
  report.classes["test"] = {{"labels", {"no", "yes"}}};
  report.warnings = {"careful"};
  report.run = "run";
  return report;
}

std::string problem_of(const TemporaryDirectory& directory, const std::string& text) {
  write_file_atomically(directory.path() / "metrics.json", text);
  try {
    read_report(directory.path());
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFormat);
    return error.what();
  }
  return "no error";
}

TEST(RunReport, ComesBackFromItsFile) {
  const TemporaryDirectory directory;
  const auto json = to_json(some_report());
  write_file_atomically(directory.path() / "metrics.json", json.dump(2));
  const RunReport read = read_report(directory.path());
  EXPECT_EQ(to_json(read), json);
  EXPECT_EQ(read.trainable.adapter_by_level.at("1"), 8);
  EXPECT_EQ(*read.best, *some_report().best);  // in the order of the evaluation
  EXPECT_FALSE(read.rounds.has_value());
  EXPECT_FALSE(json.contains("rounds"));
  EXPECT_FALSE(json.contains("partition"));
  EXPECT_EQ(json.at("trainable_parameters").at("head"), 9);
}

TEST(RunReport, SaysThatThereWasNoEvaluationAndKeepsWhatIsNoNumber) {
  const TemporaryDirectory directory;
  RunReport report = some_report();
  report.best.reset();
  report.last_loss = std::nan("");
  const auto json = to_json(report);
  EXPECT_TRUE(json.at("best").is_null());
  write_file_atomically(directory.path() / "metrics.json", json.dump());
  const RunReport read = read_report(directory.path());
  EXPECT_FALSE(read.best.has_value());
  EXPECT_TRUE(std::isnan(*read.last_loss));
}

TEST(RunReport, ScoresAreOfTheTestDataFirst) {
  const RunReport report = some_report();
  EXPECT_EQ(report.score("accuracy")->value, 0.5);
  EXPECT_EQ(report.score("accuracy")->on, "test");
  EXPECT_EQ(report.score("loss")->value, 0.5);
  EXPECT_EQ(report.score("loss")->on, "validation");
  EXPECT_FALSE(report.score("f1").has_value());
}

TEST(RunReport, HasTheParametersByGroup) {
  const TemporaryDirectory directory;
  TinyRun run;
  const TrainingResult result = run.run(directory.path());
  const RunReport report = report_of(result, run.options, "by hand", run.trainable);
  const int64_t adapter = 3 * 2 * (4 * 32 + 32 * 4);
  const int64_t head = 32 * 32 + 32 + 2 * 32 + 2;
  EXPECT_EQ(report.trainable.adapter, adapter);
  EXPECT_EQ(report.trainable.head, head);
  EXPECT_EQ(report.trainable.total, adapter + head);
  EXPECT_EQ(report.steps, 18);
  EXPECT_EQ(report.best->front().first, report.best_metric);
  EXPECT_GT(report.peak_memory_bytes, 0);
}

TEST(RunReport, DamageIsNamedByItsKey) {
  const TemporaryDirectory directory;
  EXPECT_THROW(read_report(directory.path()), Error);
  EXPECT_THAT(problem_of(directory, "{"),
              HasSubstr("metrics.json: expected JSON, found an end at byte 1: it is cut short"));
  EXPECT_THAT(problem_of(directory, "[1]"), HasSubstr("expected a JSON object"));
  auto json = to_json(some_report());
  json.erase("steps");
  EXPECT_THAT(problem_of(directory, json.dump()), HasSubstr("metrics.json: steps: is missing"));
  json = to_json(some_report());
  json["trainable_parameters"]["total"] = "many";
  EXPECT_THAT(problem_of(directory, json.dump()), HasSubstr("metrics.json: trainable_parameters.total"));
  json = to_json(some_report());
  json["best"] = 3;
  EXPECT_THAT(problem_of(directory, json.dump()), HasSubstr("metrics.json: best"));
}

TEST(TestPairs, ComeBackAsTheyWere) {
  RunReport report;
  report.test_pairs = {{"test, matched", {{1, 0}, {2, 2}}}, {"other", {{0.1F, -1e-9F}}}};
  TemporaryDirectory directory;
  const auto file = directory.path() / "test.csv";
  write_file_atomically(file, test_pairs_csv(report));
  const std::vector<MetricPair> pairs = read_test_pairs(file);
  ASSERT_EQ(pairs.size(), 3u);
  EXPECT_EQ(pairs[0].prediction, 1.0F);
  EXPECT_EQ(pairs[0].target, 0.0F);
  EXPECT_EQ(pairs[2].prediction, 0.1F);
  EXPECT_EQ(pairs[2].target, -1e-9F);
  report.test_pairs.pop_back();
  report.classes["test, matched"] = {{"labels", {"no", "so, so", "say \"yes\"\nnow"}}};
  write_file_atomically(file, test_pairs_csv(report));
  EXPECT_EQ(read_file(file),
            "part,prediction,target,predicted label,label\n\"test, matched\",1,0,\"so, so\",no\n"
            "\"test, matched\",2,2,\"say \"\"yes\"\"\nnow\",\"say \"\"yes\"\"\nnow\"\n");
  EXPECT_EQ(read_test_pairs(file).at(1).target, 2.0F);
  // As earlier versions wrote it.
  write_file_atomically(file, "part,prediction,target\ntest, matched,1,0\n");
  EXPECT_EQ(read_test_pairs(file).at(0).prediction, 1.0F);
  write_file_atomically(file, "part,prediction,target\ntest,1\n");
  EXPECT_THAT(error_text([&] { read_test_pairs(file); }), HasSubstr("test.csv:2"));
  write_file_atomically(file, "test,1,1\n");
  EXPECT_THAT(error_text([&] { read_test_pairs(file); }), HasSubstr("header"));
}

}  // namespace
}  // namespace msplora
