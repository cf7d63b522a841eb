#include "msplora/data/batching.h"
#include "msplora/data/examples.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>
#include <vector>

#include "error_text.h"
#include "msplora/core/error.h"
#include "msplora/core/random.h"

namespace msplora {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

using Batches = std::vector<std::vector<uint32_t>>;

Batches to_vectors(const BatchList& list) {
  Batches batches;
  for (size_t i = 0; i < list.size(); ++i) batches.emplace_back(list[i].begin(), list[i].end());
  return batches;
}

std::vector<uint32_t> random_lengths(uint64_t seed) {
  RandomStream random(seed, "lengths");
  std::vector<uint32_t> lengths(random.below(700));
  for (uint32_t& length : lengths)
    length = 1 + static_cast<uint32_t>(random.below(random.below(8) == 0 ? 300 : 30));
  return lengths;
}

BatchOptions random_options(uint64_t seed) {
  RandomStream random(seed, "options");
  BatchOptions options;
  options.seed = seed;
  options.batch_size = static_cast<int64_t>(random.below(3) == 0 ? 0 : 1 + random.below(40));
  options.token_budget =
      options.batch_size == 0 || random.below(2) == 0 ? static_cast<int64_t>(1 + random.below(600)) : 0;
  options.shuffle = random.below(4) != 0;
  options.bucket = random.below(4) != 0;
  options.window_batches = static_cast<int64_t>(1 + random.below(60));
  return options;
}

void expect_valid(const Batches& batches, const std::vector<uint32_t>& lengths, const BatchOptions& options) {
  std::vector<uint32_t> all;
  for (const auto& batch : batches) {
    ASSERT_FALSE(batch.empty());
    uint64_t tokens = 0;
    for (const uint32_t index : batch) tokens += lengths[index];
    if (options.batch_size > 0) {
      EXPECT_LE(batch.size(), static_cast<size_t>(options.batch_size));
    }
    if (options.token_budget > 0 && batch.size() > 1) {
      EXPECT_LE(tokens, static_cast<uint64_t>(options.token_budget));
    }
    all.insert(all.end(), batch.begin(), batch.end());
  }
  std::sort(all.begin(), all.end());
  ASSERT_EQ(all.size(), lengths.size());
  for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], i);
}

TEST(BatchPlan, EveryEpochIsAPermutationWithinTheLimits) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    const std::vector<uint32_t> lengths = random_lengths(seed);
    const BatchOptions options = random_options(seed);
    const BatchPlan plan(lengths, options);
    const Batches first = to_vectors(plan.epoch(0)), second = to_vectors(plan.epoch(1));
    expect_valid(first, lengths, options);
    expect_valid(second, lengths, options);
    expect_valid(to_vectors(plan.sequential()), lengths, options);
    EXPECT_EQ(plan.count_batches(2), first.size() + second.size());
    EXPECT_EQ(to_vectors(BatchPlan(lengths, options).epoch(1)), second);
  }
}

TEST(BatchPlan, EpochsAndSeedsDiffer) {
  const std::vector<uint32_t> lengths(200, 5);
  BatchOptions options;
  options.batch_size = 8;
  const BatchPlan plan(lengths, options);
  options.seed = 1;
  const BatchPlan other(lengths, options);
  EXPECT_NE(to_vectors(plan.epoch(0)), to_vectors(plan.epoch(1)));
  EXPECT_NE(to_vectors(plan.epoch(0)), to_vectors(other.epoch(0)));
  options.shuffle = false;
  const BatchPlan fixed(lengths, options);
  EXPECT_EQ(to_vectors(fixed.epoch(0)), to_vectors(fixed.epoch(7)));
}

TEST(BatchPlan, BucketsHoldSimilarLengths) {
  std::vector<uint32_t> lengths;
  for (uint32_t i = 0; i < 8000; ++i) lengths.push_back(1 + i % 100);
  const auto spread = [&lengths](const BatchList& list) {
    uint64_t sum = 0;
    for (size_t b = 0; b < list.size(); ++b) {
      const auto [low, high] = std::minmax_element(
          list[b].begin(), list[b].end(), [&](uint32_t x, uint32_t y) { return lengths[x] < lengths[y]; });
      sum += lengths[*high] - lengths[*low];
    }
    return sum / list.size();
  };
  BatchOptions options;
  options.batch_size = 20;
  EXPECT_LE(spread(BatchPlan(lengths, options).epoch(0)), 2u);  // windows of 50 sorted batches
  options.bucket = false;
  EXPECT_GE(spread(BatchPlan(lengths, options).epoch(0)), 70u);
}

