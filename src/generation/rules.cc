#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "msplora/generation/scores.h"

namespace msplora {
namespace {

constexpr double kForbidden = -std::numeric_limits<double>::infinity();

/// The score of the last of `ids`, where the text ends with the others; else null.
double* score_after(std::span<const int32_t> ids, std::span<const int32_t> text, std::span<double> scores) {
  const size_t before = ids.size() - 1;
  if (text.size() < before) return nullptr;
  if (!std::equal(ids.begin(), ids.end() - 1, text.end() - static_cast<std::ptrdiff_t>(before)))
    return nullptr;
  const auto last = static_cast<size_t>(ids.back());
  return last < scores.size() ? &scores[last] : nullptr;
}

void add_biases(const GenerationOptions& options, std::span<const int32_t> text, std::span<double> scores) {
  for (const SequenceBias& one : options.sequence_bias) {
    if (double* score = one.ids.empty() ? nullptr : score_after(one.ids, text, scores)) *score += one.bias;
  }
}

void forbid_words(const GenerationOptions& options, std::span<const int32_t> text, std::span<double> scores) {
  for (const std::vector<int32_t>& word : options.bad_words_ids) {
    const bool is_end = word.size() == 1 &&
                        std::find(options.eos_token_id.begin(), options.eos_token_id.end(), word.front()) !=
                            options.eos_token_id.end();
    if (word.empty() || is_end) continue;  // a text may always end
    if (double* score = score_after(word, text, scores)) *score = kForbidden;
  }
}

void penalise_repetition(double penalty, std::span<const int32_t> text, std::span<double> scores) {
  for (const int32_t id : std::set<int32_t>(text.begin(), text.end())) {
    double& score = scores[static_cast<size_t>(id)];
    score = score < 0 ? score * penalty : score / penalty;
  }
}

void penalise_use(const GenerationOptions& options, std::span<const int32_t> made, std::span<double> scores) {
  std::map<int32_t, int64_t> counts;
  for (const int32_t id : made) ++counts[id];
  for (const auto& [id, count] : counts) {
    scores[static_cast<size_t>(id)] -=
        static_cast<double>(count) * options.frequency_penalty + options.presence_penalty;
  }
}

/// Forbids what would complete a run of `size` tokens that is in the text already.
void forbid_ngrams(size_t size, std::span<const int32_t> text, std::span<double> scores) {
  if (text.size() + 1 < size) return;
  const auto end = text.last(size - 1);
  for (size_t at = 0; at + size <= text.size(); ++at) {
    if (std::equal(end.begin(), end.end(), text.begin() + static_cast<std::ptrdiff_t>(at)))
      scores[static_cast<size_t>(text[at + size - 1])] = kForbidden;
  }
}

}  // namespace

bool has_rules(const GenerationOptions& options, size_t made) {
  return !options.sequence_bias.empty() || options.repetition_penalty != 1.0 ||
         options.frequency_penalty != 0.0 || options.presence_penalty != 0.0 ||
         options.no_repeat_ngram_size > 0 || !options.bad_words_ids.empty() ||
         static_cast<int64_t>(made) < options.min_new_tokens;
}

void apply_rules(const GenerationOptions& options, std::span<const int32_t> ids, size_t prompt_length,
                 std::span<double> scores) {
  const std::span<const int32_t> made = ids.subspan(prompt_length);
  add_biases(options, ids, scores);
  if (options.repetition_penalty != 1.0) penalise_repetition(options.repetition_penalty, ids, scores);
  if (options.frequency_penalty != 0.0 || options.presence_penalty != 0.0)
    penalise_use(options, made, scores);
  if (options.no_repeat_ngram_size > 0)
    forbid_ngrams(static_cast<size_t>(options.no_repeat_ngram_size), ids, scores);
  forbid_words(options, ids, scores);
  if (static_cast<int64_t>(made.size()) >= options.min_new_tokens) return;
  for (const int64_t end : options.eos_token_id) {
    if (end >= 0 && static_cast<size_t>(end) < scores.size()) scores[static_cast<size_t>(end)] = kForbidden;
  }
}

}  // namespace msplora
