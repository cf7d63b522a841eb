#pragma once

#include <functional>
#include <memory>
#include <string>

#include "adapters/base_parameters.h"
#include "adapters/method.h"
#include "adapters/target_modules.h"
#include "msplora/adapters/adapter.h"

namespace msplora {

/// The one way adapters come into being, for recipes and for files.
struct AdapterBuilder {
  /// Problems go to one Error with this code and title.
  ErrorCode code = ErrorCode::kConfig;
  std::string title = "adapter";
  detail::Strictness strictness = detail::Strictness::kStrict;
  bool values_follow = false;  // a file's: initial values need not be computed
  /// For an adapter file: where it has the option that a recipe calls `key` (without `adapter.`), and what to
  /// do about a wrong one, in place of hints about recipes.
  std::function<std::string(const std::string& key)> place = {};
  std::string remedy = {};

  std::unique_ptr<Adapter> build(const AdapterConfig& config, AdapterTarget target, uint64_t seed) const;

  /// Throws the problems in one Error, told as problems of the file where there is one.
  void throw_if_any(const ErrorList& errors) const;

  static void set_recorded_base(Adapter& adapter, std::string name) {
    adapter.recorded_base_ = std::move(name);
  }
};

}  // namespace msplora
