#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "msplora/adapters/config.h"
#include "msplora/io/safetensors.h"
#include "msplora/nn/linear.h"
#include "msplora/nn/named_tensor.h"

namespace msplora {

/// Which learning rate and report line a trainable tensor belongs to.
enum class ParameterGroup { kAdapter, kBias, kHead };

struct TrainableTensor {
  std::string name;   // stable; the key in native files and checkpoints
  at::Tensor tensor;  // float32 leaf, requires_grad (float64 in a model that computes in float64)
  ParameterGroup group = ParameterGroup::kAdapter;
  int64_t level = 0;      // level of the pyramid (0 for methods without levels)
  double lr_scale = 1.0;  // multiplies the learning rate (LoRA+)
};

/// Heads of the attention, for methods whose factors know of them; 0: unknown.
struct AttentionHeads {
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;  // = num_attention_heads without grouped-query attention
};

/// What an adapter is put on: a model seen through its sites and parameters, without knowing the model class.
///
/// `parameters` must hold the very tensors that the model computes with (the same at::Tensor handle as
/// Linear::weight and bias): parameters that are trained (heads, modules_to_save, biases) are switched to
/// requires_grad in place and all others off. Trained matrices become float32 copies of their own (the stored
/// ones may be views of a read-only file or of the compute dtype; layers convert on use); trained vectors
/// (biases, norms) must be float32 already, whatever the compute dtype, or creating the adapter throws.
struct AdapterTarget {
  std::string model_type;
  std::string base_name;          // directory or hub name of the base, recorded in adapter files
  uint64_t base_fingerprint = 0;  // of the frozen weights (fingerprint.h); 0: unknown, not checked
  std::string task_type;          // PEFT's: "SEQ_CLS", "CAUSAL_LM", or "" for none
  int64_t num_layers = 0;
  AttentionHeads heads;
  std::vector<Site> sites;                // every linear layer of the model
  std::vector<NamedTensor> parameters;    // every parameter of the model, aliasing its storage
  std::vector<std::string> head_modules;  // trained and saved whole, e.g. {"classifier"}
};

/// Where training stands, given to adapters that react to it.
struct TrainingProgress {
  int64_t step = 0;         // optimizer steps done
  int64_t total_steps = 0;  // of the whole run
};

/// What a method may do to the optimizer's state of its tensors.
class OptimizerControl {
 public:
  virtual ~OptimizerControl() = default;
  /// Moments and step count of the tensor back to zero (a factor that starts anew).
  virtual void reset(const std::string& name) = 0;
};

/// Learning rate and constants of the coming optimizer step, for methods that make their own.
struct StepRule {
  std::string optimizer = "adamw";  // train.optimizer; sgd has no moments
  double lr = 0.0;
  double weight_decay = 0.0;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double gradient_scale = 1.0;  // of clipping; multiplies every gradient
};

/// An adapter as a tuner of PEFT other than LoRA has it.
struct PeftTuner {
  std::string peft_type;             // "GLORA"
  nlohmann::json options;            // the tuner's own entries of adapter_config.json
  std::vector<NamedTensor> tensors;  // by module path, without PEFT's prefix
  std::string refusal;               // why there is no exact form; "" when there is
};

/// A method applied to a model. Creating one checks the options against the sites, makes the trainable
/// tensors and attaches a SiteUpdate to every targeted Linear; destroying it detaches them. The model must
/// outlive it.
class Adapter {
 public:
  virtual ~Adapter();
  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;

  const AdapterConfig& config() const { return config_; }
  const AdapterTarget& target() const { return target_; }
  /// The targeted sites, in the order of the model.
  const std::vector<Site>& sites() const { return sites_; }

  /// Every trainable tensor once: the method's own, then biases, then heads and modules_to_save. A shared
  /// tensor is one entry under its owner's name. A method may drop entries in the course of training; from
  /// then on `frozen_now` names them.
  const std::vector<TrainableTensor>& trainable() const { return trainable_; }
  int64_t trainable_count(ParameterGroup group) const;

  /// The low-rank terms of one targeted site (levels in order, aliasing the trainable tensors).
  virtual std::vector<LowRankTerm> terms(size_t site_index) const = 0;

  /// The dense change of one site's weight in float32, [out, in].
  virtual at::Tensor delta_weight(size_t site_index) const;
  /// The change of its bias, [out]; undefined when the method leaves biases alone. Both changes are those of
  /// the stored weight: ask for both before either is applied.
  virtual at::Tensor delta_bias(size_t site_index) const { return {}; }

  /// Called before each optimizer step's forward passes. Returns the names of the tensors that are frozen now
  /// (stage-wise training); empty for most methods.
  virtual std::vector<std::string> frozen_now(const TrainingProgress& progress) const { return {}; }

  /// Which sites share which tensors, as recorded in native files and compared on load; null for most
  /// methods.
  virtual nlohmann::json plan() const { return nullptr; }

  /// Why the update has no exact LoRA form (PEFT files), or "" when its terms are that form.
  virtual std::string lora_form_refusal() const { return {}; }
  /// The form of another tuner of PEFT, asked for where there is no LoRA form; nothing for most methods.
  virtual std::optional<PeftTuner> peft_tuner() const { return std::nullopt; }

