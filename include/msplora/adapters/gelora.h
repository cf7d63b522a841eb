#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "msplora/core/options.h"

namespace msplora {

/// GeLoRA (arXiv 2412.09250): ranks from the intrinsic dimensions of hidden states.
struct GeLoraOptions {
  std::vector<int64_t> layer_ranks;
  double alpha_ratio = 32.0;
  int64_t max_rank = 0;
  std::string rounding = "dimension";
  std::string estimator = "regression";
  double discard = 0.1;
  std::string pooling = "mean";
  int64_t samples = 1000;

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("layer_ranks", layer_ranks,
            "Rank of every layer of the model, first to last; empty: `train` estimates them and records them "
            "here",
            at_least(1));
    visitor("alpha_ratio", alpha_ratio, "Scaling of the update, alpha / r, the same in all layers", above(0));
    visitor("max_rank", max_rank, "Upper bound of the estimated ranks; 0: none", at_least(0));
    visitor("rounding", rounding,
            "Round the dimensions before they are subtracted, the differences, or the differences upwards",
            one_of({"dimension", "difference", "up"}));
    visitor("estimator", estimator, "TwoNN fit of the intrinsic dimension",
            one_of({"regression", "likelihood", "unbiased"}));
    visitor("discard", discard, "Share of the largest distance ratios that the regression leaves out",
            probability_below_one());
    visitor("pooling", pooling,
            "What represents a text: the mean over its tokens, the first or the last token",
            one_of({"mean", "first", "last"}));
    visitor("samples", samples, "Training examples that the dimensions are estimated from", at_least(10));
  }
};

/// GeLoRA's rule (arXiv 2412.09250): r_b = max(d_b - d_{b-1}, 0) + 1 for block b = 1..L, where d_0 is the
/// intrinsic dimension of the embeddings' output and d_b that of block b's output; rounded and bounded as the
/// options say. Returns L ranks for L + 1 dimensions. Throws Error{kNumerics} when a dimension is not finite.
std::vector<int64_t> gelora_ranks(const std::vector<double>& dimensions, const GeLoraOptions& options);

}  // namespace msplora
