#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

/// What an analysis of adapters found: plain values, which JSON, CSV, tables and pages read.
///
/// All numbers are computed in float64. NaN stands where a number has no meaning (the angle of an update that
/// is 0); JSON has null there and CSV an empty field. docs/analysis.md says what each number means and where
/// its formula comes from.
namespace msplora::analysis {

/// Rows of equal length, one behind the other.
struct Grid {
  size_t rows = 0, columns = 0;
  std::vector<double> values;

  double at(size_t row, size_t column) const { return values[row * columns + column]; }
  double& at(size_t row, size_t column) { return values[row * columns + column]; }
};

/// Singular values S of a matrix, and what follows from them. What is unset is not known, because the
/// leading values alone are.
struct Spectrum {
  std::vector<double> values;  // falling, without what is noise of rounding; empty for a matrix of zeros
  bool is_leading = false;     // these are the leading values of a matrix that has more
  double norm = 0.0;           // Frobenius: sqrt(ΣS²), also where not all values are known
  double stable_rank = 0.0;    // ΣS² / S₁²; 0 for a matrix of zeros, as the following
  std::optional<double> effective_rank;     // exp(-Σ p ln p), p = S / ΣS (Roy and Vetterli 2007)
  std::optional<double> participation;      // (ΣS²)² / ΣS⁴
  std::optional<int64_t> rank_90, rank_99;  // how many values have so many per cent of ΣS²
};

/// One level in one site.
struct LevelPart {
  size_t level = 0;  // index into AdapterAnalysis::levels
  int64_t rank = 0;  // of its factors
  Spectrum spectrum;
  double share = 0.0;  // e = <dW_level, dW> / |dW|²: sums to 1 over levels, may be negative
  double own = 0.0;    // o = |dW_level|² / Σ |dW_level|²: sums to 1, never negative
};

/// How much of one subspace lies in another.
struct Overlap {
  double phi = 0.0;     // |UᵀV|² / min(i, j), in [0, 1]
  double random = 0.0;  // what subspaces drawn at random have on average: max(i, j) / d
};

/// The spaces of two levels in one site, all directions above noise.
struct LevelPair {
  size_t first = 0, second = 0;  // levels
  Overlap left, right;           // of outputs [out], of inputs [in]
};

/// Leading directions of W0 beside those of the update and of W0 + dW. Left out where W0 is too large for
/// its singular vectors, unless asked for.
struct BaseDirections {
  Overlap left, right;  // the leading directions of dW against as many of W0
  /// For the leading left vectors of W0 + dW, the largest |cosine| with any left vector of W0.
  std::vector<double> similarity;
  std::vector<int64_t> intruders;  // how many of them lie below each of Options::thresholds
};

/// The update beside the weight that it is added to.
struct BaseRelation {
  double norm = 0.0;            // |W0|
  double relative_norm = 0.0;   // |dW| / |W0|
  double projected_norm = 0.0;  // |Uᵀ W0 V|, U and V directions of dW: all, of full rank the leading ones
  double amplification = 0.0;   // |dW| / |Uᵀ W0 V| (LoRA, section 7.3)
  std::optional<BaseDirections> directions;
};

/// Of a sorted list.
struct Quantiles {
  double smallest = 0.0, lower_quartile = 0.0, median = 0.0, upper_quartile = 0.0, largest = 0.0;
};

/// The part of dW that is made of W0, beside the low-rank one: diag(g - 1) W0 of DoRA, whose gain g also
/// multiplies the rows of Σ s B A; W0 ∘ A of GLoRA.
struct WeightPart {
  double norm = 0.0;              // |diag(g - 1) W0|, |W0 ∘ A|
  double low_rank_norm = 0.0;     // |Σ s B A|
  std::optional<Quantiles> gain;  // of the rows' g
};

/// One adapted layer.
struct SiteAnalysis {
  std::string path, module;
  int64_t layer = -1;  // -1 outside the blocks
  int64_t out_features = 0, in_features = 0;
  int64_t rank = 0;                  // columns of all its factors; 0 where the update has no factors
  Spectrum whole;                    // of dW
  std::vector<LevelPart> levels;     // those that act here, in their order
  std::vector<LevelPair> overlaps;   // each pair of them once
  std::optional<Spectrum> low_rank;  // the part with factors, where dW has another one (DoRA, GLoRA)
  std::optional<WeightPart> weight_part;
  std::optional<BaseRelation> base;  // where the base is at hand
};

/// How alike the updates of the layers of one stack are, in one part of them.
struct LayerCosines {
  std::string part;            // "whole", or a level's name
  bool is_shared = false;      // layers have the same factors there, so that cosines are 1 by construction
  Grid cosines;                // <dW_i, dW_j> / (|dW_i| |dW_j|), layer by layer
  double mean_absolute = 0.0;  // of |cosine| over pairs of different layers
  double random = 0.0;         // of independent Gaussian factors: sqrt(2 / (π out in))
};

/// How much the spaces of the layers of one stack have in common, by their leading directions.
struct LayerSpaces {
  std::string part;
  bool is_shared = false;
  Grid left, right;                          // phi of the leading directions, layer by layer
  double mean_left = 0.0, mean_right = 0.0;  // over pairs of different layers
  double random_left = 0.0, random_right = 0.0;
  /// Share of all leading directions that lies in the best single space of as many dimensions as one layer
  /// has: 1 where all layers have one space, 1 / layers where their spaces are orthogonal.
  double common_left = 0.0, common_right = 0.0;
  double common_floor = 0.0;  // 1 / layers
};

/// phi(i, j) of the leading i directions of one level and j of another, mean over the sites of the stack.
struct LevelGrid {
  size_t first = 0, second = 0;
  Grid left, right;                // element (i - 1, j - 1)
  Grid random_left, random_right;  // max(i, j) / d
};

/// The layers of one module: the same path but for the layer, and the same shape. Different modules are never
/// compared.
struct StackAnalysis {
  std::string module;
  int64_t out_features = 0, in_features = 0;
  std::vector<size_t> sites;          // indices into AdapterAnalysis::sites
  std::vector<int64_t> layers;        // parallel to sites: names of rows and columns
  std::vector<LayerCosines> cosines;  // the whole first, then the levels; empty for a stack of one layer
  std::vector<LayerSpaces> spaces;    // likewise
  std::vector<LevelGrid> levels;      // each pair of levels once
};

/// One level over all sites. The numbers are means over the sites that it acts in.
struct LevelSummary {
  std::string name;        // as the method names it
  bool is_shared = false;  // several sites have the same factors
  int64_t sites = 0;       // that it acts in
  int64_t parameters = 0;  // of its factors, each shared one once; 0 where they are computed
  int64_t rank = 0;        // the largest of the sites
  double share = 0.0, own = 0.0;
  double norm = 0.0, stable_rank = 0.0, effective_rank = 0.0;
  double rank_90 = 0.0, rank_99 = 0.0;
  int64_t largest_rank_99 = 0;  // of all sites
};

/// One level, or the whole, over the checkpoints of a run; means over sites. Rows are checkpoints.
struct LevelCurve {
  std::string part;                                      // "whole", or a level's name
  Grid values;                                           // of the leading singular values, one column each
  std::vector<double> norm, share, own, effective_rank;  // share and own of the whole are 1
  std::vector<double> phi_left, phi_right;  // the leading directions against those of the last row
};

struct Curves {
  std::vector<int64_t> steps;        // of the checkpoints, rising
  std::vector<LevelCurve> levels;    // the whole first
  std::vector<double> layer_cosine;  // mean |cosine| between layers of what is not shared, over all stacks
};

/// A sentence that follows from numbers by a stated threshold.
struct Finding {
  std::string kind;    // "idle level", "spare rank", "decoupling", "redundancy", "intruders"
  std::string text;    // with the numbers and the threshold
  std::string recipe;  // what `msplora train` takes instead, in YAML; "" where nothing follows
};

struct AdapterAnalysis {
  std::string name;          // short and unique in the report
  std::string path;          // as it was given
  std::string method, line;  // "msplora", "msplora, 3 levels, ranks 8 4 2, ..."
  std::string base;          // the base that W0 came from; "" where numbers that need it are left out
  int64_t parameters = 0;    // trained by the method itself, without heads and biases
  std::vector<LevelSummary> levels;
  std::vector<SiteAnalysis> sites;  // in the order of the model
  std::vector<StackAnalysis> stacks;
  std::optional<Curves> curves;    // where checkpoints were asked for
  std::vector<std::string> notes;  // what was left out, and why
  std::vector<Finding> findings;
};

/// What is computed, beside the adapters themselves.
struct Options {
  int64_t top = 8;  // leading directions that are compared, and leading values of forms of full rank
  int64_t intruder_top = 10;  // leading vectors of W0 + dW that may be intruders
  double threshold = 0.5;     // a vector is one below this cosine; it is among `thresholds`
  std::vector<double> thresholds = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9};
  int64_t largest_base = 1024;  // of min(out, in): singular vectors of larger weights are not computed
};

struct Report {
  Options options;
  std::vector<AdapterAnalysis> adapters;
  std::vector<Finding> findings;  // of adapters beside each other
};

}  // namespace msplora::analysis
