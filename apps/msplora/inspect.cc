#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "bench.h"
#include "dimension_profile.h"
#include "msplora/adapters/adapter.h"
#include "msplora/adapters/planning.h"
#include "msplora/gguf/file.h"
#include "msplora/io/gguf_weights.h"
#include "msplora/models/memory_estimate.h"
#include "msplora/models/model.h"
#include "msplora/models/step_flops.h"
#include "msplora/runs/model_files.h"
#include "panel.h"
#include "program.h"

namespace msplora {
namespace {

using Json = nlohmann::ordered_json;

struct InspectArguments {
  std::string profile;
  std::string shape;
  std::string model;
  std::string method;
  int64_t rank = 8;
  int64_t levels = 3;
  int64_t mid_groups = 3;
  double alpha = 16.0;
  std::string ranks;
  std::string target_modules;
  int64_t tokens = 4096;
  int64_t seq = 128;
  std::string dtype = "float32";
  bool checkpoint_activations = false;
};

/// `is_shared`: the options are those of several methods, of which each takes what it knows.
AdapterConfig adapter_config(const InspectArguments& arguments, const std::string& method,
                             const ModelConfig& config, bool is_shared) {
  AdapterConfig adapter;
  adapter.method = method;
  adapter.rank = arguments.rank;
  adapter.levels = arguments.levels;
  adapter.mid_groups = arguments.mid_groups;
  adapter.alpha = arguments.alpha;
  adapter.target_modules = arguments.target_modules.empty() ? default_target_modules(config.model_type)
                                                            : split_commas(arguments.target_modules);
  for (const std::string& rank : split_commas(arguments.ranks)) {
    try {
      adapter.ranks.push_back(std::stoll(rank));
    } catch (const std::exception&) {
      throw Error(ErrorCode::kUsage, "--ranks", "expected integers, found `" + rank + "`",
                  "for example 8,4,2");
    }
  }
  return is_shared ? config_for_method(adapter, method) : adapter;
}

Json modules_of(const std::vector<Site>& sites) {
  std::map<std::string, Json> kinds;
  std::vector<std::string> order;
  for (const Site& site : sites) {
    const std::string key = fmt::format("{} {} {}", site.module, site.out_features, site.in_features);
    if (!kinds.contains(key)) {
      order.push_back(key);
      kinds[key] = {{"module", site.module},
                    {"out_features", site.out_features},
                    {"in_features", site.in_features},
                    {"count", 0},
                    {"first", site.path}};
    }
    kinds[key]["count"] = kinds[key]["count"].get<int64_t>() + 1;
  }
  Json modules = Json::array();
  for (const std::string& key : order) modules.push_back(kinds[key]);
  return modules;
}

/// Whether one of the modules that the options name.
bool is_target(const Site& site, const AdapterConfig& adapter) {
  const auto& targets = adapter.target_modules;
  const bool is_inside =
      site.layer >= 0 || site.role == LinearRole::kOutput || site.role == LinearRole::kWords;
  return is_inside && std::find(targets.begin(), targets.end(), site.module) != targets.end();
}

/// For MemoryQuestion.
double bytes_in_products_of(const InspectArguments& arguments) {
  const at::ScalarType dtype = parse_dtype(arguments.dtype);
  if (arguments.model.empty() || !is_gguf_path(arguments.model)) return bytes_in_products(dtype);
  return bytes_in_products(*GgufFile::open(arguments.model), dtype);
}

MemoryEstimate memory_of(const InspectArguments& arguments, const ModelConfig& config,
                         const std::vector<Site>& sites, const AdapterConfig& adapter, int64_t trainable,
                         double bytes_in_products) {
  const bool is_causal_lm = describe(config).is_causal();
  const Architecture architecture = describe(config, is_causal_lm ? ModelTask::kCausalLm : ModelTask::kNone);
  MemoryQuestion question;
  question.trainable_parameters = trainable;
  question.trains_base = trains_whole_base(adapter);
  for (const Site& site : sites) {
    if (!is_target(site, adapter)) continue;
    question.adapted.insert(site.role);
    const std::vector<int64_t> ranks = update_ranks(adapter, site.layer, architecture.num_layers());
    question.rank = std::max(question.rank, std::accumulate(ranks.begin(), ranks.end(), int64_t{0}));
  }
  question.tokens_per_batch = arguments.tokens;
  question.bytes_per_weight = arguments.dtype == "bfloat16" ? 2 : 4;
  question.bytes_in_products = bytes_in_products;
  question.checkpoint_activations = arguments.checkpoint_activations;
  question.is_causal_lm = is_causal_lm;
  return estimate_memory(architecture, question);
}

/// Of others the linear layers alone are known.
bool can_be_run(const ModelConfig& config) {
  const std::vector<std::string> types = supported_model_types();
  return std::find(types.begin(), types.end(), config.model_type) != types.end();
}

std::vector<Parameter> known_parameters(const ModelConfig& config, ModelTask task) {
  return can_be_run(config) ? parameters_of_shape(config, task) : std::vector<Parameter>();
}

bool adapts_output(const std::vector<Site>& sites, const AdapterConfig& adapter) {
  return std::any_of(sites.begin(), sites.end(), [&](const Site& site) {
    return site.role == LinearRole::kOutput && is_target(site, adapter);
  });
}

/// Names of what is trained of the model itself: by the method, and the head of a classifier.
std::vector<std::string> trained_parameters(const ModelConfig& config, ModelTask task,
                                            const AdapterConfig& adapter) {
  const std::vector<Parameter> parameters = known_parameters(config, task);
  std::vector<std::string> names = trained_of_base(adapter, parameters);
  for (const std::string& module : trained_modules(describe(config, task).head)) {
    for (const Parameter& parameter : parameters) {
      if (parameter.name.starts_with(module + ".")) names.push_back(parameter.name);
    }
  }
  return names;
}

/// Products of one step of sequences of --seq tokens, classified, with the modules adapted at `rank` in all;
/// where the output layer is one of them, all tokens are predicted instead.
StepFlops flops_of(const InspectArguments& arguments, const ModelConfig& config,
                   const std::vector<Site>& sites, const AdapterConfig& adapter) {
  StepQuestion question;
  question.lengths.assign(static_cast<size_t>(std::max<int64_t>(1, arguments.tokens / arguments.seq)),
                          arguments.seq);
  question.checkpoint_activations = arguments.checkpoint_activations;
  question.reads_one_row = !adapts_output(sites, adapter);
  const ModelTask task = !question.reads_one_row ? ModelTask::kCausalLm
                         : can_be_run(config)    ? ModelTask::kSequenceClassification
                                                 : ModelTask::kNone;
  if (!question.reads_one_row) {
    for (const int64_t length : question.lengths) question.predicted_tokens += length;
  }
  const Architecture architecture = describe(config, task);
  for (const Site& site : sites_of_shape(architecture)) {
    const std::vector<int64_t> ranks = is_target(site, adapter)
                                           ? update_ranks(adapter, site.layer, architecture.num_layers())
                                           : std::vector<int64_t>();
    question.sites.push_back(
        {std::accumulate(ranks.begin(), ranks.end(), int64_t{0}), !ranks.empty(), false});
  }
  note_trained(architecture, trained_parameters(config, task, adapter), question);
  return count_step_flops(architecture, question);
}

/// Level by level, or layer by layer where a method has one level and the layers differ.
std::vector<int64_t> shown_ranks(const AdapterConfig& adapter, int64_t layers) {
  const std::vector<int64_t> levels = update_ranks(adapter, 0, layers);
  if (levels.size() != 1) return levels;
  std::vector<int64_t> ranks;
  for (int64_t layer = 0; layer < layers; ++layer)
    ranks.push_back(update_ranks(adapter, layer, layers).at(0));
  const bool differ = std::any_of(ranks.begin(), ranks.end(), [&](int64_t r) { return r != ranks.front(); });
  return differ ? ranks : levels;
}

Json method_json(const InspectArguments& arguments, const ModelConfig& config, const std::vector<Site>& sites,
                 const std::string& method, bool is_one_of_several, double bytes_in_products) {
  const AdapterConfig adapter = adapter_config(arguments, method, config, is_one_of_several);
  const ParameterCount count =
      count_parameters(adapter, sites, describe(config).num_layers(), attention_heads(config),
                       kDefaultHeadModules, known_parameters(config, ModelTask::kSequenceClassification));
  const MemoryEstimate memory = memory_of(arguments, config, sites, adapter, count.total, bytes_in_products);
  const StepFlops flops = flops_of(arguments, config, sites, adapter);
  const double share =
      100.0 * static_cast<double>(count.total) / static_cast<double>(memory.model_parameters);
  Json json = {{"method", method},
               {"ranks", shown_ranks(adapter, describe(config).num_layers())},
               {"target_modules", adapter.target_modules},
               {"trainable_parameters", count.total},
               {"percent_of_model", share},
               {"per_level", count.per_level},
               {"owners", count.owners},
               {"step",
                {{"sequence_length", arguments.seq},
                 {"predicts_tokens", adapts_output(sites, adapter)},
                 {"flops", flops.total()},
                 {"recomputed_flops", flops.recomputation}}},
               {"memory",
                {{"tokens_per_batch", arguments.tokens},
                 {"dtype", arguments.dtype},
                 {"checkpoint_activations", arguments.checkpoint_activations},
                 {"model_parameters", memory.model_parameters},
                 {"weights_bytes", memory.weights},
                 {"trainable_bytes", memory.trainable},
                 {"activation_bytes", memory.activations},
                 {"total_bytes", memory.total()}}}};
  // They are then the least that there can be, and so is the count.
  if (is_unsettled(adapter)) json["ranks_to_be_estimated"] = true;
  // What is left after the merges of aslora.
  if (count.total_at_end != count.total) json["trainable_parameters_at_end"] = count.total_at_end;
  return json;
}

/// "0, 11, 22"; every layer is "all".
std::string owners_text(const Json& owners, int64_t layers) {
  if (static_cast<int64_t>(owners.size()) == layers) return fmt::format("all {}", layers);
  return fmt::format("{}", fmt::join(owners.get<std::vector<int64_t>>(), ", "));
}

/// "8", or "1 to 4" when the layers differ.
std::string ranks_text(const Json& ranks) {
  const auto values = ranks.get<std::vector<int64_t>>();
  if (values.empty()) return "";
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return *low == *high ? std::to_string(*low) : fmt::format("{} to {}", *low, *high);
}

void print_methods(const Json& methods, int64_t layers, std::ostream& out) {
  TextTable table({"method", "level", "rank", "owned by layers", "parameters", "memory", "TFLOP a step"},
                  {false, true, true, false, true, true, true});
  for (const Json& method : methods) {
    const std::string name = method["method"].get<std::string>();
    const auto levels = method["per_level"].get<std::vector<int64_t>>();
    const bool has_levels = levels.size() > 1;
    for (size_t i = 0; has_levels && i < levels.size(); ++i) {
      const auto rank = method["ranks"].at(i).get<int64_t>();
      table.add({name, std::to_string(i), std::to_string(rank), owners_text(method["owners"][i], layers),
                 with_commas(levels[i]), "", ""});
    }
    const auto total = method["trainable_parameters"].get<int64_t>();
    const bool is_unsettled = method.contains("ranks_to_be_estimated");
    const std::string rank = has_levels || total == 0 ? ""
                             : is_unsettled           ? "to be estimated"
                                                      : ranks_text(method["ranks"]);
    const std::string owners = has_levels || levels.empty() ? "" : owners_text(method["owners"][0], layers);
    const auto flops =
        method["step"]["flops"].get<double>() + method["step"]["recomputed_flops"].get<double>();
    table.add(
        {name, has_levels ? "all" : "", rank, owners, (is_unsettled ? "at least " : "") + with_commas(total),
         bytes_text(method["memory"]["total_bytes"].get<int64_t>()), fmt::format("{:.3f}", 1e-12 * flops)});
    if (method.contains("trainable_parameters_at_end")) {
      const auto at_end = method["trainable_parameters_at_end"].get<int64_t>();
      table.add({name + " at the end", "", rank, "", with_commas(at_end), "", ""});
    }
  }
  out << table.text("  ");
}

void print_report(const InspectArguments& arguments, const ModelConfig& config, const Json& report) {
  std::ostream& out = std::cout;
  const Json& first = report["methods"][0];
  const Architecture architecture = describe(config);
  out << fmt::format("{}: {}, {}, hidden size {}, {:.1f}M parameters\n\n", report["shape"].get<std::string>(),
                     config.model_type, depth_text(architecture), architecture.hidden_size(),
                     first["memory"]["model_parameters"].get<double>() / 1e6);
  TextTable modules({"module", "shape [out, in]", "count", "first"}, {false, false, true, false});
  for (const Json& module : report["modules"]) {
    modules.add(
        {module["module"].get<std::string>(),
         fmt::format("[{}, {}]", module["out_features"].get<int64_t>(), module["in_features"].get<int64_t>()),
         std::to_string(module["count"].get<int64_t>()), module["first"].get<std::string>()});
  }
  out << modules.text("  ") << "\n";
  const auto targets = first["target_modules"].get<std::vector<std::string>>();
  out << fmt::format("adapting {} with alpha {} (heads come on top):\n", fmt::join(targets, ", "),
                     arguments.alpha);
  print_methods(report["methods"], architecture.num_layers(), out);
  out << fmt::format(
      "\nmemory of one training step on {} tokens in {}{}: an estimate; its matrix products are those of\n"
      "sequences of {} tokens and a {} head\n",
      arguments.tokens, arguments.dtype,
      arguments.checkpoint_activations ? " with inputs of blocks alone kept" : "", arguments.seq,
      first["step"]["predicts_tokens"].get<bool>() ? "language model's" : "classification");
}

void inspect(const InspectArguments& arguments, const CommonOptions& common) {
  if (!arguments.profile.empty()) return print_dimension_profile(arguments.profile, common);
  if (arguments.shape.empty() == arguments.model.empty()) {
    throw Error(ErrorCode::kUsage, "inspect", "expected --model PATH, --shape NAME or --profile RECIPE.yaml",
                fmt::format("shapes: {}", fmt::join(known_model_shapes(), ", ")));
  }
  const bool is_known = !arguments.shape.empty();
  const ModelConfig config =
      is_known ? known_model_shape(arguments.shape) : load_model_config(arguments.model);
  // Without a classifier's head: its size depends on the task.
  const bool is_causal_lm = describe(config).is_causal();
  if (!is_known && is_gguf_path(arguments.model)) {
    // Its keys must fit the tensors that it holds.
    ModelLoadOptions load;
    load.task = ModelTask::kCausalLm;
    plan_load(arguments.model, load);
  }
  const std::vector<Site> sites =
      sites_of_shape(config, is_causal_lm ? ModelTask::kCausalLm : ModelTask::kNone);
  const std::vector<std::string> methods =
      arguments.method.empty() ? std::vector<std::string>{"msplora", "lora"} : split_commas(arguments.method);
  Json report = {{"shape", is_known ? arguments.shape : arguments.model},
                 {"model_type", config.model_type},
                 {"num_layers", describe(config).num_layers()},
                 {"modules", modules_of(sites)},
                 {"methods", Json::array()}};
  const double frozen = bytes_in_products_of(arguments);
  for (const std::string& method : methods)
    report["methods"].push_back(method_json(arguments, config, sites, method, methods.size() > 1, frozen));
  if (!common.json) return print_report(arguments, config, report);
  if (methods.size() == 1) {
    // One method: its keys at the top level, as scripts want them.
    const Json only = report["methods"][0];
    report.erase("methods");
    report.update(only);
  }
  print_json(report);
}

}  // namespace

Command add_inspect(CLI::App& program, CommonOptions& common) {
  CLI::App* command = program.add_subcommand(
      "inspect", "Modules, trainable parameters and memory of a model, without its weights");
  auto arguments = std::make_shared<InspectArguments>();
  command->add_option("--model", arguments->model, "Model directory (config.json is enough), or a GGUF file")
      ->type_name("PATH");
  command->add_option("--shape", arguments->shape, "Well-known model, e.g. roberta-base")->type_name("NAME");
  command
      ->add_option(
          "--profile", arguments->profile,
          "Instead: intrinsic dimension of the hidden states behind every layer, on the model and training "
          "data of a recipe, and GeLoRA's ranks")
      ->type_name("RECIPE.yaml");
  command->add_option("--method", arguments->method, "Method, or several with commas; default: msplora,lora")
      ->type_name("NAME");
  command->add_option("--rank", arguments->rank, "Rank (msplora: of the first level)")
      ->check(positive_number())
      ->type_name("R")
      ->capture_default_str();
  command->add_option("--levels", arguments->levels, "msplora: number of levels")
      ->check(positive_number())
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--ranks", arguments->ranks, "msplora: rank of each level, e.g. 8,4,2")
      ->type_name("R,R,...");
  command->add_option("--mid-groups", arguments->mid_groups, "msplora: groups of the mid levels")
      ->check(positive_number())
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--alpha", arguments->alpha, "Scaling numerator")
      ->check(positive_number())
      ->type_name("A");
  command
      ->add_option("--target-modules", arguments->target_modules,
                   "Modules to adapt, e.g. query,value; those of the family when absent")
      ->type_name("A,B,...");
  command->add_option("--tokens", arguments->tokens, "Tokens of a batch, for the memory estimate")
      ->check(positive_number())
      ->type_name("T")
      ->capture_default_str();
  command->add_option("--dtype", arguments->dtype, "Type of activations and frozen weights")
      ->transform(dtype_choice({"float32", "bfloat16"}));
  command->add_option("--seq", arguments->seq, "Tokens of a sequence, for the products of a step")
      ->check(positive_number())
      ->type_name("S")
      ->capture_default_str();
  command->add_flag("--checkpoint-activations", arguments->checkpoint_activations,
                    "Estimate with train.checkpoint_activations");
  add_common(*command, common);
  return {command, [arguments, &common] { inspect(*arguments, common); }};
}

}  // namespace msplora
