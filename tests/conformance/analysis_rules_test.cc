#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_svdvals.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "conformance/harness.h"
#include "msplora/adapters/files.h"
#include "msplora/adapters/planning.h"
#include "msplora/analysis/analyze.h"
#include "msplora/core/error.h"
#include "temporary_directory.h"

namespace msplora::testing {
namespace {

using analysis::AdapterAnalysis;
using ::testing::HasSubstr;

/// Methods whose change is no matrix: they are refused by name.
bool has_no_matrices(const MethodRow& row) {
  return row.config.method == "none" || row.config.method == "bitfit";
}

/// The change of a site as a matrix in float64.
at::Tensor dense_change(const Adapter& adapter, const analysis::BaseWeights& base, const std::string& path) {
  for (size_t i = 0; i < adapter.sites().size(); ++i) {
    if (adapter.sites()[i].path == path) return adapter.change_of(i).weight.to(at::kDouble);
  }
  at::Tensor change;
  for (const Site& site : adapter.target().sites) {
    if (site.path == path) change = site.linear->weight->values().to(at::kDouble);
  }
  for (const Site& site : base.sites) {
    if (site.path == path) change = change - site.linear->weight->values().to(at::kDouble);
  }
  return change;
}

void expect_values(const analysis::Spectrum& found, const at::Tensor& change, double tolerance) {
  const at::Tensor dense = at::linalg_svdvals(change).contiguous();
  const double first = dense[0].item<double>();
  EXPECT_NEAR(found.norm, change.norm().item<double>(), tolerance * std::max(first, 1e-300));
  for (int64_t i = 0; i < dense.size(0); ++i) {
    const bool is_there = i < static_cast<int64_t>(found.values.size());
    EXPECT_NEAR(is_there ? found.values[static_cast<size_t>(i)] : 0.0, dense[i].item<double>(),
                tolerance * first);
  }
}

void expect_whole_energies(const AdapterAnalysis& found) {
  for (const analysis::SiteAnalysis& site : found.sites) {
    if (site.levels.empty()) continue;
    double share = 0.0, own = 0.0;
    for (const analysis::LevelPart& part : site.levels) {
      share += part.share;
      own += part.own;
      EXPECT_GE(part.own, 0.0);
    }
    EXPECT_NEAR(share, 1.0, 1e-9) << site.path;
    EXPECT_NEAR(own, 1.0, 1e-9) << site.path;
  }
}

TEST_P(Conformance, AnalysisAgreesWithADenseDecomposition) {
  const c10::NoGradGuard no_grad;
  TinyModel model("bert", at::kDouble), untouched("bert", at::kDouble);
  const auto adapter = create_adapter(row().config, model.target(), 1);
  randomise(*adapter);
  const analysis::BaseWeights base{"base", untouched.model().sites()};
  const auto analyze = [&] { return analysis::analyze(*adapter, "it", &base, {}); };
  if (has_no_matrices(row())) {
    EXPECT_THAT(error_of(analyze), HasSubstr("method `" + row().config.method + "`"));
    return;
  }
  const AdapterAnalysis found = analyze();
  ASSERT_FALSE(found.sites.empty());
  double largest = 0.0;
  for (const analysis::SiteAnalysis& site : found.sites) {
    SCOPED_TRACE(site.path);
    const at::Tensor change = dense_change(*adapter, base, site.path);
    expect_values(site.whole, change, 1e-10);
    ASSERT_TRUE(site.base);
    largest = std::max(largest, site.base->relative_norm);
    if (!site.weight_part || !site.weight_part->gain) continue;
    EXPECT_LE(site.weight_part->gain->smallest, site.weight_part->gain->median);
  }
  EXPECT_GT(largest, 1e-3) << "the rule compared zeros";
  if (trains_whole_base(row().config)) {
    ASSERT_EQ(found.levels.size(), 1u);
    int64_t weights = 0;
    for (const analysis::SiteAnalysis& site : found.sites) weights += site.out_features * site.in_features;
    EXPECT_EQ(found.levels[0].sites, static_cast<int64_t>(found.sites.size()));
    EXPECT_EQ(found.levels[0].parameters, weights);
    EXPECT_EQ(found.levels[0].rank, 16);
    EXPECT_GT(found.levels[0].norm, 0.0);
    EXPECT_THAT(found.notes, ::testing::Contains(HasSubstr("cosines between layers")));
    for (const analysis::Finding& finding : found.findings) EXPECT_NE(finding.kind, "spare rank");
  }
  expect_whole_energies(found);
}

/// The files of an adapter alone tell the same of its low-rank part, in float32 and without a base.
TEST_P(Conformance, AnalysisOfFilesNeedsNoBase) {
  if (!row().config.use_dora && (has_no_matrices(row()) || trains_whole_base(row().config))) return;
  const c10::NoGradGuard no_grad;
  TemporaryDirectory directory;
  TinyModel model("bert");
  const auto adapter = create_adapter(row().config, model.target(), 1);
  randomise(*adapter);
  save_native_adapter(*adapter, directory.path());
  AdapterTarget shapes = target_of_files(directory.path());
  if (row().config.method == "lorta") {  // needs what layers do in the attention: config.json says it
    shapes = model.target();
    shapes.parameters.clear();
    shapes.head_modules.clear();
    for (Site& site : shapes.sites) site.linear = nullptr;
  }
  const auto read = load_adapter_without_base(directory.path(), std::move(shapes));
  EXPECT_TRUE(read->is_shape_only());
  EXPECT_FALSE(read->attached());
  const AdapterAnalysis found = analysis::analyze(*read, "it", nullptr, {});
  for (const analysis::SiteAnalysis& site : found.sites) {
    SCOPED_TRACE(site.path);
    EXPECT_FALSE(site.base);
    at::Tensor change;
    for (size_t i = 0; i < adapter->sites().size(); ++i) {
      if (adapter->sites()[i].path != site.path) continue;
      change = adapter->Adapter::change_of(i).weight.to(at::kDouble);
    }
    ASSERT_TRUE(change.defined());
    if (change.norm().item<double>() > 0) expect_values(site.whole, change, 1e-5);
  }
}

}  // namespace
}  // namespace msplora::testing
