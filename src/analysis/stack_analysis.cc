#include "analysis/stack_analysis.h"

#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "analysis/inner_products.h"
#include "analysis/subspaces.h"

namespace msplora::analysis {
namespace {

constexpr double kPi = 3.14159265358979323846;

/// Over pairs of different layers, without NaN.
double mean_of_pairs(const Grid& grid, const std::function<double(double)>& value) {
  double sum = 0.0;
  int64_t count = 0;
  for (size_t i = 0; i < grid.rows; ++i) {
    for (size_t j = i + 1; j < grid.columns; ++j) {
      if (std::isnan(grid.at(i, j))) continue;
      sum += value(grid.at(i, j));
      ++count;
    }
  }
  return count == 0 ? NAN : sum / static_cast<double>(count);
}

Grid square_grid(size_t size) {
  return {size, size, std::vector<double>(size * size, NAN)};
}

/// Whether two layers of the stack have the same factors at a level.
bool shares_level(const std::vector<const SiteForm*>& forms, size_t level) {
  for (size_t i = 0; i < forms.size(); ++i) {
    for (size_t j = i + 1; j < forms.size(); ++j) {
      const auto &a = forms[i]->levels[level], &b = forms[j]->levels[level];
      if (!a.empty() && a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), same_factors))
        return true;
    }
  }
  return false;
}

/// `pick` gives the inner product of two sites in one part of their updates.
LayerCosines cosines_of(size_t sites, const std::function<double(size_t, size_t)>& pick) {
  LayerCosines result;
  result.cosines = square_grid(sites);
  for (size_t i = 0; i < sites; ++i) {
    for (size_t j = 0; j < sites; ++j) {
      const double norms = std::sqrt(pick(i, i)) * std::sqrt(pick(j, j));
      if (norms > 0) result.cosines.at(i, j) = std::clamp(pick(i, j) / norms, -1.0, 1.0);
    }
  }
  result.mean_absolute = mean_of_pairs(result.cosines, [](double value) { return std::abs(value); });
  return result;
}

std::vector<LayerCosines> all_cosines(const StackInput& input, const std::vector<std::string>& levels) {
  const size_t sites = input.forms.size(), count = levels.size();
  const at::Tensor inner = input.inner.contiguous();
  const double* values = inner.data_ptr<double>();
  const auto at_levels = [&](size_t i, size_t k, size_t j, size_t l) {
    return values[(i * count + k) * sites * count + j * count + l];
  };
  std::vector<LayerCosines> all;
  all.push_back(cosines_of(sites, [&](size_t i, size_t j) {
    double sum = 0.0;
    for (size_t k = 0; k < count; ++k) {
      for (size_t l = 0; l < count; ++l) sum += at_levels(i, k, j, l);
    }
    return sum;
  }));
  all.back().part = "whole";
  for (size_t k = 0; k < count && count > 1; ++k) {
    all.push_back(cosines_of(sites, [&](size_t i, size_t j) { return at_levels(i, k, j, k); }));
    all.back().part = levels[k];
    all.back().is_shared = shares_level(input.forms, k);
  }
  const Site& site = input.forms.front()->site;
  for (LayerCosines& part : all) part.random = random_cosine(site.out_features, site.in_features);
  return all;
}

/// The spaces of one part in all layers.
LayerSpaces spaces_of(const std::vector<const Directions*>& layers) {
  LayerSpaces result;
  const size_t count = layers.size();
  result.left = square_grid(count);
  result.right = square_grid(count);
  std::vector<at::Tensor> lefts, rights;
  Grid random_left = square_grid(count), random_right = square_grid(count);
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = i; j < count; ++j) {
      const Overlap left = overlap(layers[i]->left, layers[j]->left),
                    right = overlap(layers[i]->right, layers[j]->right);
      result.left.at(i, j) = result.left.at(j, i) = left.phi;
      result.right.at(i, j) = result.right.at(j, i) = right.phi;
      random_left.at(i, j) = left.random;
      random_right.at(i, j) = right.random;
    }
    if (layers[i]->count() == 0) continue;
    lefts.push_back(layers[i]->left);
    rights.push_back(layers[i]->right);
  }
  const auto as_it_is = [](double value) { return value; };
  result.mean_left = mean_of_pairs(result.left, as_it_is);
  result.mean_right = mean_of_pairs(result.right, as_it_is);
  result.random_left = mean_of_pairs(random_left, as_it_is);
  result.random_right = mean_of_pairs(random_right, as_it_is);
  result.common_left = common_share(lefts);
  result.common_right = common_share(rights);
  result.common_floor = lefts.empty() ? NAN : 1.0 / static_cast<double>(lefts.size());
  return result;
}

