#pragma once

// Comparisons whose runs are said instead of run.
#include <functional>
#include <string>
#include <vector>

#include "msplora/runs/compare.h"
#include "train/tiny_run.h"

namespace msplora {

inline CompareRecipe small_recipe() {
  CompareRecipe recipe;
  recipe.model.path = "model";
  recipe.output.dir = "out";
  recipe.adapter.rank = 8;
  recipe.train.lr = 1e-3;
  recipe.compare.methods = {"lora", "none"};
  recipe.compare.seeds = 2;
  return recipe;
}

inline ComparisonPlan plan_of(const CompareRecipe& recipe) {
  return plan_comparison(recipe, comparison_base(tiny_config()));
}

/// An outcome with the validation score that `validation` gives; the test score runs the other way.
inline RunOnce scored(std::function<double(const PlannedRun&)> validation,
                      std::vector<std::string>* order = nullptr) {
  return [=](const PlannedRun& run) {
    if (order != nullptr) order->push_back(run.name);
    RunOutcome outcome = outcome_of(run);
    outcome.metric = "accuracy";
    outcome.validation = validation(run);
    outcome.score = 1.0 - *outcome.validation;
    outcome.is_test = true;
    outcome.seconds = 2.0;
    return outcome;
  };
}

}  // namespace msplora
