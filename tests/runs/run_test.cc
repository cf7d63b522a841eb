// From a recipe to a run, and what is left of it on disk.
#include "msplora/runs/run.h"

#include <ATen/ops/allclose.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "error_text.h"
#include "msplora/adapters/files.h"
#include "msplora/core/error.h"
#include "msplora/core/file.h"
#include "msplora/runs/compare.h"
#include "msplora/runs/recipe_file.h"
#include "msplora/runs/tuned_model.h"
#include "runs/run_fixture.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

using Runs = RunFixture;

TEST_F(Runs, TrainEvaluateSaveAndUse) {
  msplora::Run run = open_run(recipe());
  EXPECT_FALSE(fs::exists(path("run/recipe.yaml")));
  const RunReport report = train(run);
  EXPECT_EQ(report.steps, 4);
  EXPECT_EQ(to_json(read_report(path("run"))), to_json(report));
  for (const char* file : {"recipe.yaml", "metrics.jsonl", "adapter/task.json", "adapter-native/task.json"})
    EXPECT_TRUE(fs::exists(path("run") + "/" + file)) << file;
  ASSERT_TRUE(report.test.has_value());
  EXPECT_TRUE(report.classes.contains("validation"));

  TunedModel tuned = open_tuned(path("base"), report.adapters.at("peft"));
  EXPECT_THAT((std::vector<std::string>{"good", "bad"}),
              testing::Contains(predict(tuned, {{"text", "the film was fine"}}).text()));
  EXPECT_THROW(predict(tuned, {{"txt", "the film was fine"}}), Error);
  EXPECT_THAT(error_text(ErrorCode::kUsage,
                         [&] {
                           predict(tuned, {{"text", "a"}, {"text_pair", "b"}});
                         }),
              HasSubstr("reads single texts"));
  tuned.facts.data.text_pair = "text_pair";
  predict(tuned, {{"text", "a"}, {"text_pair", "b"}});
  EXPECT_THAT(error_text(ErrorCode::kUsage,
                         [&] {
                           predict(tuned, {{"text", "a"}});
                         }),
              HasSubstr("reads pairs of texts"));
  tuned.facts.data.text_pair.reset();
  const Evaluation evaluation = evaluate(tuned, path("train.tsv"), tuned.facts.data);
  EXPECT_NEAR(evaluation.value("loss"), report.score("loss")->value, 1e-6);

  const MergedFiles merged = merge_into(std::move(tuned), path("base"), path("merged"), "auto");
  EXPECT_LT(merged.difference.largest, 1e-4);
  TunedModel alone = open_tuned(path("merged"));
  EXPECT_NEAR(evaluate(alone, path("train.tsv"), alone.facts.data).value("loss"), evaluation.value("loss"),
              1e-4);
}

/// Members are replaced one by one, the model before the adapter that was on it.
TEST_F(Runs, WhatHoldsAModelAndItsAdapterCanBeAssigned) {
  msplora::Run run = open_run(recipe());
  const RunReport report = train(run);
  Recipe again = recipe();
  again.output.dir = path("again");
  run = open_run(again);
  EXPECT_TRUE(run.adapter->attached());
  EXPECT_EQ(train(run).last_loss, report.last_loss);

  const auto answer = [](TunedModel& tuned) { return predict(tuned, {{"text", "the film was fine"}}).json; };
  TunedModel tuned = open_tuned(path("base"), report.adapters.at("native"));
  const auto expected = answer(tuned);
  tuned = open_tuned(path("base"), report.adapters.at("native"));
  EXPECT_EQ(answer(tuned), expected);
  tuned = TunedModel();
}

