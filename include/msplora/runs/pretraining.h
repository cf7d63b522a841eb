#pragma once

#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "msplora/data/text_corpus.h"
#include "msplora/models/model.h"
#include "msplora/runs/run.h"

namespace msplora {

/// Everything that a run of `pretrain` works on.
struct PretrainingRun {
  PretrainRecipe recipe;
  bool resume = false;
  std::stop_token stop;
  std::vector<std::string> warnings;        // of opening and training it
  std::unique_ptr<RunDirectory> directory;  // null until open_run()
  int threads = 0;
  ModelConfig config;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::optional<TextCorpus> train, validation;
  std::unique_ptr<Task> task;
  std::unique_ptr<Model> model;
};

/// Whether a model of this kind is pretrained on masked text (encoders), or on each token from those before
/// it.
bool learns_masked_text(const ModelConfig& config);

/// As for a recipe of `train`; check_run() only looks for the text.
PretrainingRun check_run(const PretrainRecipe& recipe, ErrorList& errors);
PretrainingRun open_run(const PretrainRecipe& recipe, const OpenOptions& options = {});

/// Trains all parameters and writes the model in `saved_dtype` with its tokenizer, and metrics.json.
RunReport train(PretrainingRun& run, at::ScalarType saved_dtype,
                std::vector<std::unique_ptr<EventSink>> sinks = {});

}  // namespace msplora
