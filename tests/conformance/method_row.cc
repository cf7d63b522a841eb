#include "conformance/method_row.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "conformance/harness.h"

namespace msplora::testing {
namespace {

std::vector<MethodRow>& table() {
  static std::vector<MethodRow> rows;
  return rows;
}

}  // namespace

RegisterRows::RegisterRows(std::vector<MethodRow> rows) {
  for (MethodRow& row : rows) table().push_back(std::move(row));
}

const std::vector<MethodRow>& method_rows() {
  return table();
}

AdapterConfig small_config(const std::string& method) {
  AdapterConfig config;
  config.method = method;
  config.rank = 4;
  config.alpha = 6.0;
  config.target_modules = {"query", "value"};
  return config;
}

AdapterConfig config_without_update(const std::string& method) {
  AdapterConfig config;
  config.method = method;
  config.target_modules = {"query", "value"};
  return config;
}

std::vector<BadSetting> settings_of_updates(const std::string& method) {
  const auto has_no_effect = [&](const char* option) {
    return "adapter." + std::string(option) + ": has no effect with method " + method;
  };
  return {{[](AdapterConfig& config) { config.rank = 4; }, has_no_effect("rank")},
          {[](AdapterConfig& config) { config.alpha = 4.0; }, has_no_effect("alpha")},
          {[](AdapterConfig& config) { config.dropout = 0.1; }, has_no_effect("dropout")},
          {[](AdapterConfig& config) { config.init = "gaussian"; }, has_no_effect("init")},
          {[](AdapterConfig& config) { config.use_rslora = true; }, has_no_effect("use_rslora")},
          {[](AdapterConfig& config) { config.ranks = {4}; }, "adapter.ranks: belongs to method msplora"}};
}

INSTANTIATE_TEST_SUITE_P(Methods, Conformance, ::testing::ValuesIn(method_rows()),
                         [](const auto& info) { return info.param.name; });

/// A method of the registry without a row would be held to nothing.
TEST(ConformanceTable, HasARowForEveryMethod) {
  std::set<std::string> covered;
  for (const MethodRow& row : method_rows()) covered.insert(row.config.method);
  for (const MethodInfo& method : adapter_methods()) {
    EXPECT_EQ(covered.count(method.name), 1u)
        << method.name << ": add tests/conformance/rows/" << method.name << ".cc";
  }
}

TEST(ConformanceTable, ExcusesNameRulesThatExist) {
  std::set<std::string> rules;
  const ::testing::UnitTest& all = *::testing::UnitTest::GetInstance();
  for (int i = 0; i < all.total_test_suite_count(); ++i) {
    const ::testing::TestSuite& suite = *all.GetTestSuite(i);
    if (std::string(suite.name()).find("/Conformance") == std::string::npos) continue;
    for (int k = 0; k < suite.total_test_count(); ++k) {
      const std::string name = suite.GetTestInfo(k)->name();
      rules.insert(name.substr(0, name.find('/')));
    }
  }
  for (const MethodRow& row : method_rows()) {
    for (const auto& [rule, reason] : row.excused) {
      EXPECT_EQ(rules.count(rule), 1u) << row.name << " is excused from " << rule << ", which is no rule";
      EXPECT_FALSE(reason.empty()) << row.name << ": " << rule;
    }
  }
}

}  // namespace msplora::testing