TEST_F(Runs, EverythingThatIsWrongIsSaidAtOnceAndNothingIsLeft) {
  Recipe wrong = recipe();
  wrong.adapter.rank = 99;
  wrong.train.best_metric = "acuracy";
  wrong.data.test = path("nowhere.tsv");
  try {
    open_run(wrong);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kConfig);
    EXPECT_THAT(error.what(), HasSubstr("2 problems"));
    EXPECT_THAT(error.what(), HasSubstr("99"));
    EXPECT_THAT(error.what(), HasSubstr("nowhere.tsv"));
  }
  EXPECT_FALSE(fs::exists(path("run")));
  wrong = recipe();
  wrong.train.best_metric = "acuracy";
  EXPECT_THROW(open_run(wrong), Error);
  wrong = recipe();
  wrong.data.label = "label2";
  try {
    open_run(wrong);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kData);  // a single problem keeps its kind
  }
}

TEST_F(Runs, ADirectoryIsRefusedWhileItIsUsedOrFull) {
  {
    const msplora::Run run = open_run(recipe());
    OutputOptions same = recipe().output;
    EXPECT_THROW(RunDirectory(same, /*resume=*/true), Error);
  }
  EXPECT_FALSE(fs::exists(path("run")));
}

TEST_F(Runs, OneThatBeginsAnewTakesEarlierResultsAway) {
  fs::create_directories(path("run/adapter"));
  fs::create_directories(path("run/mine"));
  write_file_atomically(path("run/metrics.json"), "{}");
  EXPECT_THROW(open_run(recipe()), Error);
  Recipe again = recipe();
  again.output.overwrite = true;
  EXPECT_THAT(foreign_results(path("run")), testing::ElementsAre("adapter", "metrics.json"));
  EXPECT_THROW(open_run(again), Error);  // no run has written them
  write_file_atomically(path("run/recipe.yaml"), to_yaml(again));
  const msplora::Run run = open_run(again);
  EXPECT_TRUE(fs::exists(path("run/metrics.json")));
  run.directory->begin("a: 1\n", /*resumed=*/true);
  EXPECT_TRUE(fs::exists(path("run/metrics.json")));
  run.directory->begin("a: 1\n", /*resumed=*/false);
  EXPECT_FALSE(fs::exists(path("run/metrics.json")));
  EXPECT_FALSE(fs::exists(path("run/adapter")));
  EXPECT_TRUE(fs::exists(path("run/mine")));
  EXPECT_EQ(read_file(path("run/recipe.yaml")), "a: 1\n");
}

TEST_F(Runs, PausedAndResumedIsTheUninterruptedOne) {
  Recipe whole = recipe();
  whole.output.dir = path("whole");
  msplora::Run at_once = open_run(whole);
  train(at_once);
  Recipe half = recipe();
  half.train.stop_at = 2;
  {
    msplora::Run first = open_run(half);
    EXPECT_TRUE(train(first).paused);
  }
  EXPECT_FALSE(fs::exists(path("run/metrics.json")));
  msplora::Run rest = open_run(recipe(), {.resume = true});
  train(rest);
  EXPECT_EQ(read_file(path("run/adapter-native/adapter.safetensors")),
            read_file(path("whole/adapter-native/adapter.safetensors")));
}

TEST_F(Runs, EveryTaskThatTheModelHasAHeadForIsTrained) {
  for (const TaskKind& kind : task_kinds()) {
    Recipe each = recipe();
    each.task.type = kind.name;
    each.output.dir = path("run-" + kind.name);
    if (kind.labels == LabelKind::kNumber) each.data.label = "score";
    if (kind.head == ModelTask::kCausalLm) {
      EXPECT_THROW(open_run(each), Error);  // BERT has no such head
      each.model.path = path("decoder");
    }
    msplora::Run run = open_run(each);
    const RunReport report = train(run);
    EXPECT_EQ(report.best_metric, run.data.task->metrics().front()) << kind.name;
    const std::string adapter =
        report.adapters.contains("peft") ? report.adapters.at("peft") : report.adapters.at("native");
    TunedModel tuned = open_tuned(each.model.path, adapter);
    EXPECT_EQ(tuned.facts.type, kind.name);
    const double loss = evaluate(tuned, path("train.tsv"), tuned.facts.data).value("loss");
    // Masks are drawn from the seed of the run, which a later evaluation does not know.
    EXPECT_NEAR(loss, report.score("loss")->value, kind.head == ModelTask::kMaskedLm ? 1.0 : 1e-4)
        << kind.name;
  }
}

