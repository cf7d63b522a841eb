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

std::vector<double> softmax(std::span<const double> scores) {
  const double largest = largest_of(scores);
  std::vector<double> values(scores.size());
  double sum = 0.0;
  for (size_t i = 0; i < scores.size(); ++i) sum += values[i] = std::exp(scores[i] - largest);
  for (double& value : values) value /= sum;
  return values;
}

// Tokens that are left, in the order of `key`, smallest first; equal ones in the order of ids.
template <typename Key>
std::vector<size_t> sorted(std::span<const double> scores, const Key& key) {
  std::vector<size_t> order;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] != kGone) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return key(a) < key(b); });
  return order;
}

void keep_top_k(size_t k, std::vector<double>& scores) {
  if (k >= scores.size()) return;
  std::vector<double> values = scores;
  const auto border = values.begin() + static_cast<std::ptrdiff_t>(k) - 1;
  std::nth_element(values.begin(), border, values.end(), std::greater<>());
  for (double& score : scores) {
    if (score < *border) score = kGone;
  }
}

// From the least likely on, what has 1 - p together at most.
void keep_top_p(double p, std::vector<double>& scores) {
  const std::vector<double> probabilities = softmax(scores);
  const std::vector<size_t> order = sorted(scores, [&](size_t i) { return scores[i]; });
  double sum = 0.0;
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
  const auto distance = [&](size_t i) { return std::abs(-std::log(probabilities[i]) - entropy); };
  const std::vector<size_t> order = sorted(scores, distance);
  double sum = 0.0;
  size_t last = 0;
  while (last + 1 < order.size() && (sum += probabilities[order[last]]) < mass) ++last;
  const double border = distance(order[last]);
  for (const size_t i : order) {
    if (distance(i) > border) scores[i] = kGone;
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
    const auto found = std::max_element(scores.begin(), scores.end());
    const bool is_number = std::none_of(scores.begin(), scores.end(), [](float s) { return std::isnan(s); });
    if (is_number && std::isfinite(*found)) return static_cast<int32_t>(found - scores.begin());
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
