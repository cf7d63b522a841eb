// The round loop against training without a server.
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "federated/tiny_federation.h"
#include "msplora/adapters/files.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using testing::HasSubstr;

/// What Trainer makes of the same examples, from the same start, without a server.
std::vector<at::Tensor> trained_alone(TinyFederation& run, const std::vector<TokenizedExample>& examples,
                                      uint64_t adapter_seed, uint64_t train_seed, bool trains_down = true) {
  TrainOptions options = run.train;
  options.seed = static_cast<int64_t>(train_seed);
  const auto adapter = create_adapter(run.adapter, target_of(*run.model), adapter_seed);
  BatchOptions batches = batch_options(options);
  batches.shuffle = run.shuffle;
  TrainingData data(*run.task, *run.model, all_of(examples), batches);
  TrainerSetup setup;
  setup.options = options;
  setup.keeps_checkpoints = false;
  setup.adapter = adapter.get();
  for (const TrainableTensor& entry : adapter->trainable()) {
    const bool is_down = entry.name.find("lora_A") != std::string::npos;
    if (is_down && !trains_down) at::Tensor(entry.tensor).requires_grad_(false);
    if (!is_down || trains_down) setup.trainable.push_back(entry);
  }
  Trainer(std::move(setup), data).run();
  return effects_of(*adapter);
}

class EveryRoundLoop : public testing::TestWithParam<const char*> {};

TEST_P(EveryRoundLoop, OneClientEqualsLocalTraining) {
  const std::string name = GetParam();
  TinyFederation run(name, 0.1);
  run.options.clients = 1;
  run.options.rounds = 1;
  Federation& federation = run.start();
  federation.run();
  const auto together = effects_of(*federation.global_adapter());

  TinyFederation alone(name, 0.1);
  alone.options.clients = 1;
  const uint64_t seed = client_seed(3, 1, 0);
  const auto expected =
      trained_alone(alone, alone.make_clients()[0].train, name == "flora" ? seed : 3, seed, name != "ffa");
  EXPECT_LT(largest_difference(together, expected), 2e-6);
  for (size_t site = 0; site < 6; ++site) EXPECT_GT(expected[site].abs().max().item<double>(), 1e-4);
  EXPECT_LT(run.reports[0].aggregation.error, 1e-6);
}

TEST_P(EveryRoundLoop, EqualClientsAreOne) {
  const auto effects = [&](int64_t count) {
    TinyFederation run(GetParam());
    run.options.clients = count;
    run.equal_clients = true;
    run.examples_each = 12;
    run.shuffle = false;  // else the clients' own seeds give them different batches
    Federation& federation = run.start();
    federation.run();
    return effects_of(*federation.global_adapter());
  };
  // FLoRA's clients draw an A of their own, so that equal data does not make them equal.
  if (std::string(GetParam()) == "flora") GTEST_SKIP();
  // FlexLoRA re-factorises: the same product, other factors, so that rounding grows over the second round.
  EXPECT_LT(largest_difference(effects(1), effects(4)), 1e-4);
}

TEST_P(EveryRoundLoop, TheGlobalAdapterIsWhatWasEvaluated) {
  TinyFederation run(GetParam());
  run.options.rounds = 5;  // what FLoRA's clients stack up is then of a larger rank than the modules
  run.options.fraction = 0.67;
  run.options.held_out = 0.2;
  run.validate = true;
  Federation& federation = run.start();
  federation.run();
  const RoundReport& last = run.reports.back();
  const auto score = [&] {
    return Evaluator(*run.task, *run.model, all_of(run.validation)).run().value("loss");
  };
  TemporaryDirectory directory;
  {
    const auto adapter = federation.global_adapter();
    EXPECT_NEAR(score(), last.global->value("loss"), 1e-4);
    save_peft_adapter(*adapter, directory.path() / "peft");
    save_native_adapter(*adapter, directory.path() / "native");
  }
  for (const char* form : {"peft", "native"}) {
    const auto loaded = load_adapter(directory.path() / form, target_of(*run.model));
    EXPECT_NEAR(score(), last.global->value("loss"), 1e-4) << form;
  }
  ASSERT_TRUE(last.client_scores.has_value());
  EXPECT_EQ(last.client_scores->values.size(), 3U);
  EXPECT_LE(last.client_scores->worst, last.client_scores->mean);
}

TEST_P(EveryRoundLoop, TheBaseStaysAsItIs) {
  TinyFederation run(GetParam());
  std::map<std::string, at::Tensor> before;
  for (const Parameter& parameter : run.model->parameters()) {
    if (!parameter.name.starts_with("classifier")) before[parameter.name] = parameter.values().clone();
  }
  run.start().run();
  for (const Parameter& parameter : run.model->parameters()) {
    if (before.contains(parameter.name)) {
      EXPECT_TRUE(at::equal(parameter.values(), before[parameter.name])) << parameter.name;
    }
  }
  for (const Site& site : run.model->sites()) EXPECT_EQ(site.linear->update, nullptr) << site.path;
}