std::vector<LayerSpaces> all_spaces(const StackInput& input, const std::vector<std::string>& levels) {
  std::vector<LayerSpaces> all;
  std::vector<const Directions*> layers;
  for (const SiteSpaces* spaces : input.spaces) layers.push_back(&spaces->whole);
  all.push_back(spaces_of(layers));
  all.back().part = "whole";
  for (size_t k = 0; k < levels.size() && levels.size() > 1; ++k) {
    layers.clear();
    for (const SiteSpaces* spaces : input.spaces) layers.push_back(&spaces->levels[k]);
    all.push_back(spaces_of(layers));
    all.back().part = levels[k];
    all.back().is_shared = shares_level(input.forms, k);
  }
  return all;
}

/// A mean of grids of which some may be smaller.
class MeanGrid {
 public:
  explicit MeanGrid(size_t largest)
      : largest_(largest), sums_(square_grid(largest)), counts_(largest * largest) {
    std::fill(sums_.values.begin(), sums_.values.end(), 0.0);
  }

  void add(const Grid& grid) {
    for (size_t i = 0; i < std::min(grid.rows, largest_); ++i) {
      for (size_t j = 0; j < std::min(grid.columns, largest_); ++j) {
        sums_.at(i, j) += grid.at(i, j);
        ++counts_[i * largest_ + j];
      }
    }
    rows_ = std::max(rows_, std::min(grid.rows, largest_));
    columns_ = std::max(columns_, std::min(grid.columns, largest_));
  }

  Grid mean() const {
    Grid result{rows_, columns_, std::vector<double>(rows_ * columns_, NAN)};
    for (size_t i = 0; i < rows_; ++i) {
      for (size_t j = 0; j < columns_; ++j) {
        const int64_t count = counts_[i * largest_ + j];
        if (count > 0) result.at(i, j) = sums_.at(i, j) / static_cast<double>(count);
      }
    }
    return result;
  }

 private:
  size_t largest_, rows_ = 0, columns_ = 0;
  Grid sums_;
  std::vector<int64_t> counts_;
};

LevelGrid level_grid(const StackInput& input, size_t first, size_t second, const Options& options) {
  LevelGrid result;
  result.first = first;
  result.second = second;
  MeanGrid left(static_cast<size_t>(options.top)), right(static_cast<size_t>(options.top));
  for (const SiteSpaces* spaces : input.spaces) {
    left.add(overlap_grid(spaces->levels[first].left, spaces->levels[second].left));
    right.add(overlap_grid(spaces->levels[first].right, spaces->levels[second].right));
  }
  result.left = left.mean();
  result.right = right.mean();
  const Site& site = input.forms.front()->site;
  const auto rows = static_cast<int64_t>(result.left.rows),
             columns = static_cast<int64_t>(result.left.columns);
  result.random_left = random_overlap_grid(rows, columns, site.out_features);
  result.random_right = random_overlap_grid(rows, columns, site.in_features);
  return result;
}

}  // namespace

double random_cosine(int64_t out, int64_t in) {
  return std::sqrt(2.0 / (kPi * static_cast<double>(out) * static_cast<double>(in)));
}

at::Tensor stack_inner_products(const std::vector<const SiteForm*>& forms) {
  std::vector<std::vector<LowRankTerm>> updates;
  for (const SiteForm* form : forms) {
    if (form->whole && form->terms().empty()) return {};
    updates.insert(updates.end(), form->levels.begin(), form->levels.end());
  }
  return inner_products(updates);
}

StackAnalysis analyze_stack(const StackInput& input, const std::vector<std::string>& levels,
                            const Options& options) {
  StackAnalysis result;
  if (input.forms.size() > 1) {
    if (input.inner.defined()) result.cosines = all_cosines(input, levels);
    result.spaces = all_spaces(input, levels);
  }
  for (size_t first = 0; first < levels.size(); ++first) {
    for (size_t second = first + 1; second < levels.size(); ++second)
      result.levels.push_back(level_grid(input, first, second, options));
  }
  return result;
}

}  // namespace msplora::analysis