TEST_F(Runs, FilesWithWeightsResumeAsTheyWouldHaveGoneOn) {
  write_file_atomically(path("more.tsv"), "text\tlabel\nthe film was dull\tbad\nthe walk was bright\tgood\n");
  DataFiles files;
  files.files = {{path("train.tsv"), 0.4}, {path("more.tsv"), 2.5}};
  std::vector<std::string> adapters;
  for (const bool pauses : {false, true}) {
    Recipe each = recipe();
    each.data.train = files;
    each.data.validation_fraction = 0;
    each.data.validation = path("train.tsv");
    each.train.max_steps = 11;
    each.output.dir = path(pauses ? "paused" : "whole");
    if (pauses) {
      each.train.stop_at = 5;
      msplora::Run first = open_run(each);
      EXPECT_TRUE(train(first).paused);
      each.train.stop_at = 0;
    }
    msplora::Run run = open_run(each, {.resume = pauses});
    EXPECT_EQ(train(run).steps, 11);
    adapters.push_back(read_file(each.output.dir + "/adapter-native/adapter.safetensors"));
  }
  EXPECT_TRUE(adapters[0] == adapters[1]);
}

TEST_F(Runs, SamplesAreWrittenAndChangeNothing) {
  std::vector<std::string> adapters, samples;
  for (const std::string name : {"without", "with", "paused"}) {
    Recipe each = recipe();
    each.model.path = path("decoder");
    each.task.type = "causal_lm";
    each.adapter.target_modules = {"q_proj", "k_proj", "v_proj", "o_proj"};
    each.train.eval_every = 2;
    each.output.dir = path(name);
    if (name != "without") {
      each.train.samples.prompts = {"the film", "the walk was"};
      each.train.samples.max_new_tokens = 5;
    }
    if (name == "paused") {
      each.train.stop_at = 3;
      msplora::Run first = open_run(each);
      train(first);
      each.train.stop_at = 0;
    }
    msplora::Run run = open_run(each, {.resume = name == "paused"});
    train(run);
    adapters.push_back(read_file(each.output.dir + "/adapter-native/adapter.safetensors"));
    EXPECT_EQ(fs::exists(path(name) + "/samples.jsonl"), name != "without");
    if (name != "without") samples.push_back(read_file(path(name) + "/samples.jsonl"));
  }
  EXPECT_TRUE(adapters[0] == adapters[1]);
  EXPECT_TRUE(adapters[0] == adapters[2]);
  EXPECT_EQ(samples[0], samples[1]);
  std::istringstream lines(samples[0]);
  std::vector<int64_t> steps;
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    steps.push_back(json["step"]);
    EXPECT_THAT(json["prompt"], testing::AnyOf("the film", "the walk was"));
    EXPECT_LE(json["tokens"], 5);
  }
  EXPECT_THAT(steps, testing::ElementsAre(0, 0, 2, 2, 4, 4));
}