INSTANTIATE_TEST_SUITE_P(Names, EveryRoundLoop,
                         testing::Values("fedit", "ffa", "flora", "flexlora", "fedex", "lora_fair"),
                         [](const auto& info) { return std::string(info.param); });

/// One step of gradient descent for each client, with all of its examples.
void configure_one_step(TinyFederation& run, const std::string& optimizer) {
  run.options.rounds = 1;
  run.train.optimizer = optimizer;
  run.train.lr = optimizer == "sgd" ? 0.5 : 1e-2;
  run.train.max_steps = 1;
  run.train.batch_size = 1000;
  run.train.clip_norm = 0.0;
  run.train.schedule = "constant";
}

/// How far a round of FFA is from a step on all examples together, relative to the size of that step.
double ffa_distance_from_pooled_step(const std::string& optimizer) {
  TinyFederation run("ffa");
  configure_one_step(run, optimizer);
  Federation& federation = run.start();
  const std::vector<at::Tensor> before = effects_of(*federation.global_adapter());
  federation.run();
  const auto together = effects_of(*federation.global_adapter());

  TinyFederation pooled("ffa");
  configure_one_step(pooled, optimizer);
  std::vector<TokenizedExample> all;
  for (const ClientData& client : pooled.make_clients()) {
    all.insert(all.end(), client.train.begin(), client.train.end());
  }
  const auto expected = trained_alone(pooled, all, 3, 99, /*trains_down=*/false);
  return largest_difference(together, expected) / largest_difference(before, expected);
}

TEST(Federation, AnFfaRoundOfOneSgdStepIsAStepOnThePooledData) {
  EXPECT_LT(ffa_distance_from_pooled_step("sgd"), 1e-4);
  // AdamW's first step is the sign of each client's gradient: its mean is not the sign of the mean gradient.
  EXPECT_GT(ffa_distance_from_pooled_step("adamw"), 0.05);
}

TEST(Federation, AggregationErrorsOfRealTraining) {
  std::map<std::string, AggregationError> errors;
  for (const char* name : {"fedit", "ffa", "flora", "flexlora", "fedex", "lora_fair"}) {
    TinyFederation run(name);
    // After one round A has moved little; the second shows the difference.
    run.train.epochs = 4;
    run.start().run();
    errors[name] = run.reports[1].aggregation;
  }
  TinyFederation first_fedit("fedit"), first_fair("lora_fair");
  set_option(first_fair.options, "fair.lambda", 1e-3, "federated");
  first_fedit.start().run_round();
  first_fair.start().run_round();
  const double averaging = first_fedit.reports[0].aggregation.error;
  EXPECT_GT(averaging, 1e-3);
  EXPECT_LT(first_fair.reports[0].aggregation.error, averaging);
  for (size_t i = 0; i < first_fair.reports[0].layers.size(); ++i) {
    EXPECT_LE(first_fair.reports[0].layers[i].error, first_fedit.reports[0].layers[i].error);
  }
  for (const char* exact : {"ffa", "flora", "fedex"}) EXPECT_LT(errors[exact].error, 1e-12) << exact;
  for (const char* not_exact : {"fedit", "flexlora", "lora_fair"}) EXPECT_GT(errors[not_exact].error, 1e-4);
  EXPECT_EQ(errors["fedit"].correction, 0.0);
  EXPECT_GT(errors["lora_fair"].correction, 0.0);
}

TEST(Federation, LearnsOverTheRounds) {
  TinyFederation run("lora_fair");
  run.options.rounds = 8;
  run.train.epochs = 3;
  run.examples_each = 60;
  run.start().run();
  EXPECT_LT(run.reports.back().train_loss, 0.8 * run.reports.front().train_loss);
}

TEST(Federation, MixedRanks) {
  for (const char* name : {"flora", "flexlora"}) {
    TinyFederation run(name);
    run.options.client_ranks = {6, 1, 3};
    Federation& federation = run.start();
    federation.run();
    EXPECT_EQ(federation.state().pairs[0].rank(), 6) << name;
    EXPECT_LT(run.reports[0].aggregation.error, std::string(name) == "flora" ? 1e-12 : 0.9);
    EXPECT_TRUE(federation.global_adapter() != nullptr);
    // 4 bytes for each number of factors of rank r between 32 inputs and 32 outputs, in 6 modules.
    for (const ClientTraffic& entry : run.reports[0].traffic) {
      const int64_t rank = run.options.client_ranks[static_cast<size_t>(entry.client)];
      EXPECT_EQ(entry.up.adapter, 6 * rank * 64 * 4);
    }
  }
}

