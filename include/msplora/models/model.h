#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "msplora/io/weight_source.h"
#include "msplora/models/architecture.h"
#include "msplora/models/key_value_cache.h"
#include "msplora/models/model_config.h"
#include "msplora/nn/context.h"
#include "msplora/nn/linear.h"
#include "msplora/nn/named_tensor.h"

namespace msplora {

/// A transformer with a head, over packed batches. Inputs lie on the CPU and are brought to the model's
/// device, where its outputs stay.
///
/// Every pass first checks its input (PackedInput says what each member holds). It throws Error{kUsage} for
/// members of another type, shape or count, and for rows that are not there; Error{kData} for token ids and
/// segments that the model does not know, for sequences without tokens and for longer ones than it takes.
///
/// Several threads may run forward, loss_sum and decode (with caches of their own) at a time, but for
/// training passes with an adapter, as long as nobody changes parameters, layers or adapters meanwhile.
///
/// Gradients have no gradients: on the CPU a backward pass with create_graph throws Error{kUsage}.
class Model {
 public:
  virtual ~Model() = default;

  /// Logits in float32 (float64 for a model in float64): [B, num_labels] for sequence classification, [N,
  /// vocab_size] for language models, where N counts input.output_rows (all T rows when undefined).
  virtual at::Tensor forward(const PackedInput& input, const ForwardContext& context) = 0;

  /// Language models: Σ of the cross entropies of labels, int64, one for each row of forward(). A float32
  /// (float64) scalar. The logits never exist as a whole. Throws Error{kUsage} for other models, whose loss
  /// is cross_entropy_sum or squared_error_sum of forward() (nn/functional.h), and for labels of another type
  /// or count; Error{kData} for a label that the model does not know.
  virtual at::Tensor loss_sum(const PackedInput& input, const at::Tensor& labels,
                              const ForwardContext& context) = 0;

  /// Causal language models: forward() of texts that the cache holds the beginnings of. Sequence i of the
  /// input continues sequences[i], whose new keys and values the cache then has too; where something is
  /// thrown, it is as before. Without a graph. Throws as forward(), for texts longer than the model takes,
  /// and Error{kUsage} for other models.
  virtual at::Tensor decode(const PackedInput& input, KeyValueCache& cache,
                            std::span<const KeyValueCache::Sequence> sequences) = 0;

  /// Every linear layer that an adapter may change, in order of execution. The pointers live as long as the
  /// model.
  virtual std::vector<Site> sites() = 0;

  /// Every parameter under its Hugging Face name; a tied one is listed once, under the name it is stored by.
  /// Tensors and weights are the model's own.
  virtual std::vector<Parameter> parameters() = 0;

  /// Gives the output layer of a language model a matrix of its own, with the values of the table of words
  /// that it was tied to; parameters(), architecture() and config() (tie_word_embeddings: false) then say so.
  /// Nothing where it has one. Throws Error{kModel} for models that are tied whatever their config.json says.
  virtual void untie() = 0;

  /// Module paths of the head (e.g. {"classifier"}): trained and saved whole beside an adapter.
  virtual std::vector<std::string> head_modules() const = 0;

  /// config.json, as it is saved with the model.
  const ModelConfig& config() const { return config_; }
  ModelConfig& mutable_config() { return config_; }
  const Architecture& architecture() const { return architecture_; }
  ModelTask task() const { return architecture_.task; }
  /// Dtype of activations and frozen weights.
  at::ScalarType compute_dtype() const { return compute_dtype_; }
  /// Where parameters and outputs lie.
  at::Device device() const { return device_; }
  /// Expires with the model, for what may outlive it.
  std::weak_ptr<const void> lifetime() const { return lifetime_; }

 protected:
  Model(ModelConfig config, Architecture architecture, at::ScalarType compute_dtype, at::Device device)
      : config_(std::move(config)),
        architecture_(std::move(architecture)),
        compute_dtype_(compute_dtype),
        device_(device) {}

