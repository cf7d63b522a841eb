#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "msplora/adapters/gelora.h"
#include "msplora/data/examples.h"
#include "msplora/models/model.h"

namespace msplora {

/// How the distance ratios of TwoNN become a dimension.
enum class TwoNnEstimator { kRegression, kLikelihood, kUnbiased };
/// Of "regression", "likelihood", "unbiased".
TwoNnEstimator parse_two_nn_estimator(const std::string& name);

/// Intrinsic dimension of the rows of `points` [N, D] by the two nearest neighbours of each (Facco et al.,
/// Scientific Reports 7, 2017). With mu = r2 / r1 the ratio of a point's distances to its second and first
/// neighbour:
///   regression  d of the line y = d x through the origin, x = ln mu_(k), y = -ln(1 - k/N), over the
///               ratios in ascending order without the largest share `discard`
///   likelihood  N / sum ln mu;   unbiased  (N - 1) / sum ln mu
/// Equal rows count once; rows that are all equal have dimension 0. Float64, from differences (not from
/// products, which lose small distances); O(N² D). Throws Error{kData} with 0 or 2 different rows,
/// Error{kNumerics} when all ratios are 1 or a value is not finite.
double two_nn_dimension(const at::Tensor& points, TwoNnEstimator estimator, double discard = 0.1);

/// Intrinsic dimensions of a model's hidden states.
struct DimensionProfile {
  std::vector<double> dimensions;  // of the embeddings' output and of every block's output: num_layers + 1
  int64_t examples = 0;            // that they were estimated from
  double seconds = 0.0;
};

/// One vector for each of (up to) options.samples examples, chosen by seed, at every layer of the model as it
/// is; pooling, estimator and discard as the options say. Throws like two_nn_dimension, naming the layer.
DimensionProfile dimension_profile(Model& model, const Examples& examples, const GeLoraOptions& options,
                                   uint64_t seed, int64_t batch_tokens = 4096);

}  // namespace msplora