TEST(Federation, MsploraFactorsCanBeAveraged) {
  TinyFederation run("fedit");
  run.adapter.method = "msplora";
  run.adapter.levels = 3;
  Federation& federation = run.start();
  federation.run();
  // query and value: one global pair, three mid pairs, three layer pairs of ranks 4, 2, 1.
  EXPECT_EQ(federation.state().pairs.size(), 14U);
  EXPECT_EQ(run.reports[0].traffic[0].up.adapter, 2 * (4 + 3 * 2 + 3 * 1) * 64 * 4);
  EXPECT_GT(run.reports[1].aggregation.norm, 0.0);
}

TEST(Federation, AClientThatIsNotFiniteIsLeftOut) {
  TinyFederation run("lora_fair", 0.0, /*is_regression=*/true);
  run.clients = run.make_clients();
  run.clients[1].train[3].target = 1e30;  // its square is not a float
  Federation& federation = run.start();
  federation.run();
  for (const RoundReport& report : run.reports) {
    EXPECT_THAT(report.clients, testing::ElementsAre(0, 2));
    ASSERT_EQ(report.rejected.size(), 1U);
    EXPECT_EQ(report.rejected[0].client, 1);
    EXPECT_THAT(report.rejected[0].reason, HasSubstr("loss"));
    EXPECT_NEAR(report.weights[0] + report.weights[1], 1.0, 1e-12);
  }
  for (const FactorPair& pair : federation.state().pairs) EXPECT_TRUE(pair.up.isfinite().all().item<bool>());
}

TEST(Federation, ARoundWithTooFewAnswersChangesNothing) {
  TinyFederation run("fedit", 0.0, /*is_regression=*/true);
  run.clients = run.make_clients();
  for (ClientData& client : run.clients) client.train[0].target = 1e30;
  Federation& federation = run.start();
  const at::Tensor before = federation.state().pairs[0].down.clone();
  EXPECT_TRUE(federation.run_round().skipped);
  EXPECT_TRUE(at::equal(before, federation.state().pairs[0].down));
  EXPECT_THROW(federation.run(), Error);  // no update in any round
  EXPECT_TRUE(to_json(run.reports[0])["aggregation"].is_null());
}

/// A client's change is s (B A - B0 A0) then, which is not what servers combine.
TEST(Federation, RefusesFactorsThatStartAsAPartOfTheWeight) {
  for (const char* init : {"pissa", "olora"}) {
    for (const char* aggregator : {"fedit", "ffa", "flora", "flexlora", "fedex", "lora_fair"}) {
      TinyFederation tiny(aggregator);
      tiny.adapter.init = init;
      try {
        tiny.start();
        FAIL() << init << " with " << aggregator;
      } catch (const Error& error) {
        EXPECT_THAT(error.what(),
                    testing::AllOf(HasSubstr("adapter.init"), HasSubstr(init), HasSubstr("B0 A0")));
      }
    }
  }
  for (const char* init : {"gaussian", "orthogonal"}) {
    TinyFederation tiny("fedit");
    tiny.adapter.init = init;
    tiny.start();
  }
}

TEST(Federation, ReportsAllContradictionsTogether) {
  TinyFederation run("lora_fair");
  run.adapter.method = "msplora";
  run.options.client_ranks = {4, 2};
  run.options.min_clients = 9;
  run.options.stop_at = 7;
  run.train.eval_every = 3;
  try {
    run.start();
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                testing::AllOf(HasSubstr("fedit"), HasSubstr("2 ranks for 3 clients"), HasSubstr("9 of 3"),
                               HasSubstr("stop_at"), HasSubstr("federated.eval_every")));
  }
}

TEST(Divide, SetsAsideWithoutLosingAny) {
  const auto examples = tiny_examples(40, 1);
  const Partition partition = partition_iid(40, 3, 5);
  const auto clients = divide(examples, partition, 0.25, 5);
  size_t count = 0;
  for (size_t k = 0; k < clients.size(); ++k) {
    EXPECT_EQ(clients[k].held_out.size(), partition[k].size() == 13 ? 3U : 4U);
    EXPECT_EQ(clients[k].rows.size(), clients[k].train.size());
    for (size_t i = 0; i < clients[k].rows.size(); ++i) {
      EXPECT_EQ(clients[k].train[i].ids, examples[clients[k].rows[i]].ids);
    }
    count += clients[k].train.size() + clients[k].held_out.size();
  }
  EXPECT_EQ(count, 40U);
  for (const ClientData& client : divide(examples, partition, 0.0, 5)) EXPECT_TRUE(client.held_out.empty());
}

}  // namespace
}  // namespace msplora
