#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "msplora/data/mlm.h"
#include "msplora/nn/device.h"
#include "msplora/train/runtime.h"
#include "msplora/train/trainer.h"
#include "panel.h"
#include "program.h"
#include "recipe_file.h"
#include "run_outputs.h"
#include "session.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct PretrainArguments {
  RecipeArguments recipe;
  bool resume = false;
  std::string save_dtype = "float32";
};

MlmCorpus build_corpus(const std::vector<std::string>& files, const PretrainRecipe& recipe,
                       const Tokenizer& tokenizer, const ModelConfig& config) {
  MlmCorpusOptions options;
  options.max_length = effective_max_length(recipe.data.max_length, config);
  options.threads = static_cast<int>(recipe.train.threads);
  if (recipe.data.cache_dir) options.cache_dir = *recipe.data.cache_dir;
  return MlmCorpus::build({files.begin(), files.end()}, tokenizer, options);
}

std::unique_ptr<Model> load_for_pretraining(const PretrainRecipe& recipe, const ModelConfig& config) {
  ModelLoadOptions options;
  options.task = ModelTask::kMaskedLm;
  options.compute_dtype = parse_dtype(recipe.train.dtype);
  options.device = parse_device(recipe.train.device);
  options.seed = static_cast<uint64_t>(recipe.train.seed);
  options.random_init = recipe.model.random_init;
  options.keep_float32 = true;
  options.dropout = recipe.train.dropout;
  return open_model(recipe.model, config, options, nullptr);
}

std::string panel_of(const PretrainRecipe& recipe, Model& model, const MlmCorpus& corpus,
                     const MlmCorpus* validation, int threads) {
  const MlmCorpusSummary& summary = corpus.summary();
  const double mean =
      static_cast<double>(summary.tokens) / static_cast<double>(std::max<int64_t>(1, summary.sequences));
  int64_t count = 0;
  for (const NamedTensor& parameter : model.parameters()) count += parameter.tensor.numel();
  Panel panel;
  panel.add("model", model_line(model, recipe.model.path, recipe.model.random_init));
  panel.add("trainable", fmt::format("{}: all parameters", with_commas(count)));
  panel.add("text", summary.text());
  for (const std::string& note : corpus.notes()) panel.add("note", note);
  if (validation != nullptr) panel.add("validation", validation->summary().text());
  panel.add("masking", fmt::format("{:.0f}% of the {}", 100 * recipe.data.mask_probability,
                                   recipe.data.whole_word ? "words" : "tokens"));
  panel.add("optimizer", optimizer_line(recipe.train));
  panel.add("batch", batch_line(recipe.train, mean));
  panel.add("compute",
            fmt::format("{} on {} threads, seed {}", recipe.train.dtype, threads, recipe.train.seed));
  panel.add("memory", memory_line(model.architecture(), {}, count, recipe.train, mean));
  panel.add("output", recipe.output.dir);
  return panel.text();
}

TrainerSetup make_setup(const PretrainRecipe& recipe, Model& model, bool resume) {
  TrainerSetup setup;
  setup.options = recipe.train;
  setup.directory = recipe.output.dir;
  setup.resume = resume;
  setup.method = "full";
  setup.trainable = all_trainable(model.parameters());
  setup.recipe = recipe_to_json(recipe);
  setup.sinks.push_back(make_recipe_sink(setup.directory, to_yaml(recipe)));
  setup.sinks.push_back(make_console_sink());
  setup.sinks.push_back(make_jsonl_sink(setup.directory / "metrics.jsonl"));
  if (recipe.output.tensorboard) setup.sinks.push_back(make_tensorboard_sink(setup.directory));
  return setup;
}

void pretrain(const PretrainArguments& arguments, const CommonOptions& common) {
  const PretrainRecipe recipe = load_recipe<PretrainRecipe>(arguments.recipe, common);
  const RunDirectory run_directory(recipe.output.dir, recipe.output.overwrite, arguments.resume);
  const fs::path directory = recipe.output.dir;
  const int threads = use_threads(recipe.train.threads);
  const ModelConfig config = load_supported_config(recipe.model.path);
  const auto tokenizer = load_tokenizer(recipe.model.path, config);
  const MlmCorpus corpus = build_corpus(recipe.data.train, recipe, *tokenizer, config);
  std::optional<MlmCorpus> validation;
  if (!recipe.data.validation.empty())
    validation = build_corpus(recipe.data.validation, recipe, *tokenizer, config);
  const std::unique_ptr<Model> model = load_for_pretraining(recipe, config);

  std::ostream& out = common.json ? std::cerr : std::cout;
  const MlmCorpus* held_out = validation ? &*validation : nullptr;
  out << "msplora pretrain " << arguments.recipe.file << "\n"
      << panel_of(recipe, *model, corpus, held_out, threads) << std::flush;

  TaskSettings settings;
  settings.tokenizer = tokenizer;
  settings.mask = {recipe.data.mask_probability, recipe.data.whole_word,
                   static_cast<uint64_t>(recipe.train.seed), recipe.data.first_token};
  const auto task = make_task("masked_lm", std::move(settings));
  std::vector<NamedExamples> parts;
  if (held_out != nullptr) parts.push_back({"validation", all_of(*held_out)});
  TrainingData data(*task, *model, all_of(corpus), batch_options(recipe.train), parts,
                    recipe.train.eval_batch_tokens);
  TrainerSetup setup = make_setup(recipe, *model, arguments.resume);
  const std::vector<TrainableTensor> trainable = setup.trainable;
  const TrainingResult result = Trainer(std::move(setup), data).run();
  if (result.paused) {
    out << fmt::format("paused after step {} of {}; continue with --resume\n", result.steps,
                       result.total_steps);
    if (common.json) print_json({{"run", recipe.output.dir}, {"paused", true}, {"steps", result.steps}});
    return;
  }

  const fs::path saved = directory / "model";
  save_model(*model, saved, parse_dtype(arguments.save_dtype));
  tokenizer->save(saved);
  Json summary = training_summary(result, recipe.train, "full", trainable);
  summary["run"] = recipe.output.dir;
  summary["model"] = saved.string();
  write_file_atomically(directory / "metrics.json", summary.dump(2) + "\n");
  if (common.json) {
    print_json(summary);
  } else {
    std::cout << fmt::format("done: {} steps in {:.1f} s, {:.0f} tokens/s\n  {:<9} {}\n  {:<9} {}\n",
                             result.steps, result.seconds, result.tokens_per_second, "model", saved.string(),
                             "metrics", (directory / "metrics.json").string());
  }
}

}  // namespace

Command add_pretrain(CLI::App& program, CommonOptions& common) {
  CLI::App* command =
      program.add_subcommand("pretrain", "Train all of an encoder as a masked language model");
  auto arguments = std::make_shared<PretrainArguments>();
  add_recipe_arguments(*command, arguments->recipe, /*writes=*/true);
  command->add_flag("--resume", arguments->resume,
                    "Continue from the newest checkpoint of the run directory");
  command->add_option("--save-dtype", arguments->save_dtype, "Type of the saved weights")
      ->transform(dtype_choice({"float32", "bfloat16", "float16"}));
  add_recipe_help<PretrainRecipe>(*command);
  add_common(*command, common);
  return {command, [arguments, &common] { pretrain(*arguments, common); }};
}

}  // namespace msplora
