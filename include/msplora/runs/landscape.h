#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "msplora/adapters/adapter.h"
#include "msplora/data/examples.h"
#include "msplora/models/model.h"
#include "msplora/tasks/task.h"

namespace msplora {

/// What measure_landscape() looks at.
struct LandscapeOptions {
  std::vector<double> strengths = {0.05, 0.1, 0.2};  // of the changes, relative to the weights
  int64_t draws = 8;                                 // random changes of each strength
  uint64_t seed = 1;                                 // of the draws: the same changes for every adapter
  int64_t batch_tokens = 4096;
};

/// The loss around the weights W' = W + dW of the adapted layers, and their gradient G = dL/dW'. Losses are
/// means over the targets of all examples, without dropout.
struct Landscape {
  int64_t examples = 0, targets = 0;
  double loss = 0.0;

  /// Losses with changes of one strength rho.
  struct Around {
    double strength = 0.0;
    /// W' + e, row i of e normal with deviation rho |W'_i| / sqrt(in): the noise of Flat-LoRA (arXiv
    /// 2409.14396, eq. 7). One for each draw.
    std::vector<double> random;
    /// W' + rho/10 |W'| G / |G|, norms over all adapted weights: uphill as steeply as possible, to first
    /// order (the ascent step of sharpness-aware minimisation, arXiv 2010.01412).
    double uphill = 0.0;
  };
  std::vector<Around> around;

  double gradient_norm = 0.0;  // |G|
  /// Whether layers ask for one update: cosines of <G_i, G_j> between the layers of a module. A step that
  /// several share follows the sum of their gradients, so it helps them as far as these are positive.
  struct Layers {
    std::string module;
    std::vector<int64_t> layers;               // of the rows and columns
    std::vector<std::vector<double>> cosines;  // 1 on the diagonal
    double mean = 0.0;                         // off the diagonal
  };
  std::vector<Layers> layers;  // of every module that two layers or more have with one shape
  /// The cosine between G and the change of all W' that a plain gradient step of the factors makes,
  /// E = s B gA + s gB A; factors that several sites share sum their gradients. The part of G that such a
  /// step misses, at its best length, is sqrt(1 - cosine^2) |G|. Unset where the update is no sum of pairs.
  std::optional<double> plain_cosine;
  /// The same for the nearest change that factors of these sites can make, P = Q_B G + G Q_A - Q_B G Q_A with
  /// projections on the columns of B and the rows of A (LoRA-Pro, arXiv 2407.18242). Unset where sites share
  /// factors, too.
  std::optional<double> nearest_cosine;
};

/// Measures it on encoded examples. The weights are changed for the time of the call alone: afterwards model
/// and adapter are as they were, also when something is thrown. Forward passes: 1 + strengths * (draws + 1);
/// one backward pass; memory for three further copies of the adapted weights. Throws as merge_adapter() does,
/// and Error{kUsage} for a method without updates of layers, and one on a table of words or an output layer.
Landscape measure_landscape(Model& model, Adapter& adapter, const Task& task, const Examples& examples,
                            const LandscapeOptions& options = {});

}  // namespace msplora
