#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "msplora/nn/context.h"
#include "msplora/nn/weight.h"

namespace msplora {

/// One term of a low-rank update: y += scaling * dropout(x) downᵀ upᵀ.
///
/// `down` (PEFT: lora_A) is [r, in], `up` (lora_B) is [out, r], both float32 whatever the compute type of the
/// model. The same tensor may stand in the terms of many sites: that is how levels are shared.
struct LowRankTerm {
  at::Tensor down;
  at::Tensor up;
  double scaling = 1.0;
  double dropout = 0.0;         // probability, on the term's input only
  uint64_t dropout_stream = 0;  // names the mask; different streams draw independent masks
};

/// A linear map that takes the place of the stored one for one forward pass.
struct AffineMap {
  at::Tensor weight;  // [out, in]
  at::Tensor bias;    // [out] or undefined
};

/// Gaussian noise on the weight in training forward passes (Flat-LoRA): a new one for each optimizer step,
/// the same for all its micro-batches unless `per_micro_batch`. Never written to the stored weight.
struct NoiseSource {
  at::Tensor deviations;  // float32 [out], of the rows; undefined: no noise
  uint64_t stream = 0;    // names the noise of this layer
  bool per_micro_batch = false;
};

class Linear;

namespace detail {
class PackedLinear;
c10::intrusive_ptr<PackedLinear> frozen_product(const Linear& layer, const at::Tensor& x);
}  // namespace detail

/// Everything an adapter does to one linear layer. A method fills what it needs; the parts combine: the
/// low-rank terms are added to the map that `affine` gives. Nothing here ever writes to the stored weight.
struct SiteUpdate {
  std::vector<LowRankTerm> low_rank;

  /// Further terms, made anew in every forward pass because they are computed from smaller tensors (LoRTA,
  /// TT-LoRA). Autograd carries their gradients on to those.
  std::function<std::vector<LowRankTerm>()> computed_low_rank;

  /// The map to use instead of (weight, bias): float32 deltas of earlier boosting rounds, GLoRA's supports,
  /// noise on the weight. Differentiable in whatever it is computed from; called in every forward pass.
  std::function<AffineMap(const Linear& layer, const ForwardContext& context)> affine;

  /// Makes the layer's output out of y, the output so far (bias included), and x, its input (DoRA's
  /// magnitudes).
  std::function<at::Tensor(const Linear& layer, const at::Tensor& x, const at::Tensor& y,
                           const ForwardContext& context)>
      transform_output;

  /// Sees the layer's input in training forward passes (statistics for pruning); must not change it.
  std::function<void(const at::Tensor& x)> observe_input;

  /// Noise on the map of `affine` or on the stored weight. Its owner may change it between optimizer steps.
  std::shared_ptr<const NoiseSource> noise;

  /// Whether it does nothing to a layer, ever.
  bool empty() const {
    return low_rank.empty() && !computed_low_rank && !affine && !transform_output && !observe_input && !noise;
  }
};

/// y = x Wᵀ + b + Σ_k scaling_k · dropout_k(x) A_kᵀ B_kᵀ, the one adapted linear operation.
///
/// No gradient of W is formed unless W requires one. First derivatives alone, see functional.h.
class Linear {
 public:
  Linear();
  /// `name` is the Hugging Face module path; weight [out, in]; bias [out] or undefined.
  Linear(std::string name, at::Tensor weight, at::Tensor bias);
  Linear(std::string name, std::shared_ptr<Weight> weight, at::Tensor bias);

  /// x [T, in] -> [T, out] in x's dtype. A weight of another dtype is converted (the conversion is
  /// differentiable).
  at::Tensor forward(const at::Tensor& x, const ForwardContext& context) const;

  const std::string& name() const { return name_; }
  int64_t in_features() const { return weight->in_features(); }
  int64_t out_features() const { return weight->out_features(); }

  std::shared_ptr<Weight> weight;  // shared with whatever is tied to it
  at::Tensor bias;
  std::shared_ptr<const SiteUpdate> update;  // null: the plain layer

 private:
  friend c10::intrusive_ptr<detail::PackedLinear> detail::frozen_product(const Linear&, const at::Tensor&);
  struct Packed;  // the weight in the layout of fast products, made on first use while the weight is frozen

  std::string name_;
  std::shared_ptr<Packed> packed_;
};

/// What a linear layer does. Fused layers are one weight and one site: kQkv gives queries, keys
/// and values side by side, kGateUp the two factors of a gated feed-forward part.
enum class LinearRole {
  kQuery,
  kKey,
  kValue,
  kQkv,
  kPositionKey,    // of relative positions, not of tokens
  kPositionQuery,  // likewise
  kAttentionOutput,
  kGate,
  kUp,
  kGateUp,
  kDown,
  kEmbedding,  // outside the blocks: between the embeddings and the first of them
  kHead,       // or behind the last
  kOutput,     // behind all: a language model's logits
  kWords,      // the table of words, which is looked up
};

/// What the low-rank terms of an update of a table of words add to the rows of `ids`, int64 [T]:
/// Σ_k scaling_k · A_k[:, ids]ᵀ B_kᵀ, [T, out] in the type of the factors. They drop nothing out.
at::Tensor looked_up_terms(const SiteUpdate& update, const at::Tensor& ids);

/// One adaptable linear layer of a model. `linear` stays owned by the model. A table of words (kWords) is one
/// from as many inputs as there are words, of which a token is one; its weight is stored [in, out], and
/// Linear::forward is not for it.
struct Site {
  std::string path;    // full module path, e.g. "roberta.encoder.layer.3.attention.self.query"
  std::string module;  // its last component, e.g. "query"
  int64_t layer = -1;  // index of the block it lies in; -1 outside the blocks (classification head)
  int64_t in_features = 0;
  int64_t out_features = 0;
  Linear* linear = nullptr;  // null when only shapes are known (inspect --shape)
  bool has_bias = true;      // read only when `linear` is null
  LinearRole role = LinearRole::kHead;
  bool is_transposed = false;  // files of models hold its weight as [in, out]
};

}  // namespace msplora
