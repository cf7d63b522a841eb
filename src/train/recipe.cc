#include "msplora/train/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "msplora/core/option_io.h"
#include "msplora/nn/device.h"

namespace msplora {
namespace {

void check_paths(const ModelOptions& model, const OutputOptions& output, ErrorList& errors,
                 const std::string& where) {
  if (model.path.empty())
    errors.add(where + ": model.path", "missing", "the directory of a Hugging Face model");
  if (output.dir.empty())
    errors.add(where + ": output.dir", "missing", "the directory that the run writes to");
}

/// "/train/lr" -> "train.lr", the way `--set` writes it.
std::string dotted(const std::string& pointer) {
  std::string key = pointer.substr(pointer.empty() ? 0 : 1);
  for (char& c : key) {
    if (c == '/') c = '.';
  }
  return key;
}

bool may_change(const std::string& key, const std::set<std::string>& free_keys) {
  return std::any_of(free_keys.begin(), free_keys.end(), [&](const std::string& free) {
    return key == free || (free.ends_with('.') && key.starts_with(free));
  });
}

}  // namespace

void check_train_options(const TrainOptions& train, ErrorList& errors, const std::string& where) {
  const auto at = [&](const char* key) { return fmt::format("{}: train.{}", where, key); };
  if (train.batch_size && train.token_budget) {
    errors.add(
        at("token_budget"),
        fmt::format("given together with train.batch_size ({} and {}); a micro-batch is cut by one of them",
                    *train.token_budget, *train.batch_size),
        "remove one");
  }
  if (train.warmup_steps > 0 && train.warmup_ratio > 0) {
    errors.add(at("warmup_ratio"),
               fmt::format("given together with train.warmup_steps ({} and {})", train.warmup_ratio,
                           train.warmup_steps),
               "remove one");
  }
  if (!is_device_name(train.device))
    errors.add(at("device"), fmt::format("expected cpu, cuda or cuda:N, found `{}`", train.device));
  if (train.max_steps > 0 && train.warmup_steps >= train.max_steps) {
    errors.add(at("warmup_steps"),
               fmt::format("{} steps of warm-up, but the run has only train.max_steps = {}",
                           train.warmup_steps, train.max_steps));
  }
  if (train.max_steps > 0 && train.stop_at > train.max_steps) {
    errors.add(at("stop_at"),
               fmt::format("{} lies behind train.max_steps = {}", train.stop_at, train.max_steps));
  }
}

void check_recipe(const Recipe& recipe, ErrorList& errors, const std::string& where) {
  check_train_options(recipe.train, errors, where);
  check_paths(recipe.model, recipe.output, errors, where);
  if (!recipe.output.save_peft && !recipe.output.save_native) {
    errors.add(where + ": output.save_native",
               "false together with output.save_peft: the adapter would be lost", "set one of them to true");
  }
  const bool writes = task_kind(recipe.task.type).head == ModelTask::kCausalLm;
  if (!recipe.train.samples.prompts.empty() && !writes) {
    errors.add(where + ": train.samples.prompts",
               fmt::format("a model of task `{}` writes no texts", recipe.task.type),
               "remove them, or set task.type to sft or causal_lm");
  }
}

void check_recipe(const PretrainRecipe& recipe, ErrorList& errors, const std::string& where) {
  check_train_options(recipe.train, errors, where);
  check_paths(recipe.model, recipe.output, errors, where);
  if (recipe.data.train.empty())
    errors.add(where + ": data.train", "missing", "text files, one sequence a line");
  if (recipe.train.head_lr) {
    errors.add(where + ": train.head_lr", "pretraining has no separate head", "remove it");
  }
  if (!recipe.train.samples.prompts.empty())
    errors.add(where + ": train.samples.prompts", "samples are written by `train` alone", "remove them");
}

nlohmann::json recipe_to_json(const Recipe& recipe) {
  return to_json(recipe);
}
nlohmann::json recipe_to_json(const PretrainRecipe& recipe) {
  return to_json(recipe);
}

std::vector<std::string> changed_keys(const nlohmann::json& before, const nlohmann::json& after) {
  static const std::set<std::string> kFree = {"output.",
                                              "train.samples.",
                                              "train.stop_at",
                                              "train.log_every",
                                              "train.save_every",
                                              "train.threads",
                                              "train.keep_checkpoints",
                                              "train.load_best_at_end",
                                              "train.eval_batch_tokens"};
  return changed_keys(before, after, kFree);
}

std::vector<std::string> changed_keys(const nlohmann::json& before, const nlohmann::json& after,
                                      const std::set<std::string>& free_keys) {
  std::map<std::string, nlohmann::json> old_values;
  std::map<std::string, nlohmann::json> new_values;
  // Named: a temporary would be gone before the loop that walks over it.
  const nlohmann::json old_flat = before.flatten();
  const nlohmann::json new_flat = after.flatten();
  for (const auto& [key, value] : old_flat.items()) old_values[dotted(key)] = value;
  for (const auto& [key, value] : new_flat.items()) new_values[dotted(key)] = value;
  std::set<std::string> changed;
  for (const auto& [key, value] : old_values) {
    const auto found = new_values.find(key);
    if (found == new_values.end() || found->second != value) changed.insert(key);
  }
  for (const auto& [key, value] : new_values) {
    if (!old_values.contains(key)) changed.insert(key);
  }
  std::vector<std::string> keys;
  for (const std::string& key : changed) {
    if (!may_change(key, free_keys)) keys.push_back(key);
  }
  return keys;
}

}  // namespace msplora
