#include "msplora/runs/pretraining.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/core/file.h"
#include "msplora/core/option_io.h"
#include "msplora/data/reader.h"
#include "msplora/io/safetensors.h"
#include "msplora/runs/model_files.h"
#include "msplora/train/training_data.h"
#include "runs/opening.h"

namespace msplora {
namespace {

TextCorpus read_corpus(const std::vector<std::string>& files, const PretrainingRun& run) {
  TextCorpusOptions options;
  options.max_length = effective_max_length(run.recipe.data.max_length, run.config);
  options.threads = static_cast<int>(run.recipe.train.threads);
  if (run.recipe.data.cache_dir) options.cache_dir = *run.recipe.data.cache_dir;
  const TextFrame frame = learns_masked_text(run.config) ? TextFrame::of(*run.tokenizer)
                                                         : TextFrame::of_documents(*run.tokenizer);
  return TextCorpus::build({files.begin(), files.end()}, *run.tokenizer, frame, options);
}

// What masking is told has no effect on a model that masks nothing.
void refuse_masking(const PretrainDataConfig& data, const std::string& model_type, ErrorList& errors) {
  const PretrainDataConfig usual;
  const auto refuse = [&](const char* key, bool is_given) {
    if (!is_given) return;
    errors.add(std::string("data.") + key,
               "has no effect: a model of type " + model_type + " learns each token from those before it",
               "remove it");
  };
  refuse("mask_probability", data.mask_probability != usual.mask_probability);
  refuse("whole_word", data.whole_word);
  refuse("first_token", data.first_token);
}

}  // namespace

bool learns_masked_text(const ModelConfig& config) {
  return supports_task(config.model_type, ModelTask::kMaskedLm);
}

PretrainingRun check_run(const PretrainRecipe& recipe, ErrorList& errors) {
  PretrainingRun run;
  run.recipe = recipe;
  run.threads = detail::use_compute_options(recipe.train, errors);
  const bool has_path = !recipe.model.path.empty();
  const auto config = has_path ? check_model(recipe.model, run.tokenizer, errors) : std::nullopt;
  if (config) {
    run.config = *config;
    if (!learns_masked_text(*config)) refuse_masking(recipe.data, config->model_type, errors);
  }
  if (config && !recipe.model.random_init) attempt(errors, [&] { open_weights(recipe.model.path, *config); });
  for (const auto* files : {&recipe.data.train, &recipe.data.validation}) {
    for (const std::string& file : *files) {
      attempt(errors, [&] {
        require_file(file);  // it is read now, and again to be encoded
        LineReader{file};
      });
    }
  }
  return run;
}

PretrainingRun open_run(const PretrainRecipe& recipe, const OpenOptions& options) {
  return detail::opened(options, [&] {
    PretrainingRun run = detail::checked_run(recipe, options);
    run.train = read_corpus(recipe.data.train, run);
    if (!recipe.data.validation.empty()) run.validation = read_corpus(recipe.data.validation, run);
    TaskSettings settings;
    settings.tokenizer = run.tokenizer;
    settings.mask = {recipe.data.mask_probability, recipe.data.whole_word,
                     static_cast<uint64_t>(recipe.train.seed), recipe.data.first_token};
    const TaskKind& kind = task_kind(learns_masked_text(run.config) ? "masked_lm" : "causal_lm");
    run.task = make_task(kind.name, std::move(settings));
    ModelLoadOptions load = load_options(recipe.model, recipe.train, kind.head, 0);
    load.keep_float32 = true;
    run.model = open_model(recipe.model, run.config, load, nullptr);
    return run;
  });
}

RunReport train(PretrainingRun& run, at::ScalarType saved_dtype,
                std::vector<std::unique_ptr<EventSink>> sinks) {
  const detail::TrainingScope scope(run);
  const TrainOptions& options = run.recipe.train;
  std::vector<NamedExamples> validation;
  if (run.validation) validation.push_back({"validation", all_of(*run.validation)});
  TrainingData data(*run.task, *run.model, all_of(*run.train), batch_options(options), std::move(validation),
                    options.eval_batch_tokens);
  TrainerSetup setup = trainer_setup(options, run.recipe.output, *run.directory, to_yaml(run.recipe),
                                     run.resume, std::move(sinks));
  setup.method = "full";
  setup.trainable = all_trainable(run.model->parameters());
  setup.recipe = recipe_to_json(run.recipe);
  const std::vector<TrainableTensor> trainable = setup.trainable;
  const TrainingResult result = Trainer(std::move(setup), data).run();

  RunReport report = report_of(result, options, "full", trainable);
  report.run = run.recipe.output.dir;
  if (result.paused) return report;
  report.model = run.directory->model().string();
  save_model(*run.model, run.directory->model(), saved_dtype);
  run.tokenizer->save(run.directory->model());
  report.warnings = run.warnings;
  run.directory->write(report);
  return report;
}

}  // namespace msplora