// Sorted as a whole, four in five of these batches would hold one length alone.
TEST(BatchPlan, FewExamplesMeetOthersOfAnyLength) {
  std::vector<uint32_t> lengths;
  for (uint32_t i = 0; i < 320; ++i) lengths.push_back(10 + 7 * (i % 5));
  BatchOptions options;
  options.batch_size = 16;
  const BatchList batches = BatchPlan(lengths, options).epoch(0);
  for (size_t b = 0; b < batches.size(); ++b) {
    std::set<uint32_t> kinds;
    for (const uint32_t index : batches[b]) kinds.insert(lengths[index]);
    EXPECT_GE(kinds.size(), 2u) << "batch " << b;
  }
  EXPECT_EQ(batches.size(), 20u);
}

TEST(BatchPlan, OnlyTheLastWindowMayHoldAShortBatch) {
  BatchOptions options;
  options.batch_size = 16;
  options.window_batches = 4;
  const BatchList batches = BatchPlan(random_lengths(3), options).epoch(0);
  size_t partial = 0;
  for (size_t i = 0; i < batches.size(); ++i) partial += batches[i].size() != 16;
  EXPECT_LE(partial, 1u);
}

TEST(BatchPlan, LongSequencesGetABatchOfTheirOwn) {
  BatchOptions options;
  options.token_budget = 10;
  options.shuffle = false;
  options.bucket = false;
  EXPECT_EQ(to_vectors(BatchPlan({4, 6, 1, 25, 3, 7, 1}, options).epoch(0)),
            (Batches{{0, 1}, {2}, {3}, {4, 5}, {6}}));
  EXPECT_EQ(to_vectors(BatchPlan({4, 6, 1, 25}, options).sequential()), (Batches{{3}, {1, 0}, {2}}));
}

TEST(BatchPlan, RefusesMissingAndSurvivesHugeLimits) {
  BatchOptions options;
  EXPECT_THROW(BatchPlan({1}, options), Error);
  options.token_budget = -1;
  EXPECT_THROW(BatchPlan({1}, options), Error);
  options.batch_size = options.token_budget = options.window_batches = INT64_MAX;
  const std::vector<uint32_t> lengths = {3, 1, 2};
  expect_valid(to_vectors(BatchPlan(lengths, options).epoch(0)), lengths, options);
  EXPECT_EQ(BatchPlan({}, options).epoch(0).size(), 0u);
  EXPECT_EQ(BatchPlan({}, options).sequential().size(), 0u);
}

TEST(Pack, LaysExamplesEndToEnd) {
  std::vector<TokenizedExample> examples = {
      {{1, 2, 3}, {}, 1, 0.5}, {{4, 5}, {0, 1}, 0, -1.5}, {{6}, {}, kIgnoredLabel, 0.0}};
  EXPECT_THAT(lengths_of(all_of(examples)), ElementsAre(3, 2, 1));
  const Batch batch =
      pack(std::vector<TokenizedExample>{examples[1], examples[0]}, std::vector<uint32_t>{1, 0});
  EXPECT_THAT(batch.input_ids, ElementsAre(4, 5, 1, 2, 3));
  EXPECT_THAT(batch.token_type_ids, ElementsAre(0, 1, 0, 0, 0));
  EXPECT_THAT(batch.cu_seqlens, ElementsAre(0, 2, 5));
  EXPECT_THAT(batch.examples, ElementsAre(1, 0));
  EXPECT_THAT(pack(std::vector<TokenizedExample>{examples[2]}, std::vector<uint32_t>{2}).token_type_ids,
              IsEmpty());
  // Two sequences in one example: the choices of a question, an answer and a worse one.
  examples[0].starts = {2};
  const Batch choices =
      pack(std::vector<TokenizedExample>{examples[2], examples[0]}, std::vector<uint32_t>{2, 0});
  EXPECT_THAT(choices.cu_seqlens, ElementsAre(0, 1, 3, 4));
  EXPECT_THAT(choices.examples, ElementsAre(2, 0, 0));
}

TEST(Pack, RefusesWhatIsNoBatch) {
  const std::vector<TokenizedExample> bad = {{{1}, {0, 0}, 0, 0.0}, {{}, {}, 0, 0.0}};
  EXPECT_THROW(pack({}, {}), Error);
  for (TokenizedExample example : bad)
    EXPECT_THROW(pack(std::span(&example, 1), std::vector<uint32_t>{0}), Error);
  for (const std::vector<int32_t>& starts : {std::vector<int32_t>{0}, {3}, {2, 1}}) {
    TokenizedExample example{{1, 2, 3}, {}};
    example.starts = starts;
    EXPECT_THROW(pack(std::span(&example, 1), std::vector<uint32_t>{0}), Error);
  }
}