  /// State beyond trainable tensors and config that a resumed run and an adapter file need; null for most
  /// methods. restore_state is called after the values of trainable tensors and state_tensors are back.
  virtual nlohmann::json state() const { return nullptr; }
  virtual void restore_state(const nlohmann::json& state) {}
  /// Called before values of an adapter file are filled in: brings the set of trainable tensors to what the
  /// state says (ties of ASLoRA). Throws Error{kFormat} when the state does not fit this adapter.
  virtual void restore_structure(const nlohmann::json& state) {}
  /// Tensors of that state, live (aliasing the adapter's own): checkpoints and native files hold them, and
  /// loading copies into them. Names must not collide with trainable ones. The set may not change after
  /// creation.
  virtual std::vector<NamedTensor> state_tensors() const { return {}; }

  /// The events of an optimizer step, in their order. Called by the trainer alone.
  /// Before the forward passes of the step.
  virtual void on_step_begin(const TrainingProgress& progress) {}
  /// Gradients are complete (all micro-batches); the method may change them in place. What it leaves is what
  /// is looked at for infinities, measured, clipped and given to the optimizer.
  virtual void on_gradients(const TrainingProgress& progress) {}
  /// Names of the tensors that the method updates itself in `own_update`; the optimizer leaves them alone.
  virtual std::set<std::string> updated_by_method() const { return {}; }
  virtual void own_update(const TrainingProgress& progress, const StepRule& rule) {}
  /// After the optimizer step; progress.step counts it.
  virtual void on_step_end(const TrainingProgress& progress, OptimizerControl& optimizer) {}

  /// Methods that choose among the parts they have trained (GLoRA). `score` evaluates the model as it is at
  /// the moment, larger is better; `say` tells the user how it goes. The outcome depends on the weights, the
  /// seed and the scores alone, so a resumed run repeats it, and becomes part of state(). Returns what
  /// metrics.json records. Called by the trainer once: after `search_step` steps when the run has more of
  /// them, else with the weights that the run ends with.
  virtual bool has_search() const { return false; }
  virtual int64_t search_step(int64_t total_steps) const { return total_steps; }
  virtual nlohmann::json search(const std::function<double()>& score,
                                const std::function<void(const std::string&)>& say) {
    return nullptr;
  }

  /// The update of one site; by default its terms.
  virtual SiteUpdate update_of(size_t site_index) const;

  /// Factors on the learning rates of this step, by name; absent names have 1. For methods with a warm-up of
  /// their own.
  virtual std::map<std::string, double> lr_factors_now(const TrainingProgress& progress) const { return {}; }

  /// Whether rank, alpha, their patterns and use_rslora describe the terms as they do for LoRA, so that PEFT
  /// files keep them; otherwise scalings are folded into the factors.
  virtual bool keeps_lora_options() const { return false; }

  /// Tensors that a resumed run alone needs (running means, moments that the method keeps): checkpoints hold
  /// them, adapter files do not. Made when first asked for; otherwise as state_tensors. `optimizer` is
  /// train.optimizer.
  virtual std::vector<NamedTensor> training_tensors(const std::string& optimizer) { return {}; }

  /// Puts the updates on (off) the model's linear layers; created attached. Attaching again renews them.
  /// Throws Error{kUsage} when a layer carries another adapter.
  void attach();
  void detach();
  bool attached() const { return !attached_.empty(); }

  /// The base that the file this was loaded from names (PEFT's base_model_name_or_path); "" when created
  /// anew.
  const std::string& recorded_base() const { return recorded_base_; }

 protected:
  Adapter(AdapterConfig config, AdapterTarget target, std::vector<Site> sites);
  /// Registers a trainable tensor of the method itself (called by constructors of methods).
  at::Tensor add_trainable(std::string name, at::Tensor tensor, int64_t level = 0);

  AdapterConfig config_;
  AdapterTarget target_;
  std::vector<Site> sites_;
  std::vector<TrainableTensor> trainable_;

 private:
  friend struct AdapterBuilder;  // src/adapters/registry.h
  std::vector<std::pair<Linear*, std::shared_ptr<const SiteUpdate>>> attached_;
  std::string recorded_base_;
};

/// Matches, checks (all problems at once) and builds. `seed` determines the initial factors.
/// Throws Error{kConfig}: nothing matched (lists what exists, with shapes, and the nearest), rank above a
/// dimension, ...
std::unique_ptr<Adapter> create_adapter(const AdapterConfig& config, AdapterTarget target, uint64_t seed);

/// Names of the methods in the registry, with one sentence each.
struct MethodInfo {
  std::string name;
  std::string summary;
  bool takes_dropout = true;  // whether adapter.dropout acts
};
std::vector<MethodInfo> adapter_methods();

/// Trainable tensors that the method would make on these sites (shapes only, nothing allocated): the counts
/// of `inspect`, per level.
struct ParameterCount {
  int64_t total = 0;
  std::vector<int64_t> per_level;
  std::vector<std::vector<int64_t>> owners;  // per level: layer indices that own a tensor
  int64_t total_at_end = 0;                  // after what the method drops during training (merges of ASLoRA)
};
/// Throws like create_adapter. `head_modules` are never targeted; the default names the heads of Hugging Face
/// models. `heads` is needed by methods whose factors know of attention heads.
ParameterCount count_parameters(const AdapterConfig& config, const std::vector<Site>& sites,
                                int64_t num_layers, const AttentionHeads& heads,
                                const std::vector<std::string>& head_modules = {"classifier", "score",
                                                                                "lm_head", "cls"});
ParameterCount count_parameters(const AdapterConfig& config, const std::vector<Site>& sites,
                                int64_t num_layers,
                                const std::vector<std::string>& head_modules = {"classifier", "score",
                                                                                "lm_head", "cls"});

}  // namespace msplora
