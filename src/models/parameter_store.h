#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/io/weight_source.h"
#include "msplora/models/model.h"

namespace msplora {

/// Where the parameters of a model under construction come from: a checkpoint, or drawn numbers. Collects
/// every problem, so that a model that does not fit is described at once.
class ParameterStore {
 public:
  enum class Role {
    kMatrix,  // frozen weights: the compute dtype, mapped from the file where the dtype allows
    kExact,   // norms and biases: float32 whatever the compute dtype, but float64 beside float64
    kHead,    // the same, trained beside an adapter, drawn when the checkpoint lacks it
  };
  enum class Init { kNormal, kZero, kOne };

  /// `source` null: everything is drawn. The architecture's base_prefix may be missing from the file's
  /// names.
  ParameterStore(const WeightSource* source, const ModelLoadOptions& options,
                 const Architecture& architecture);

  /// Names that begin with one of these belong to the head of another task in this checkpoint: they count as
  /// absent, and its tensors are ignored.
  void set_foreign_head(std::vector<std::string> prefixes) { foreign_head_ = std::move(prefixes); }

  /// From here on parameters lie on the meta device: names and shapes without numbers.
  void use_shapes_alone() { shapes_alone_ = true; }

  at::Tensor take(const std::string& name, std::vector<int64_t> shape, Role role, Init init);
  /// The weight of a layer or a table, [out, in]. A frozen one stays as the checkpoint stores it where
  /// products pack it anyway.
  std::shared_ptr<Weight> weight(const std::string& name, int64_t out, int64_t in, Role role,
                                 bool is_transposed = false);
  Linear linear(const std::string& path, const LinearSpec& spec, Role role = Role::kMatrix);
  /// Whether the checkpoint holds the tensor under any of its spellings.
  bool contains(const std::string& name) const;

  /// Heads of another number of outputs than the checkpoint's are drawn, where `ModelLoadOptions::num_labels`
  /// asks for that number; anything else that does not fit is a problem.
  /// Throws when tensors were missing, mis-shaped, not finite, or are left over; left-over names that start
  /// with one of `ignorable` (heads of other tasks, buffers) are reported as ignored instead.
  void finish(const std::string& where, const std::vector<std::string>& ignorable, ModelLoadReport* report);

 private:
  std::string find(const std::string& name) const;  // spelling used by the checkpoint, or ""
  bool is_of_foreign_head(const std::string& name) const;
  /// The checkpoint's spelling of a tensor that is to be taken; empty where it has none that fits, or none is
  /// wanted, and the parameter is to be made.
  std::string stored(const std::string& name, const std::vector<int64_t>& shape, Role role);
  at::Tensor made(const std::string& name, const std::vector<int64_t>& shape, Role role, Init init) const;
  at::Tensor draw(const std::string& name, const std::vector<int64_t>& shape, Init init) const;
  at::Tensor convert(const at::Tensor& stored, Role role) const;

  const WeightSource* source_;
  ModelLoadOptions options_;
  double initializer_range_;
  std::string base_prefix_;
  std::vector<std::string> wrappers_;
  std::vector<std::string> buffers_;  // ends of names
  std::vector<std::string> foreign_head_;
  bool shapes_alone_ = false;
  std::set<std::string> used_;
  std::vector<std::string> fresh_, missing_, misshaped_, not_finite_;
  int64_t replaced_rows_ = 0;  // outputs of the checkpoint's head where it was not taken
};

}  // namespace msplora