TEST(Examples, PartsAndFingerprintsFollowTheExamples) {
  std::vector<TokenizedExample> examples = {{{1, 2}, {}, 1, 0.5}, {{3}, {}, 0, 0.0}, {{4, 5, 6}, {}, 1, 0.0}};
  const Examples whole = all_of(examples, [](size_t i) { return "train.tsv:" + std::to_string(i + 2); });
  const Examples part = part_of(whole, {2, 0});
  EXPECT_EQ(part.size, 2u);
  EXPECT_EQ(part.length(0), 3u);
  EXPECT_THAT(part.get(1).ids, ElementsAre(1, 2));
  EXPECT_EQ(part.name(0), "train.tsv:4");
  EXPECT_EQ(all_of(examples).name(0), "number 1");
  EXPECT_THROW(whole.get(3), Error);
  const uint64_t before = fingerprint_of(whole);
  EXPECT_EQ(fingerprint_of(part_of(whole, {0, 1, 2})), before);
  EXPECT_NE(fingerprint_of(part_of(whole, {0, 2, 1})), before);
  examples[1].label = 1;
  EXPECT_NE(fingerprint_of(whole), before);
  examples[1].label = 0;
  examples[1].predicted = {{0, 1}};
  EXPECT_NE(fingerprint_of(whole), before);
  examples[1].predicted = {};
  EXPECT_EQ(fingerprint_of(whole), before);
  examples[1].type_ids = {1};
  EXPECT_NE(fingerprint_of(whole), before);
  examples[1].type_ids = {};
  examples[2].starts = {1};
  EXPECT_NE(fingerprint_of(whole), before);
  examples[2].starts = {};
  // By its bits: neither rounded nor limited to what an integer holds.
  std::set<uint64_t> seen = {before};
  for (const double target : {1e-9, 2e-9, 1e13, 2e13, -1e300}) {
    examples[1].target = target;
    EXPECT_TRUE(seen.insert(fingerprint_of(whole)).second) << target;
  }
}

std::vector<int> counts_of(const BatchList& list, size_t sequences) {
  std::vector<int> counts(sequences, 0);
  for (const auto& batch : to_vectors(list)) {
    for (const uint32_t index : batch) ++counts[index];
  }
  return counts;
}

TEST(BatchPlan, WeightsSayHowOftenAnEpochHasASequence) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    // 30 sequences twice, half of 20, 8 once, in one order or another.
    DrawWeights draws;
    draws.weights = {2.0, 0.5, 1.0};
    for (size_t i = 0; i < 58; ++i) draws.groups.push_back(i % 29 < 15 ? 0 : i % 29 < 15 + 10 ? 1 : 2);
    const std::vector<uint32_t> lengths(draws.groups.size(), 3);
    BatchOptions options = random_options(seed);
    const BatchPlan plan(lengths, options, draws);
    std::vector<int> halves(lengths.size(), 0);
    for (uint64_t epoch = 0; epoch < 4; ++epoch) {
      const BatchList batches = plan.epoch(epoch);
      EXPECT_EQ(to_vectors(BatchPlan(lengths, options, draws).epoch(epoch)), to_vectors(batches));
      const std::vector<int> counts = counts_of(batches, lengths.size());
      int drawn = 0;
      for (size_t i = 0; i < counts.size(); ++i) {
        if (draws.groups[i] != 1) {
          EXPECT_EQ(counts[i], draws.groups[i] == 0 ? 2 : 1);
          continue;
        }
        EXPECT_LE(counts[i], 1);
        drawn += counts[i];
        halves[i] += counts[i];
      }
      EXPECT_EQ(drawn, 10);
      EXPECT_EQ(plan.count_sequences(epoch), 60U + 10U + 8U);
    }
    // Two epochs have had both halves.
    for (size_t i = 0; i < halves.size(); ++i) {
      if (draws.groups[i] == 1) {
        EXPECT_EQ(halves[i], 2);
      }
    }
    size_t batches = 0;
    for (uint64_t epoch = 0; epoch < 3; ++epoch) batches += plan.epoch(epoch).size();
    EXPECT_EQ(plan.count_batches(3), batches);
  }
}

TEST(BatchPlan, HalvesAreDrawnAnewAndEmptyEpochsRefused) {
  BatchOptions options;
  options.batch_size = 4;
  const std::vector<uint32_t> lengths(40, 3);
  DrawWeights draws{std::vector<uint32_t>(40, 0), {0.5}};
  const BatchPlan plan(lengths, options, draws);
  EXPECT_NE(counts_of(plan.epoch(0), 40), counts_of(plan.epoch(2), 40));
  draws.weights = {0.02};
  EXPECT_THROW(BatchPlan(lengths, options, draws), Error);
  for (const double weight : {1.0e300, 1.0e12, 3.0e7, -1.0, std::numeric_limits<double>::infinity()}) {
    draws.weights = {weight};
    EXPECT_THAT(error_text(ErrorCode::kConfig, [&] { BatchPlan(lengths, options, draws); }),
                testing::HasSubstr("data.train: expected weights"));
  }
  draws.groups.pop_back();
  EXPECT_THROW(BatchPlan(lengths, options, draws), Error);
}

}  // namespace
}  // namespace msplora
