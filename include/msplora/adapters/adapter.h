#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "msplora/adapters/config.h"
#include "msplora/nn/linear.h"

namespace msplora {

/// Which learning rate and report line a trainable tensor belongs to.
enum class ParameterGroup { kAdapter, kBias, kHead };

struct TrainableTensor {
  std::string name;   // stable; the key in native files and checkpoints
  at::Tensor tensor;  // float32 leaf, requires_grad (float64 in a model that computes in float64)
  ParameterGroup group = ParameterGroup::kAdapter;
  int64_t level = 0;  // level of the pyramid (0 for methods without levels)
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
  std::vector<Site> sites;                 // every linear layer of the model
  std::vector<NamedParameter> parameters;  // every parameter of the model, aliasing its storage
  std::vector<std::string> head_modules;   // trained and saved whole, e.g. {"classifier"}
};

/// Where training stands, given to adapters that react to it.
struct TrainingProgress {
  int64_t step = 0;         // optimizer steps done
  int64_t total_steps = 0;  // of the whole run
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
  /// tensor is one entry under its owner's name.
  const std::vector<TrainableTensor>& trainable() const { return trainable_; }
  int64_t trainable_count(ParameterGroup group) const;

  /// The low-rank terms of one targeted site (levels in order, aliasing the trainable tensors).
  virtual std::vector<LowRankTerm> terms(size_t site_index) const = 0;

  /// The dense change of one site's weight in float32, [out, in].
  virtual at::Tensor delta_weight(size_t site_index) const;

  /// Called before each optimizer step's forward passes. Returns the names of the tensors that are frozen now
  /// (stage-wise training); empty for most methods.
  virtual std::vector<std::string> frozen_now(const TrainingProgress& progress) const { return {}; }

  /// Which sites share which tensors, as recorded in native files and compared on load; null for most
  /// methods.
  virtual nlohmann::json plan() const { return nullptr; }

  /// Why the update has no exact LoRA form (PEFT files), or "" when its terms are that form.
  virtual std::string lora_form_refusal() const { return {}; }

  /// State beyond trainable tensors and config that a resumed run needs; null for most methods.
  virtual nlohmann::json state() const { return nullptr; }
  virtual void restore_state(const nlohmann::json& state) {}

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
};
std::vector<MethodInfo> adapter_methods();

/// Trainable tensors that the method would make on these sites (shapes only, nothing allocated): the counts
/// of `inspect`, per level.
struct ParameterCount {
  int64_t total = 0;
  std::vector<int64_t> per_level;
  std::vector<std::vector<int64_t>> owners;  // per level: layer indices that own a tensor
};
/// Throws like create_adapter. `head_modules` are never targeted; the default
/// names the heads of Hugging Face models.
ParameterCount count_parameters(const AdapterConfig& config, const std::vector<Site>& sites,
                                int64_t num_layers,
                                const std::vector<std::string>& head_modules = {"classifier", "score",
                                                                                "lm_head", "cls"});

}  // namespace msplora
