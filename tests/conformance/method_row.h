#pragma once

#include <functional>
#include <map>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"

namespace msplora::testing {

/// A setting that the method must refuse, and what the message must say.
struct BadSetting {
  std::function<void(AdapterConfig&)> change;
  std::string fragment;
};

/// One method in one configuration: what is checked against every rule of the contract.
///
/// A method adds rows/NAME.cc with a static RegisterRows. Every rule is a test of its own, named
/// Methods/Conformance.RULE/ROW.
struct MethodRow {
  std::string name;  // letters, digits and _
  AdapterConfig config;

  bool starts_at_base = true;        // the update is zero before the first step
  bool takes_dropout = true;         // adapter.dropout may be set
  std::string no_peft_form;          // a fragment of why there is no PEFT file; "" when there is one
  std::string peft_method = "lora";  // what the file is read back as

  /// Trainable numbers of the method itself, from the adapted sites and the base: the formula of
  /// docs/methods.md.
  std::function<int64_t(const std::vector<Site>& sites, const AdapterTarget& target)> count;

  /// Paths of the sites that the tensor acts on. Unset: the site whose path its name starts with.
  std::function<std::set<std::string>(const TrainableTensor& tensor, const std::vector<Site>& sites)> scope;

  /// Optimizer steps of the training rules: enough for everything that the method schedules to happen.
  int64_t steps = 2;

  /// adapter.target_modules on architectures whose module names the row does not know.
  std::vector<std::string> anywhere = {"all-linear"};

  std::vector<BadSetting> refused;

  /// Rules that the method cannot keep by its nature, with the reason.
  std::map<std::string, std::string> excused;
};

inline void PrintTo(const MethodRow& row, std::ostream* out) {
  *out << row.name;
}

/// Adds rows to the table when the program starts.
struct RegisterRows {
  explicit RegisterRows(std::vector<MethodRow> rows);
};
const std::vector<MethodRow>& method_rows();

/// The sites that a row is made for: BERT's and RoBERTa's modules, all three shapes of a block.
inline const std::vector<std::string> kAllShapes = {"query", "value", "attention.output.dense",
                                                    "intermediate.dense", "output.dense"};

/// The same module in every layer is one stack: its path without the layer index.
inline std::string stack_of(const Site& site) {
  const std::string index = "." + std::to_string(site.layer) + ".";
  std::string path = site.path;
  const size_t at = path.find(index);
  return at == std::string::npos ? path : path.replace(at, index.size(), ".*.");
}

/// Numbers of a pair of factors of one rank at every site.
inline int64_t lora_count(const std::vector<Site>& sites, int64_t rank) {
  int64_t count = 0;
  for (const Site& site : sites) count += rank * (site.in_features + site.out_features);
  return count;
}

/// Rank 4 and alpha 6, so that a scaling is never 1 and a rank never hides a transposition; query and value.
AdapterConfig small_config(const std::string& method);

/// For methods without an update of layers: rank, alpha and what else belongs to one at their defaults, and
/// that all of it is refused.
AdapterConfig config_without_update(const std::string& method);
std::vector<BadSetting> settings_of_updates(const std::string& method);

}  // namespace msplora::testing
