#pragma once

#include <memory>
#include <utility>

#include "msplora/core/error.h"
#include "msplora/runs/run.h"
#include "msplora/runs/run_directory.h"

/// What every open_run() does.
namespace msplora::detail {

/// Claims output.dir; then all that check_run() finds, in one Error.
template <class Recipe>
auto checked_run(const Recipe& recipe, const OpenOptions& options) {
  auto directory = std::make_unique<RunDirectory>(recipe.output, options.resume);
  ErrorList errors;
  auto run = check_run(recipe, errors);
  errors.throw_if_any("the recipe cannot be run");
  run.directory = std::move(directory);
  run.resume = options.resume;
  return run;
}

/// The model of a checked run, with the head of its task.
void open_model_of(Run& run);

}  // namespace msplora::detail
