#include "msplora/federated/partition.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

namespace msplora {
namespace {

using testing::HasSubstr;

/// 600 labels of three classes in the proportion 3 : 2 : 1, in mixed order.
std::vector<int64_t> some_labels() {
  std::vector<int64_t> labels;
  for (int i = 0; i < 100; ++i) labels.insert(labels.end(), {0, 1, 0, 2, 1, 0});
  return labels;
}

void expect_disjoint_and_exhaustive(const Partition& partition, size_t examples) {
  std::set<uint32_t> seen;
  size_t count = 0;
  for (const auto& part : partition) {
    EXPECT_TRUE(std::is_sorted(part.begin(), part.end()));
    seen.insert(part.begin(), part.end());
    count += part.size();
  }
  EXPECT_EQ(count, examples);
  EXPECT_EQ(seen.size(), examples);
  EXPECT_EQ(*seen.rbegin(), examples - 1);
}

PartitionOptions dirichlet(double alpha, int64_t min_size) {
  PartitionOptions options;
  options.kind = "dirichlet";
  options.alpha = alpha;
  options.min_size = min_size;
  return options;
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Partition, EveryKindIsDisjointExhaustiveAndDeterministic) {
  PartitionInput input{600, some_labels(), {}};
  for (size_t i = 0; i < input.examples; ++i) input.groups.push_back("writer " + std::to_string(i % 7));
  for (const char* kind : {"iid", "dirichlet", "shards", "classes", "groups"}) {
    SCOPED_TRACE(kind);
    PartitionOptions options;
    options.kind = kind;
    const Partition partition = make_partition(options, 5, input, 11);
    ASSERT_EQ(partition.size(), 5U);
    expect_disjoint_and_exhaustive(partition, 600);
    EXPECT_EQ(partition, make_partition(options, 5, input, 11));
    if (std::string(kind) == "groups") continue;  // needs no random numbers
    EXPECT_NE(partition, make_partition(options, 5, input, 12));
  }
}

TEST(Partition, IidPartsDifferByOneAtMost) {
  const Partition partition = partition_iid(101, 7, 1);
  for (const auto& part : partition) {
    EXPECT_GE(part.size(), 14U);
    EXPECT_LE(part.size(), 15U);
  }
}

TEST(Partition, DirichletGoesFromOneClassEachToTheProportionsOfAll) {
  const auto labels = some_labels();
  const Partition even = partition_dirichlet(labels, 4, dirichlet(1e5, 1), 3);
  EXPECT_LT(describe_partition(even, labels, 3).mean_total_variation, 0.03);
  const Partition middle = partition_dirichlet(labels, 4, dirichlet(0.5, 1), 3);
  PartitionOptions extreme = dirichlet(1e-4, 1);
  extreme.max_retries = 2000;
  const Partition uneven = partition_dirichlet(labels, 3, extreme, 3);
  const PartitionReport report = describe_partition(uneven, labels, 3);
  for (const double effective : report.effective_classes) EXPECT_LT(effective, 1.2);
  EXPECT_LT(describe_partition(even, labels, 3).mean_total_variation,
            describe_partition(middle, labels, 3).mean_total_variation);
  EXPECT_LT(describe_partition(middle, labels, 3).mean_total_variation, report.mean_total_variation);
}

TEST(Partition, DirichletDrawsAgainUntilEveryClientHasEnough) {
  const auto labels = some_labels();
  PartitionOptions options = dirichlet(0.3, 40);
  options.max_retries = 500;
  for (const auto& part : partition_dirichlet(labels, 5, options, 2)) EXPECT_GE(part.size(), 40U);
  options = dirichlet(0.01, 100);
  options.max_retries = 3;
  EXPECT_THAT(error_of([&] { partition_dirichlet(labels, 5, options, 2); }),
              testing::AllOf(HasSubstr("4 draws"), HasSubstr("min_size = 100")));
  EXPECT_THAT(error_of([&] { partition_dirichlet(labels, 7, dirichlet(1.0, 100), 2); }),
              HasSubstr("need 700"));
}

TEST(Partition, ShardsGiveFewClasses) {
  const auto labels = some_labels();
  const Partition partition = partition_shards(labels, 15, 2, 5);
  for (const auto& part : partition) {
    EXPECT_EQ(part.size(), 40U);
    std::set<int64_t> classes;
    for (const uint32_t index : part) classes.insert(labels[index]);
    EXPECT_LE(classes.size(), 2U);  // 30 shards of 20: none crosses the classes of 300, 200 and 100
  }
}

TEST(Partition, ClassesGivesExactlyThatMany) {
  const auto labels = some_labels();
  const Partition partition = partition_classes(labels, 4, 2, 5);
  for (const auto& part : partition) {
    std::set<int64_t> classes;
    for (const uint32_t index : part) classes.insert(labels[index]);
    EXPECT_EQ(classes.size(), 2U);
  }
  EXPECT_THAT(error_of([&] { partition_classes(labels, 2, 1, 5); }), HasSubstr("do not fit data with 3"));
  EXPECT_THAT(error_of([&] { partition_classes(labels, 2, 4, 5); }), HasSubstr("do not fit data with 3"));
}

TEST(Partition, GroupsStayWhole) {
  std::vector<std::string> groups;
  for (int i = 0; i < 12; ++i) groups.push_back(i < 6 ? "a" : i < 10 ? "b" : "c");
  EXPECT_EQ(partition_groups(groups, 3), (Partition{{0, 1, 2, 3, 4, 5}, {6, 7, 8, 9}, {10, 11}}));
  EXPECT_EQ(partition_groups(groups, 2), (Partition{{0, 1, 2, 3, 4, 5}, {6, 7, 8, 9, 10, 11}}));
  EXPECT_THAT(error_of([&] { partition_groups(groups, 4); }), HasSubstr("only 3 different values"));
}

TEST(Partition, NothingIsSilentlyIid) {
  PartitionOptions options;
  options.kind = "dirichlet";
  EXPECT_THAT(error_of([&] {
                make_partition(options, 2, {10, {}, {}}, 1);
              }),
              HasSubstr("needs class labels"));
  options.kind = "groups";
  EXPECT_THAT(error_of([&] { make_partition(options, 2, {10, {}, {}}, 1); }), HasSubstr("data.group"));
  options.kind = "dirichle";
  EXPECT_THAT(error_of([&] {
                make_partition(options, 2, {10, some_labels(), {}}, 1);
              }),
              testing::AllOf(HasSubstr("unknown kind `dirichle`"), HasSubstr("did you mean `dirichlet`")));
  EXPECT_THAT(error_of([&] { partition_iid(3, 4, 1); }), HasSubstr("without examples"));
}

TEST(Partition, ReportByHand) {
  // Client 0 has classes 0, 0, 1, 1, client 1 has 0, 0, 0, 0; altogether 6 : 2.
  const std::vector<int64_t> labels = {0, 0, 1, 1, 0, 0, 0, 0};
  const PartitionReport report = describe_partition({{0, 1, 2, 3}, {4, 5, 6, 7}}, labels, 2);
  EXPECT_EQ(report.counts, (std::vector<std::vector<int64_t>>{{2, 2}, {4, 0}}));
  EXPECT_NEAR(report.effective_classes[0], 2.0, 1e-12);
  EXPECT_NEAR(report.effective_classes[1], 1.0, 1e-12);
  EXPECT_NEAR(report.mean_total_variation, 0.25, 1e-12);
}

TEST(SampleClients, DependOnSeedAndRoundAlone) {
  EXPECT_EQ(sample_clients(4, 1.0, 1, 1, 1), (std::vector<int64_t>{0, 1, 2, 3}));
  std::set<std::vector<int64_t>> different;
  std::vector<int64_t> counts(20);
  for (int64_t round = 1; round <= 400; ++round) {
    const auto chosen = sample_clients(20, 0.25, 1, 9, round);
    EXPECT_EQ(chosen.size(), 5U);
    EXPECT_TRUE(std::is_sorted(chosen.begin(), chosen.end()));
    EXPECT_EQ(chosen, sample_clients(20, 0.25, 1, 9, round));
    different.insert(chosen);
    for (const int64_t client : chosen) ++counts[static_cast<size_t>(client)];
  }
  EXPECT_GT(different.size(), 300U);
  // 100 expected with a standard deviation of 8.7.
  EXPECT_GT(*std::min_element(counts.begin(), counts.end()), 60);
  EXPECT_LT(*std::max_element(counts.begin(), counts.end()), 140);
  EXPECT_EQ(sample_clients(20, 0.01, 3, 9, 1).size(), 3U);
}

}  // namespace
}  // namespace msplora
