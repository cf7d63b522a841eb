#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/analysis/report.h"

namespace msplora::analysis {

/// The weights that adapters are added to: the sites of a model that carries no adapter and has not been
/// trained. They are found by path, and the model must outlive this.
struct BaseWeights {
  std::string name;  // for people
  std::vector<Site> sites;
};

/// What `adapter` does to its sites, in float64. Without `base` (null) numbers that need W0 are left out; an
/// adapter on shapes alone will do then. Updates that are sums of low-rank terms are never formed as
/// matrices. Sites on other devices are read from there.
/// Throws Error{kUsage} naming the method and the reason where there is nothing to be read (bitfit, none),
/// or not without the base (dora, glora, full).
AdapterAnalysis analyze(const Adapter& adapter, const std::string& name, const BaseWeights* base,
                        const Options& options);

/// The adapter as it was at a step.
using AdapterAtStep = std::function<std::unique_ptr<Adapter>(int64_t step)>;
/// Curves over `steps`, which rise; one adapter is there at a time. Numbers of the low-rank part, where a
/// method has another one.
Curves curves_of(const std::vector<int64_t>& steps, const AdapterAtStep& at, const Options& options);

/// What follows from the numbers of one adapter, with the thresholds that each sentence states. `config` is
/// the adapter's.
std::vector<Finding> findings_of(const AdapterAnalysis& analysis, const AdapterConfig& config,
                                 const Options& options);
/// What follows from adapters beside each other.
std::vector<Finding> findings_of(const std::vector<AdapterAnalysis>& adapters);

}  // namespace msplora::analysis
