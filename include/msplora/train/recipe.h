#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "msplora/adapters/config.h"
#include "msplora/core/error.h"
#include "msplora/core/options.h"
#include "msplora/core/threads.h"
#include "msplora/data/options.h"
#include "msplora/kernels/gemm.h"
#include "msplora/tasks/task.h"

namespace msplora {

/// The base model of a run.
struct ModelOptions {
  std::string path;
  bool random_init = false;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("path", path,
            "Hugging Face model directory (config.json, safetensors, tokenizer files), or a GGUF file");
    visitor(
        "random_init", random_init,
        "Ignore the weights of the directory and draw all of them from the seed (pretraining, control runs)");
  }
};

/// What is learned.
struct TaskOptions {
  std::string type = "classification";

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("type", type, "What the model learns to predict", one_of(task_names()));
  }
};

/// What the model writes at every evaluation, for people to read.
struct SampleOptions {
  std::vector<std::string> prompts;
  int64_t max_new_tokens = 64;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("prompts", prompts,
            "What is asked before training and at every evaluation; the answers are printed and stand in "
            "samples.jsonl of output.dir");
    visitor("max_new_tokens", max_new_tokens, "Tokens of an answer at most", at_least(1));
  }
};

/// How it is learned. Counts of steps are optimizer steps.
struct TrainOptions {
  int64_t epochs = 3;
  int64_t max_steps = 0;
  int64_t stop_at = 0;
  std::optional<int64_t> batch_size;
  std::optional<int64_t> token_budget;
  int64_t accumulation = 1;

  std::string optimizer = "adamw";
  double lr = 5e-4;
  std::optional<double> head_lr;
  double weight_decay = 0.01;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  std::string schedule = "linear";
  int64_t warmup_steps = 0;
  double warmup_ratio = 0.0;
  double clip_norm = 1.0;

  std::string dtype = "float32";
  std::string matmul_precision = "exact";
  std::string device = "cpu";
  std::optional<double> dropout;
  bool checkpoint_activations = false;
  int64_t seed = 42;
  int64_t threads = 0;

  int64_t log_every = 10;
  int64_t eval_every = 0;
  int64_t eval_batch_tokens = 4096;
  int64_t save_every = 0;
  int64_t keep_checkpoints = 1;
  std::string best_metric;
  bool load_best_at_end = true;
  int64_t early_stopping_patience = 0;
  SampleOptions samples;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("epochs", epochs, "Passes over the training data", at_least(1));
    visitor("max_steps", max_steps,
            "Stop after this many optimizer steps, whatever `epochs` says; 0: no limit", at_least(0));
    visitor(
        "stop_at", stop_at,
        "Pause after this step with a checkpoint, to be continued with --resume; 0: never. The schedule does "
        "not know of it",
        at_least(0));
    visitor("batch_size", batch_size, "Sequences in a micro-batch; 32 when token_budget is not given either",
            at_least(1));
    visitor("token_budget", token_budget, "Tokens in a micro-batch, instead of batch_size", at_least(1));
    visitor("accumulation", accumulation, "Micro-batches of one optimizer step", at_least(1));
    visitor("optimizer", optimizer, "AdamW, or gradient descent without momentum (beta1, beta2, eps unused)",
            one_of({"adamw", "sgd"}));
    visitor("lr", lr, "Peak learning rate", above(0));
    visitor("head_lr", head_lr, "Peak learning rate of the head; default: lr", above(0));
    visitor("weight_decay", weight_decay, "Decoupled weight decay; biases and norms have none", at_least(0));
    visitor("beta1", beta1, "Decay of the first moment", probability_below_one());
    visitor("beta2", beta2, "Decay of the second moment", probability_below_one());
    visitor("eps", eps, "Added to the root of the second moment", above(0));
    visitor("schedule", schedule, "Learning rate after the warm-up: down to 0 (linear, cosine) or kept",
            one_of({"linear", "cosine", "constant"}));
    visitor("warmup_steps", warmup_steps, "Steps over which the learning rate rises from 0", at_least(0));
    visitor("warmup_ratio", warmup_ratio, "The same as a share of all steps", probability_below_one());
    visitor("clip_norm", clip_norm, "Largest global norm of the gradients; 0: no clipping", at_least(0));
    visitor("dtype", dtype, "Type of activations and frozen weights; trained tensors are always float32",
            one_of({"float32", "bfloat16"}));
    visitor("matmul_precision", matmul_precision,
            "Products of float32 on processors with matrix units (AMX), with frozen matrices, in "
            "attention and of low rank: in float32, or of three (high: as exact) or two (medium: 16 bits) "
            "bfloat16 parts; without such units always exact",
            one_of(kernels::precision_names()));
    visitor("device", device, "Where the model runs: cpu, cuda or cuda:N");
    visitor("dropout", dropout, "Dropout of the base model, instead of what its config.json says",
            probability_below_one());
    visitor("checkpoint_activations", checkpoint_activations,
            "Keep the input of each block alone and run the block again in the backward pass: less memory, "
            "up to half more products, the same gradients");
    visitor("seed", seed, "Seed of fresh weights, shuffling, dropout and masking", at_least(0));
    visitor("threads", threads, "Threads; 0: as many as the machine has", between(0, kMostThreads));
    visitor("log_every", log_every, "Steps between log lines", at_least(1));
    visitor("eval_every", eval_every, "Steps between evaluations; 0: after each epoch", at_least(0));
    visitor("eval_batch_tokens", eval_batch_tokens, "Tokens in a batch of evaluation", at_least(1));
    visitor("save_every", save_every, "Steps between checkpoints; 0: with each evaluation", at_least(0));
    visitor("keep_checkpoints", keep_checkpoints, "Newest checkpoints kept (the best one is kept besides)",
            at_least(1));
    visitor("best_metric", best_metric,
            "Metric of the evaluation that picks the best checkpoint; empty: the task's first one");
    visitor("load_best_at_end", load_best_at_end,
            "End with the weights of the best evaluation, not the last ones");
    visitor("early_stopping_patience", early_stopping_patience,
            "Stop after this many evaluations in a row without a better metric; 0: never", at_least(0));
    visitor("samples", samples, "Texts that the model writes while it is trained, for sft and causal_lm");
  }
};

