#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/norm.h"
#include "models/parameter_store.h"
#include "msplora/models/architecture.h"
#include "msplora/nn/linear.h"

namespace msplora {

/// What a model computes on top of the hidden states that its head reads.
class Head {
 public:
  Head() = default;
  /// The head of the architecture; `word_embeddings` serves a tied output layer.
  Head(const Architecture& architecture, const std::shared_ptr<Weight>& word_embeddings, bool is_drawn,
       ParameterStore& store);

  /// hidden [N, hidden_size] -> logits, or the hidden states themselves without a head.
  at::Tensor forward(const at::Tensor& hidden, const ForwardContext& context) const;
  /// Language models: Σ of cross entropies; logits never exist as a whole.
  at::Tensor loss_sum(const at::Tensor& hidden, const at::Tensor& labels,
                      const ForwardContext& context) const;

  bool is_language_model() const { return output_.has_value(); }
  /// Module paths that are trained and saved whole beside an adapter.
  const std::vector<std::string>& modules() const { return modules_; }
  /// Gives the output layer, which is the table of words, a weight of its own with the same values.
  void untie();
  void append_sites(std::vector<Site>& sites);
  void append_parameters(std::vector<Parameter>& parameters) const;

 private:
  struct Stage {
    HeadStage spec;
    Linear linear;
    Norm norm;
    uint64_t dropout_stream = 0;
  };

  at::Tensor run_stages(at::Tensor x, const ForwardContext& context) const;

  HeadSpec spec_;
  std::optional<LinearSpec> output_;  // of a language model
  std::vector<Stage> stages_;
  Linear decoder_;
  std::vector<std::string> modules_;
};

}  // namespace msplora
