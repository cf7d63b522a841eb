#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "msplora/core/error.h"
#include "msplora/generation/scores.h"

namespace msplora {
namespace {

constexpr double kGone = -std::numeric_limits<double>::infinity();

double largest_of(std::span<const double> scores) {
  const double largest = scores.empty() ? kGone : *std::max_element(scores.begin(), scores.end());
  // NaN compares false with everything, also as the first.
  const bool has_nan = std::any_of(scores.begin(), scores.end(), [](double s) { return std::isnan(s); });
  if (has_nan || !std::isfinite(largest)) {
    throw Error(ErrorCode::kNumerics, "the next token",
                has_nan ? "scores are not numbers" : "no token is left that may follow",
                has_nan ? "is the model damaged, or too large for its type?"
                        : "allow more: bad_words_ids, no_repeat_ngram_size, min_new_tokens");
  }
  return largest;
}

// NaN where there is one. Several chains of comparisons, as each waits for the one before.
float largest_number(std::span<const float> scores) {
  constexpr size_t kChains = 8;
  float best[kChains];
  std::fill_n(best, kChains, -std::numeric_limits<float>::infinity());
  bool has_nan = false;
  const auto look = [&](size_t chain, float score) {
    best[chain] = score > best[chain] ? score : best[chain];
    has_nan |= score != score;
  };
  size_t i = 0;
  for (; i + kChains <= scores.size(); i += kChains) {
#pragma GCC unroll 8
    for (size_t c = 0; c < kChains; ++c) look(c, scores[i + c]);
  }
  for (; i < scores.size(); ++i) look(0, scores[i]);
  return has_nan ? std::numeric_limits<float>::quiet_NaN() : *std::max_element(best, best + kChains);
}

std::vector<double> softmax(std::span<const double> scores) {
  const double largest = largest_of(scores);
  std::vector<double> values(scores.size());
  double sum = 0.0;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] != kGone) sum += values[i] = std::exp(scores[i] - largest);
  }
  for (double& value : values) value /= sum;
  return values;
}

// Smallest key first; equal ones in the order of ids.
void sort_by(std::span<const double> keys, std::vector<size_t>& ids) {
  std::stable_sort(ids.begin(), ids.end(), [&](size_t a, size_t b) { return keys[a] < keys[b]; });
}

void keep_top_k(size_t k, std::vector<double>& scores) {
  if (k >= scores.size()) return;
  // The k best so far, the least of them in front: few of the others are better.
  std::vector<double> best(scores.begin(), scores.begin() + static_cast<std::ptrdiff_t>(k));
  std::make_heap(best.begin(), best.end(), std::greater<>());
  for (size_t i = k; i < scores.size(); ++i) {
    if (scores[i] <= best.front()) continue;
    std::pop_heap(best.begin(), best.end(), std::greater<>());
    best.back() = scores[i];
    std::push_heap(best.begin(), best.end(), std::greater<>());
  }
  for (double& score : scores) {
    if (score < best.front()) score = kGone;
  }
}

// From the least likely on, what has 1 - p together at most.
void keep_top_p(double p, std::vector<double>& scores) {
  const std::vector<double> probabilities = softmax(scores);
  // Those that would not have so much together if all were as likely need no order, and are nearly all.
  const double certain = (1.0 - p) / static_cast<double>(scores.size());
  std::vector<size_t> order;
  double sum = 0.0;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (probabilities[i] < certain) {
      sum += probabilities[i];
      scores[i] = kGone;
    } else {
      order.push_back(i);
    }
  }
  sort_by(scores, order);
  for (size_t place = 0; place + 1 < order.size(); ++place) {
    sum += probabilities[order[place]];
    if (sum > 1.0 - p) break;
    scores[order[place]] = kGone;
  }
}

void keep_min_p(double p, std::vector<double>& scores) {
  const std::vector<double> probabilities = softmax(scores);
  const double border = p * *std::max_element(probabilities.begin(), probabilities.end());
  for (size_t i = 0; i < scores.size(); ++i) {
    if (probabilities[i] < border) scores[i] = kGone;
  }
}

// Locally typical sampling (Meister et al. 2023): those whose information is nearest to the entropy.
void keep_typical(double mass, std::vector<double>& scores) {
  const std::vector<double> probabilities = softmax(scores);
  double entropy = 0.0;
  for (const double p : probabilities) entropy -= p > 0 ? p * std::log(p) : 0.0;
  std::vector<double> distance(scores.size());
  std::vector<size_t> order;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] == kGone) continue;
    distance[i] = std::abs(-std::log(probabilities[i]) - entropy);
    order.push_back(i);
  }
  sort_by(distance, order);
  double sum = 0.0;
  size_t last = 0;
  while (last + 1 < order.size() && (sum += probabilities[order[last]]) < mass) ++last;
  const double border = distance[order[last]];
  for (const size_t i : order) {
    if (distance[i] > border) scores[i] = kGone;
  }
}

}  // namespace

int32_t likeliest(std::span<const double> scores) {
  largest_of(scores);
  return static_cast<int32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
}

std::vector<double> sampling_probabilities(const GenerationOptions& options, std::span<const double> scores) {
  std::vector<double> left(scores.begin(), scores.end());
  largest_of(left);
  if (options.temperature != 1.0) {
    for (double& score : left) score /= options.temperature;
  }
  if (options.top_k > 0) keep_top_k(static_cast<size_t>(options.top_k), left);
  if (options.top_p < 1.0) keep_top_p(options.top_p, left);
  if (options.min_p > 0.0) keep_min_p(options.min_p, left);
  if (options.typical_p < 1.0) keep_typical(options.typical_p, left);
  return softmax(left);
}

int32_t next_token(const GenerationOptions& options, std::span<const int32_t> ids, size_t prompt_length,
                   std::span<const float> scores, double u) {
  if (!options.do_sample && !has_rules(options, ids.size() - prompt_length)) {
    const float largest = largest_number(scores);
    if (std::isfinite(largest))
      return static_cast<int32_t>(std::find(scores.begin(), scores.end(), largest) - scores.begin());
  }
  std::vector<double> changed(scores.begin(), scores.end());
  apply_rules(options, ids, prompt_length, changed);
  return options.do_sample ? draw(sampling_probabilities(options, changed), u) : likeliest(changed);
}

double log_probability(std::span<const float> scores, int32_t token) {
  const double largest = *std::max_element(scores.begin(), scores.end());
  double sum = 0.0;
  for (const float score : scores) sum += std::exp(score - largest);
  return scores[static_cast<size_t>(token)] - largest - std::log(sum);
}

int32_t draw(std::span<const double> probabilities, double u) {
  double sum = 0.0;
  size_t last = 0;  // should the sum be rounded to less than u
  for (size_t i = 0; i < probabilities.size(); ++i) {
    if (probabilities[i] <= 0) continue;
    last = i;
    sum += probabilities[i];
    if (sum > u) break;
  }
  return static_cast<int32_t>(last);
}

void log_softmax(std::span<double> scores) {
  const double largest = largest_of(scores);
  double sum = 0.0;
  for (const double score : scores) sum += std::exp(score - largest);
  const double shift = largest + std::log(sum);
  for (double& score : scores) score -= shift;
}

}  // namespace msplora