// Such a file says neither task nor modules, and has alpha in its factors: the run starts as the same model.
TEST_F(Runs, OneGoesOnFromAGgufAdapter) {
  Recipe first = recipe();
  first.model.path = path("decoder");
  first.task.type = "causal_lm";
  first.adapter.method = "lora";
  first.adapter.rank = 3;
  first.adapter.target_modules = {"q_proj", "k_proj", "down_proj"};
  first.train.lr = 1e-2;
  first.output.dir = path("first");
  msplora::Run run = open_run(first);
  train(run);
  save_gguf_adapter(*run.adapter, GgufType::kF32, path("first.gguf"));

  const auto file = [&](const std::string& name, const std::string& adapter) {
    write_file_atomically(path(name + ".yaml"),
                          "model: {path: " + path("decoder") +
                              "}\ntask: {type: causal_lm}\ndata: {train: " + path("train.tsv") +
                              ", validation_fraction: 0.25}\nadapter: {init_from: " + path("first.gguf") +
                              adapter + "}\ntrain: {max_steps: 5, batch_size: 8, lr: 0.01}\n" +
                              "output: {tensorboard: false, dir: " + path(name) + "}\n");
    return path(name + ".yaml");
  };
  msplora::Run next = open_run(load_recipe(file("next", "")));
  const Adapter &from = *run.adapter, &to = *next.adapter;
  ASSERT_EQ(to.sites().size(), 9U);
  EXPECT_EQ(next.planned->total, from.trainable_count(ParameterGroup::kAdapter));
  for (size_t i = 0; i < 9; ++i) {
    EXPECT_EQ(to.sites()[i].path, from.sites()[i].path);
    const at::Tensor wanted = from.change_of(i).weight, found = to.change_of(i).weight;
    EXPECT_GT(wanted.abs().max().item<float>(), 1e-4);
    EXPECT_TRUE(at::allclose(found, wanted, /*rtol=*/1e-5, /*atol=*/1e-7)) << from.sites()[i].path;
  }
  const at::Tensor before = to.change_of(0).weight.clone();
  EXPECT_EQ(train(next).steps, 5);
  EXPECT_FALSE(at::allclose(to.change_of(0).weight, before));

  // What it wrote says it all, and gives the same run.
  msplora::Run again =
      open_run(load_recipe(path("next/recipe.yaml"), {.overrides = {"output.dir=" + path("again")}}));
  EXPECT_EQ(again.recipe.adapter.target_modules, next.recipe.adapter.target_modules);
  train(again);
  EXPECT_EQ(learned("again"), learned("next"));
  EXPECT_THAT(error_text(ErrorCode::kConfig,
                         [&] { open_run(load_recipe(file("other", ", target_modules: [q_proj]"))); }),
              HasSubstr("adapter.target_modules: [q_proj], but the adapter in"));
}

// The names that a run refuses to write over are those that it writes.
TEST_F(Runs, EveryNameThatIsWrittenIsKnown) {
  Recipe each = recipe();
  each.model.path = path("decoder");
  each.task.type = "causal_lm";
  each.adapter.target_modules = {"q_proj", "v_proj"};
  each.output.tensorboard = true;
  each.train.save_every = 2;
  each.train.eval_every = 2;
  each.train.samples.prompts = {"the film"};
  msplora::Run run = open_run(each);
  train(run);
  fs::remove(path("run/recipe.yaml"));  // so that they are foreign results
  std::vector<std::string> written;
  for (const fs::directory_entry& entry : fs::directory_iterator(path("run")))
    written.push_back(entry.path().filename().string());
  EXPECT_GE(written.size(), 6U);
  EXPECT_THAT(foreign_results(path("run")), testing::UnorderedElementsAreArray(written));
}

TEST_F(Runs, ComparisonsCanRunInThisProcess) {
  CompareRecipe comparing;
  static_cast<Recipe&>(comparing) = recipe();
  comparing.output.dir = path("compared");
  comparing.train.max_steps = 2;
  comparing.compare.methods = {"lora", "none"};
  comparing.compare.seeds = 1;
  const ComparisonRun run = open_run(comparing);
  const Comparison comparison = run_comparison(
      run.plan, [](const PlannedRun& planned) { return train_planned(planned, in_this_process()); });
  ASSERT_EQ(comparison.rows.size(), 2U);
  for (const ComparisonRow& row : comparison.rows) {
    EXPECT_EQ(row.failed, 0) << row.runs.front().error;
    EXPECT_TRUE(row.mean.has_value());
  }
}

}  // namespace
}  // namespace msplora