  Architecture& mutable_architecture() { return architecture_; }

 private:
  ModelConfig config_;
  Architecture architecture_;
  at::ScalarType compute_dtype_;
  at::Device device_;
  std::shared_ptr<const void> lifetime_ = std::make_shared<char>();
};

struct ModelLoadOptions {
  ModelTask task = ModelTask::kSequenceClassification;
  int64_t num_labels = 0;  // 0: what config.json says; a head of another number is drawn anew
  at::ScalarType compute_dtype = at::kFloat;  // or kBFloat16, kDouble
  at::Device device = at::kCPU;               // where all parameters lie and the model runs (nn/device.h)
  uint64_t seed = 0;                          // of fresh weights
  bool random_init = false;                   // ignore the checkpoint's weights and draw all of them
  std::optional<double> dropout;  // of hidden states, attention and head, instead of what config.json says;
                                  // at least 0, below 1
  bool keep_float32 = false;      // keep parameters in float32 (full training) and convert on use
};

/// What loading had to decide; printed by the programs.
struct ModelLoadReport {
  std::vector<std::string> fresh;    // parameters that the checkpoint lacks and that were drawn (heads)
  std::vector<std::string> ignored;  // tensors of the checkpoint that the task does not use (e.g. lm_head.*)
  int64_t replaced_rows = 0;         // outputs of the checkpoint's head, where another number was asked for
  std::string foreign_head;          // class of the checkpoint, where its head is that of another task

  /// Why the head was drawn although the checkpoint has one; empty when it has none or its own was taken.
  std::string replaced_head() const;
};

/// The weights of a model directory or of a GGUF file, whose settings `config` has. Throws Error{kIo} or
/// Error{kFormat} where there are none or they are damaged.
std::unique_ptr<WeightSource> open_weights(const std::filesystem::path& path, const ModelConfig& config);

/// Reads a Hugging Face model directory (config.json and safetensors) or a GGUF file.
/// Throws Error{kModel} listing together every missing, unexpected and mis-shaped tensor, Error{kFormat} for
/// damaged files, Error{kNumerics} when a weight is not finite, Error{kConfig} when the labels of config.json
/// are wanted (num_labels 0) and contradict each other, Error{kUsage} listing the options that no model can
/// have. The parameters can be trained, also where this is called in c10::InferenceMode.
std::unique_ptr<Model> load_model(const std::filesystem::path& directory, const ModelLoadOptions& options,
                                  ModelLoadReport* report = nullptr);

/// What load_model would decide, from config.json and the headers of the weights alone. Throws like
/// load_model, but sees no values.
ModelLoadReport plan_load(const std::filesystem::path& directory, const ModelLoadOptions& options);

/// A model of the given shape with drawn weights (std = initializer_range); nothing is read. Throws
/// Error{kUsage} as load_model.
std::unique_ptr<Model> create_model(const ModelConfig& config, const ModelLoadOptions& options);

/// The sites of a model without allocating it (`linear` is null).
std::vector<Site> sites_of_shape(const Architecture& architecture);
std::vector<Site> sites_of_shape(const ModelConfig& config, ModelTask task);

/// The parameters of a model of this shape on the meta device: names and shapes without numbers, whatever the
/// size of the model. Throws like create_model.
std::vector<Parameter> parameters_of_shape(const ModelConfig& config, ModelTask task);

/// Writes config.json and model.safetensors (names and dtype of `dtype`: kFloat, kBFloat16, kHalf or
/// kDouble), so that Hugging Face loads it. Throws Error{kUsage} for another type, and when layers carry an
/// adapter, which belongs in files of its own or is merged before (merge_adapter); Error{kIo} where
/// `directory` cannot be made, as where it is a file.
void save_model(Model& model, const std::filesystem::path& directory, at::ScalarType dtype);

}  // namespace msplora
