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
#include "msplora/models/architecture.h"
#include "msplora/nn/linear.h"
#include "msplora/nn/named_tensor.h"

namespace msplora {

struct MergeReport;
namespace detail {
class TrainedBase;  // src/adapters/base_parameters.h
}

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
/// Linear::weight and bias): while an adapter is attached, the parameters that it trains (heads,
/// modules_to_save, biases) have its values and require gradients, and no others do. Trained matrices are
/// float32 copies of their own (the stored ones may be views of a read-only file or of the compute dtype;
/// layers convert on use); trained vectors (biases, norms) must be float32 already, whatever the compute
/// dtype, or creating the adapter throws.
struct AdapterTarget {
  std::string model_type;
  std::string base_name;            // directory or hub name of the base, recorded in adapter files
  uint64_t base_fingerprint = 0;    // of the frozen weights (fingerprint.h); 0: unknown, not checked
  nlohmann::json base_computation;  // what the base computes with (models/computation.h); null: unknown
  std::string task_type;            // PEFT's: "SEQ_CLS", "CAUSAL_LM", or "" for none
  int64_t num_layers = 0;
  AttentionHeads heads;
  std::vector<Site> sites;                // every linear layer of the model
  std::vector<Parameter> parameters;      // every parameter of the model, its own
  std::vector<std::string> head_modules;  // trained and saved whole, e.g. {"classifier"}
  std::vector<TiedName> ties;             // other names that Hugging Face has for some of the parameters
  std::function<void()> untie;            // gives tied layers matrices of their own (Model::untie)
  /// Expires with the model (Model::lifetime): adapters leave its layers alone from then on. Unset: the model
  /// outlives them.
  std::optional<std::weak_ptr<const void>> lifetime;
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

/// What is special about the coming optimizer step. Names are those of trainable tensors.
struct StepPlan {
  std::set<std::string> frozen = {};              // neither gradients nor updates (stage-wise training)
  std::set<std::string> updated_by_method = {};   // own_update moves them, the optimizer leaves them alone
  std::map<std::string, double> lr_factors = {};  // on the learning rates of this step; absent names have 1
};

/// The dense change of a layer's stored weight [out, in] (of a table of words [in, out]) and bias [out];
/// undefined where it stays as it is.
struct SiteChange {
  at::Tensor weight, bias;
};

/// What the change of a site is beside its low-rank terms, where they are not all of it:
/// dW = W0 ∘ (left right) + diag(gain) Σ s B A. In float64.
struct WeightScaling {
  at::Tensor left, right;  // [out, k] and [k, in]; undefined: nothing is made of W0
  at::Tensor gain;         // [out]; undefined: 1

  bool empty() const { return !left.defined() && !gain.defined(); }
};

/// What an adapter holds beside options and trainable tensors. Tensors are live (aliasing the adapter's own):
/// who stores them reads them, who restores copies into them.
struct AdapterState {
  nlohmann::json plan;               // which sites share which tensors, compared when a file is read; or null
  nlohmann::json facts;              // what the training has decided (merges, rounds, a search); or null
  std::vector<NamedTensor> tensors;  // belonging to the facts: in files and checkpoints
  std::vector<NamedTensor> training;  // what a resumed run alone needs: in checkpoints
};

/// When of two moments restore() is called.
enum class RestorePhase { kStructure, kValues };

/// Methods that choose among the parts that they have trained (GLoRA). The outcome depends on the weights,
/// the seed and the scores alone, so a resumed run repeats it, and becomes part of the adapter's facts.
class Search {
 public:
  virtual ~Search() = default;
  /// It is due after so many steps when the run has more of them, else with the weights that it ends with.
  virtual int64_t due(int64_t total_steps) const = 0;
  /// `score` evaluates the model as it is at the moment, larger is better; `say` tells the user how it goes.
  /// Returns what metrics.json records.
  virtual nlohmann::json run(const std::function<double()>& score,
                             const std::function<void(const std::string&)>& say) = 0;
};

/// A method applied to a model. Creating one checks the options against the sites, makes the trainable
/// tensors and attaches a SiteUpdate to every targeted Linear; destroying it detaches them. While it is
/// attached, detached or trained, no other thread may use the model (models/model.h). All else needs the
/// model; one that is gone may be destroyed and assigned to.
///
/// What an adapter trains of the base itself (heads, modules_to_save, biases) changes places with the base's
/// values when it is attached and detached, so that adapters take turns on one base, each with its own head,
/// and leave the base and its requires_grad as they found them. Kept for that are the base's values of the
/// trained parameters: of matrices as they were loaded (in a model read from a file on the CPU pages of that
/// file, else a copy in memory, which for method `full` is all of the model), of vectors a copy.
///
/// What a method does beyond its trainable tensors is in the virtual functions. An optimizer step calls them
/// in this order, the same on every rank of a run:
///
///   begin_step -> forward and backward passes (the updates) -> reduced_state -> gradients_ready ->
///   the optimizer -> own_update -> end_step
///
/// and once, when it is due, search. terms, change_of and state may be asked for between steps. Most methods
/// override few of them: LoRA and its like (src/adapters/low_rank.h) none.
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
  /// then on the step plan names them as frozen. Ask again after attach() or detach(): of a trained vector of
  /// the base the tensor is the model's own while the adapter is attached, and another one while it is not.
  const std::vector<TrainableTensor>& trainable() const { return trainable_; }
  int64_t trainable_count(ParameterGroup group) const;

  /// The update of one site, put on its layer when the adapter is attached; by default its terms.
  virtual SiteUpdate update_of(size_t site_index) const;

