#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/option_group.h"
#include "msplora/core/options.h"

namespace msplora {

/// Options of the adapter, as written under `adapter:` in a recipe. Names follow PEFT where PEFT has them.
struct AdapterConfig {
  std::string method = "msplora";
  std::string init_from;
  int64_t rank = 8;
  double alpha = 16.0;
  double dropout = 0.0;
  std::vector<std::string> target_modules;  // empty: those of the model's family
  std::optional<std::string> target_modules_regex;
  std::vector<std::string> exclude_modules;
  std::optional<std::string> exclude_modules_regex;
  std::vector<int64_t> layers_to_transform;
  std::vector<std::string> layers_pattern;
  std::map<std::string, int64_t> rank_pattern;
  std::map<std::string, double> alpha_pattern;
  std::vector<std::string> modules_to_save;
  std::string bias = "none";
  std::string init = "default";
  bool use_rslora = false;
  bool use_dora = false;
  double lora_plus_ratio = 1.0;

  int64_t levels = 3;
  std::vector<int64_t> ranks;
  std::vector<double> alphas;
  std::vector<double> dropouts;
  int64_t mid_groups = 3;
  std::vector<int64_t> layer_groups;
  std::string sharing = "published";
  bool stagewise = false;
  std::vector<double> stage_fractions;

  /// Options that methods have for themselves, by method: `adapter.aslora.interval`. Each is declared in its
  /// method's file; set() and get() reach them by name.
  std::vector<std::pair<std::string, OptionGroup>> groups = default_groups();

  /// Sets one option, e.g. set("aslora.interval", 3). Ranges are checked with everything else when an adapter
  /// is made. Throws Error{kConfig} for an unknown name (with the nearest) or a value of another type.
  AdapterConfig& set(const std::string& option, const nlohmann::json& value);
  /// Throws Error{kConfig} for an unknown name.
  nlohmann::json get(const std::string& option) const;

  /// The options of the method that declares this struct.
  template <class Options>
  const Options& own() const {
    for (const auto& entry : groups) {
      if (const auto* options = entry.second.template as<Options>()) return *options;
    }
    throw std::logic_error("no method has these options");
  }
  template <class Options>
  Options& own() {
    return const_cast<Options&>(std::as_const(*this).template own<Options>());
  }

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("method", method, "Method of adaptation (see docs/methods.md); `none` trains the head only");
    visitor("init_from", init_from,
            "A run of `train`, a directory of an adapter (native or PEFT form) or a GGUF file to go on from: "
            "the run takes over "
            "its settings and starts with its values; `dropout`, `dropouts` and `lora_plus_ratio` may be set "
            "anew");
    visitor("rank", rank, "Rank r; of the first (global) level for msplora, the mean one for prilora",
            at_least(1));
    visitor("alpha", alpha, "Scaling numerator: scaling = alpha / r, at every level", above(0));
    visitor("dropout", dropout, "Dropout on the input of the update", probability_below_one());
    visitor(
        "target_modules", target_modules,
        "Module names (path suffixes) to adapt; the single entry `all-linear` takes every linear layer but "
        "heads, output layers and tables of words. Empty: those of the model's family: query and value "
        "(BERT, RoBERTa), q_proj and v_proj (Llama, Mistral, Qwen)");
    visitor("target_modules_regex", target_modules_regex,
            "Regular expression over the full module path, instead of target_modules");
    visitor("exclude_modules", exclude_modules, "Module names (path suffixes) never adapted");
    visitor("exclude_modules_regex", exclude_modules_regex,
            "Regular expression over the full module path of modules never adapted");
    visitor("layers_to_transform", layers_to_transform, "Indices of the layers to adapt; empty: all",
            at_least(0));
    visitor("layers_pattern", layers_pattern, "Names of the layer containers used with layers_to_transform");
    visitor("rank_pattern", rank_pattern,
            "lora: regular expression of a module path (its end) to its rank; sorted, the first that matches "
            "wins",
            at_least(1));
    visitor("alpha_pattern", alpha_pattern, "lora: the same for alpha", above(0));
    visitor("modules_to_save", modules_to_save, "Further modules trained and saved whole; heads always are");
    visitor("bias", bias, "Biases trained beside the adapter", one_of({"none", "lora_only", "all"}));
    visitor("init", init,
            "Initialisation of the factors; pissa, olora and orthogonal are for lora (docs/methods.md)",
            one_of({"default", "gaussian", "pissa", "olora", "orthogonal"}));
    visitor("use_rslora", use_rslora, "scaling = alpha / sqrt(r)");
    visitor("use_dora", use_dora, "lora: DoRA, a trained magnitude for each output");
    visitor("lora_plus_ratio", lora_plus_ratio,
            "LoRA+: learning rate of B as a multiple of that of A (lora, msplora, aslora, prilora)",
            above(0));
    visitor("levels", levels, "msplora: number of levels; ranks halve from level to level", at_least(1));
    visitor("ranks", ranks, "msplora: the rank of each level, global first, instead of rank and levels",
            at_least(1));
    visitor("alphas", alphas, "msplora: alpha of each level, instead of alpha", above(0));
    visitor("dropouts", dropouts, "msplora: dropout of each level, instead of dropout",
            probability_below_one());
    visitor("mid_groups", mid_groups, "msplora: groups of consecutive layers that share a mid level",
            at_least(1));
    visitor("layer_groups", layer_groups,
            "msplora: the group at mid levels of every layer of the model, first to last, instead of "
            "mid_groups: layers of one number share",
            at_least(0));
    visitor("sharing", sharing,
            "msplora: `published` applies a shared factor in every layer of its scope, "
            "`owner_only` in the layer that owns it (as the authors' released code behaves)",
            one_of({"published", "owner_only"}));
    visitor("stagewise", stagewise, "msplora: train one level at a time, global first");
    visitor("stage_fractions", stage_fractions,
            "msplora: share of the training for each stage; default equal", above(0));
    for (auto& [method, group] : groups) visitor(method.c_str(), group, group.help().c_str());
  }

 private:
  static std::vector<std::pair<std::string, OptionGroup>> default_groups();
};

}  // namespace msplora
