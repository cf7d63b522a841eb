#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "msplora/gguf/types.h"

namespace msplora {

/// Where a weight's numbers lie: on the heap, or in a file that is mapped (whose pages the system can drop).
struct WeightBytes {
  int64_t heap = 0;
  int64_t mapped = 0;
};

/// A row of a matrix as GGUF files hold it, in whole blocks.
struct StoredRow {
  GgufType type = GgufType::kF32;
  const std::byte* blocks = nullptr;
};

/// A matrix [out, in] that never changes, in one of several forms (src/nn/weights, one file each). Products
/// pack it for themselves (nn/packed_linear.h); everyone else reads rows. Several threads may.
class FrozenWeight {
 public:
  virtual ~FrozenWeight() = default;

  int64_t out_features() const { return out_; }
  int64_t in_features() const { return in_; }
  /// Type of the activations that it multiplies.
  at::ScalarType dtype() const { return dtype_; }

  /// How the numbers are kept, in words: "float32, mapped".
  virtual std::string form() const = 0;
  virtual WeightBytes bytes() const = 0;

  /// Rows [begin, end) in dtype(), on the CPU. Not to be written to: they may be what is kept.
  virtual at::Tensor rows(int64_t begin, int64_t end) const = 0;
  /// The rows of `ids`, int64 [N], in dtype(): [N, in].
  virtual at::Tensor gather(const at::Tensor& ids) const = 0;
  at::Tensor values() const { return rows(0, out_); }
  /// Row `row` of a quantised matrix, whose rows need not have one type; without blocks for other forms.
  virtual StoredRow stored_row([[maybe_unused]] int64_t row) const { return {}; }
  /// Says that nobody will read it for a while: pages of a mapped file need not stay in memory.
  virtual void let_go() const {}

 protected:
  FrozenWeight(int64_t out, int64_t in, at::ScalarType dtype) : out_(out), in_(in), dtype_(dtype) {}

 private:
  int64_t out_, in_;
  at::ScalarType dtype_;
};

/// The form of weights as checkpoints hold them: a tensor of a floating type, [out, in], or [in, out] with
/// `is_transposed`. It stays as it is and is converted to `dtype` whenever it is read. `is_mapped`: it
/// lies in a file that is mapped to be read, whose pages may be dropped and come back.
std::shared_ptr<const FrozenWeight> stored_weight(at::Tensor stored, at::ScalarType dtype, bool is_transposed,
                                                  bool is_mapped);

/// A matrix [out, in] as GGUF files hold it, row behind row in whole blocks, and what keeps that memory.
struct StoredBlocks {
  GgufType type = GgufType::kF32;
  const std::byte* blocks = nullptr;  // in a file that is mapped to be read
  int64_t out = 0, in = 0;
  std::shared_ptr<const void> owner;
};
/// The form of quantised weights: blocks stay where they are, and rows are dequantised whenever they are
/// read.
std::shared_ptr<const FrozenWeight> block_weight(StoredBlocks stored, at::ScalarType dtype);

/// A weight with its rows in another order: row i is row order[i] of `weight`.
std::shared_ptr<const FrozenWeight> reordered_weight(std::shared_ptr<const FrozenWeight> weight,
                                                     const std::vector<int64_t>& order);

/// Whether products pack frozen weights of this type and shape on the CPU, so that they need no tensor.
bool packs_weights(at::ScalarType dtype, int64_t out, int64_t in);

/// What products are asked for: matrix units pack a matrix for each.
enum class Directions { kForward, kBoth };

/// Bytes that products on the CPU keep for a number of a frozen matrix: of `dtype`, or of its parts in
/// bfloat16 (kernels::matmul_precision), in as many copies as the directions take.
double bytes_in_products(at::ScalarType dtype, Directions directions = Directions::kBoth);
/// Of a matrix that is stored in `type`: its codes, once, where it is quantised and kernels multiply those.
double bytes_in_products(GgufType type, at::ScalarType dtype, Directions directions = Directions::kBoth);
struct StoredMatrix {
  GgufType type;
  int64_t elements;
};
/// Of a number of these matrices on average; of `dtype` where there are none.
double bytes_in_products(const std::vector<StoredMatrix>& matrices, at::ScalarType dtype,
                         Directions directions = Directions::kBoth);

/// The matrix of a layer: frozen in some form, or a tensor, which may be trained. Layers and tables that
/// share one (tied weights) hold the same Weight.
class Weight {
 public:
  explicit Weight(at::Tensor tensor);  // [out, in]
  explicit Weight(std::shared_ptr<const FrozenWeight> frozen);

  /// Null for a tensor.
  const std::shared_ptr<const FrozenWeight>& frozen() const { return frozen_; }
  /// Undefined for a frozen form.
  const at::Tensor& tensor() const { return tensor_; }

  /// [out, in], in the type that products use: the tensor itself, or what a frozen form reads for this call.
  at::Tensor values() const { return frozen_ ? frozen_->values() : tensor_; }
  at::Tensor rows(int64_t begin, int64_t end) const;

  int64_t out_features() const { return frozen_ ? frozen_->out_features() : tensor_.size(0); }
  int64_t in_features() const { return frozen_ ? frozen_->in_features() : tensor_.size(1); }
  at::ScalarType dtype() const { return frozen_ ? frozen_->dtype() : tensor_.scalar_type(); }
  at::Device device() const { return frozen_ ? at::Device(at::kCPU) : tensor_.device(); }
  bool requires_grad() const { return !frozen_ && tensor_.requires_grad(); }

  /// Replaces the values.
  void set(at::Tensor tensor);
  /// Gives it a tensor of `dtype` of its own, that can be trained in place; handles of a tensor that was
  /// there before see the new values too.
  const at::Tensor& own(at::ScalarType dtype);

 private:
  std::shared_ptr<const FrozenWeight> frozen_;
  at::Tensor tensor_;
};

/// A parameter of a model under its Hugging Face name: a tensor, or the weight of a layer, which may be
/// frozen.
struct Parameter {
  std::string name;
  std::shared_ptr<Weight> weight;  // of a layer or a table of words; else null
  at::Tensor vector;               // what is no weight: biases, norms, positions

  Parameter(std::string name, at::Tensor vector) : name(std::move(name)), vector(std::move(vector)) {}
  Parameter(std::string name, std::shared_ptr<Weight> weight)
      : name(std::move(name)), weight(std::move(weight)) {}

  /// The tensor itself where there is one; else what the frozen weight reads for this call.
  at::Tensor values() const { return weight ? weight->values() : vector; }
  /// Undefined for a frozen weight.
  const at::Tensor& tensor() const { return weight ? weight->tensor() : vector; }
  at::ScalarType dtype() const { return weight ? weight->dtype() : vector.scalar_type(); }
  std::vector<int64_t> sizes() const;
  int64_t numel() const;
  /// See Weight::own.
  const at::Tensor& own(at::ScalarType dtype);
};

/// The same of the frozen matrices among `parameters`.
double bytes_in_products(const std::vector<Parameter>& parameters, at::ScalarType dtype,
                         Directions directions = Directions::kBoth);

}  // namespace msplora