  /// Before the forward passes of a step.
  virtual StepPlan begin_step(const TrainingProgress& /*progress*/) { return {}; }
  /// What the forward passes of a step have observed, each [micro-batches, ...]. Where several processes
  /// train together, they hold those of all of them afterwards, in the order of micro-batches; everything
  /// else that an adapter keeps is the same on every rank, since it follows from gradients that are summed.
  virtual std::vector<at::Tensor*> reduced_state() { return {}; }
  /// Gradients are complete (all micro-batches and ranks); the method may change them in place. What it
  /// leaves is what is looked at for infinities, measured, clipped and given to the optimizer.
  virtual void gradients_ready(const TrainingProgress& /*progress*/) {}
  /// Behind the optimizer, for the tensors that the step plan names.
  virtual void own_update(const TrainingProgress& /*progress*/, const StepRule& /*rule*/) {}
  /// After the step; progress.step counts it.
  virtual void end_step(const TrainingProgress& /*progress*/, OptimizerControl& /*optimizer*/) {}
  /// Null for most methods; owned by the adapter.
  virtual Search* search() { return nullptr; }

  /// The low-rank terms of one targeted site (levels in order, aliasing the trainable tensors): what files,
  /// federation and analysis see of the update.
  virtual std::vector<LowRankTerm> terms(size_t site_index) const = 0;
  /// The parts that the method makes its updates of, by name: the levels of MSPLoRA. One for most methods.
  virtual std::vector<std::string> level_names() const { return {"update"}; }
  /// Of each of terms(site_index), the index of its level; by default all are of the first.
  virtual std::vector<size_t> levels_of_terms(size_t site_index) const;
  /// Empty where the terms are the whole change. Throws Error{kUsage} when the base is not there.
  virtual WeightScaling weight_scaling(size_t /*site_index*/) const { return {}; }
  /// The change of one site, in float32 (float64 in a model of float64); by default the sum of its terms,
  /// formed in float64 and rounded once. It is that of the stored tensors: ask for it before it is applied.
  virtual SiteChange change_of(size_t site_index) const;

  /// `optimizer`: empty for what files hold; train.optimizer for what checkpoints hold, with what a resumed
  /// run alone needs, which is made when first asked for. The sets of tensors do not change after creation,
  /// and names do not collide with trainable ones.
  virtual AdapterState state(const std::string& /*optimizer*/ = {}) const { return {}; }
  /// Takes the facts of a file or checkpoint over. kStructure comes before values are filled in and brings
  /// the set of trainable tensors to what the facts say (ties of ASLoRA), kValues after trainable tensors and
  /// those of the state are back. Throws Error{kFormat} when the facts do not fit this adapter.
  virtual void restore(const nlohmann::json& /*facts*/, RestorePhase /*phase*/) {}

  /// Puts the updates on (off) the model's linear layers and the trained parameters of the base in (out);
  /// created attached. Attaching again renews the updates. Throws Error{kUsage} when a layer carries another
  /// adapter, another one that is attached trains the same parameters of the base (every adapter of a
  /// classifier has its head), the adapter was merged, or the model is gone.
  void attach();
  /// The same with the terms of one level left out (an index of level_names()), to see what it does. attach()
  /// puts the whole back; trainable tensors are not touched.
  void attach_without(size_t level);
  /// Nothing where it is not attached.
  void detach();
  bool attached() const { return place_ == Place::kOnModel; }
  /// Whether merge_adapter() has made it a part of the model.
  bool is_merged() const { return place_ == Place::kMerged; }
  /// Whether it was read for sites of which the shapes alone are known. It is on no layer then, has neither
  /// heads nor biases, and what needs W0 (change_of of some methods, weight_scaling) throws.
  bool is_shape_only() const;

  /// The base that the file this was loaded from names (PEFT's base_model_name_or_path); "" when created
  /// anew.
  const std::string& recorded_base() const { return recorded_base_; }
  /// Whether it was made by create_adapter or load_adapter. One of a class of your own was not: it can be
  /// trained and merged, but not saved, since its files would be read as those of another method.
  bool is_of_registry() const { return is_of_registry_; }

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
  friend MergeReport merge_adapter(Adapter& adapter, at::ScalarType stored_dtype);
  enum class Place { kOffModel, kOnModel, kMerged };

  void attach_updates(const std::function<SiteUpdate(size_t)>& update);
  void take_updates_off();
  bool is_model_gone() const;
  void become_merged();
  void name_base_tensors();

  Place place_ = Place::kOffModel;
  std::vector<std::pair<Linear*, std::shared_ptr<const SiteUpdate>>> attached_;
  std::unique_ptr<detail::TrainedBase> base_;  // null: it trains nothing of the base
  std::string recorded_base_;
  bool is_of_registry_ = false;
};

/// Matches, checks (all problems at once) and builds. `seed` determines the initial factors.
/// With config.init_from the values are those of that adapter, whose settings the config must have
/// (settings_from, files.h).
/// Throws Error{kConfig}: nothing matched (lists what exists, with shapes, and the nearest), rank above a
/// dimension, settings that differ from those of init_from, ...; with init_from also as load_adapter.
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
/// Throws like create_adapter. `head_modules` are never targeted; the default names the heads of Hugging
/// Face's classifiers. `heads` is needed by methods whose factors know of attention heads.
ParameterCount count_parameters(const AdapterConfig& config, const std::vector<Site>& sites,
                                int64_t num_layers, const AttentionHeads& heads,
                                const std::vector<std::string>& head_modules = {"classifier", "score"});
ParameterCount count_parameters(const AdapterConfig& config, const std::vector<Site>& sites,
                                int64_t num_layers,
                                const std::vector<std::string>& head_modules = {"classifier", "score"});

}  // namespace msplora