/// Where the results go.
struct OutputOptions {
  std::string dir;
  bool overwrite = false;
  bool save_peft = true;
  bool save_native = true;
  bool tensorboard = true;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("dir", dir, "Directory of the run: metrics, checkpoints, adapter");
    visitor("overwrite", overwrite, "Write into `dir` even when it exists and is not empty");
    visitor("save_peft", save_peft, "Write the adapter in PEFT's form (where it has one for the method)");
    visitor("save_native", save_native, "Write the adapter in the native form");
    visitor("tensorboard", tensorboard, "Write a TensorBoard event file");
  }
};

/// Everything that a run of `train` depends on, as written in a recipe file.
struct Recipe {
  ModelOptions model;
  TaskOptions task;
  DataConfig data;
  AdapterConfig adapter;
  TrainOptions train;
  OutputOptions output;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("model", model, "The base model");
    visitor("task", task, "What is learned");
    visitor("data", data, "The text");
    visitor("adapter", adapter, "The method of adaptation");
    visitor("train", train, "The training");
    visitor("output", output, "The results");
  }
};

/// Everything that a run of `pretrain` depends on: training of all parameters on plain text, of encoders as
/// masked, of decoders as causal language models.
/// model.path may hold no weights when model.random_init is set.
struct PretrainRecipe {
  ModelOptions model;
  PretrainDataConfig data;
  TrainOptions train;
  OutputOptions output;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("model", model, "The model: its shape and tokenizer, and its weights unless random_init is set");
    visitor("data", data, "The text");
    visitor("train", train, "The training");
    visitor("output", output, "The results");
  }
};

/// Adds every problem that no single option's range shows: options that exclude each other or miss a partner.
/// `where` is the name of the recipe file.
void check_recipe(const Recipe& recipe, ErrorList& errors, const std::string& where = "recipe");
void check_recipe(const PretrainRecipe& recipe, ErrorList& errors, const std::string& where = "recipe");

/// The same for a training configuration alone (used by check_recipe).
void check_train_options(const TrainOptions& train, ErrorList& errors, const std::string& where = "recipe");

/// Sequences in a micro-batch when no token budget is given.
inline constexpr int64_t kDefaultBatchSize = 32;

/// Every option with its value, nested as in the file: what checkpoints and metrics.json record.
nlohmann::json recipe_to_json(const Recipe& recipe);
nlohmann::json recipe_to_json(const PretrainRecipe& recipe);

/// Keys of `after` (dotted) that differ from `before` and matter for continuing a run: where output goes, how
/// often it is logged or saved, and the number of threads may change, and so
/// may the length of the run (whose schedule then spans the new length); everything else may not.
std::vector<std::string> changed_keys(const nlohmann::json& before, const nlohmann::json& after);
/// The same with another set of keys that may change; an entry that ends with "." stands for a section.
std::vector<std::string> changed_keys(const nlohmann::json& before, const nlohmann::json& after,
                                      const std::set<std::string>& free_keys);

}  // namespace msplora
