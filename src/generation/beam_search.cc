#include "msplora/generation/beam_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "msplora/generation/scores.h"

namespace msplora {

BeamSearch::BeamSearch(const GenerationOptions& options, std::vector<int32_t> prompt)
    : options_(options), prompt_length_(prompt.size()), live_{std::move(prompt)}, scores_{0.0} {}

double BeamSearch::normalised(double score, int64_t tokens) const {
  return score / std::pow(static_cast<double>(tokens), options_.length_penalty);
}

std::vector<BeamSearch::Candidate> BeamSearch::candidates_of(
    const std::vector<std::vector<double>>& logits) const {
  std::vector<Candidate> candidates;
  for (size_t beam = 0; beam < live_.size(); ++beam) {
    std::vector<double> scores = logits[beam];
    log_softmax(scores);
    apply_rules(options_, live_[beam], prompt_length_, scores);
    for (size_t token = 0; token < scores.size(); ++token) {
      if (std::isfinite(scores[token]))
        candidates.push_back({beam, static_cast<int32_t>(token), scores_[beam] + scores[token]});
    }
  }
  const auto ends = static_cast<int64_t>(options_.eos_token_id.size());
  const auto wanted = static_cast<size_t>(std::max<int64_t>(2, 1 + ends) * options_.num_beams);
  const size_t count = std::min(wanted, candidates.size());
  std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(count),
                    candidates.end(), [](const Candidate& a, const Candidate& b) {
                      if (a.score != b.score) return a.score > b.score;
                      return std::pair(a.parent, a.token) < std::pair(b.parent, b.token);
                    });
  candidates.resize(count);
  return candidates;
}

void BeamSearch::finish(const Candidate& candidate) {
  const std::vector<int32_t>& text = live_[candidate.parent];
  Hypothesis hypothesis;
  hypothesis.tokens.assign(text.begin() + static_cast<std::ptrdiff_t>(prompt_length_), text.end());
  hypothesis.tokens.push_back(candidate.token);
  hypothesis.score = normalised(candidate.score, made() + 1);
  const auto place =
      std::upper_bound(finished_.begin(), finished_.end(), hypothesis,
                       [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
  finished_.insert(place, std::move(hypothesis));
  if (static_cast<int64_t>(finished_.size()) > options_.num_beams) finished_.pop_back();
}

bool BeamSearch::can_improve() const {
  if (static_cast<int64_t>(finished_.size()) < options_.num_beams) return true;
  if (options_.early_stopping == "true") return false;
  const bool reaches_limit = options_.early_stopping == "never" && options_.length_penalty > 0;
  return normalised(scores_.front(), reaches_limit ? options_.max_new_tokens : made()) >
         finished_.back().score;
}

void BeamSearch::advance(const std::vector<std::vector<double>>& logits) {
  const std::vector<Candidate> candidates = candidates_of(logits);
  const auto beams = static_cast<size_t>(options_.num_beams);
  const bool is_last = made() + 1 >= options_.max_new_tokens;
  std::vector<std::vector<int32_t>> live;
  std::vector<double> scores;
  parents_.clear();
  for (size_t rank = 0; rank < candidates.size(); ++rank) {
    const Candidate& candidate = candidates[rank];
    const bool ends = std::find(options_.eos_token_id.begin(), options_.eos_token_id.end(),
                                candidate.token) != options_.eos_token_id.end();
    if (ends || is_last) {
      if (rank < beams) finish(candidate);
    } else if (live.size() < beams) {
      live.push_back(live_[candidate.parent]);
      live.back().push_back(candidate.token);
      scores.push_back(candidate.score);
      parents_.push_back(candidate.parent);
    }
  }
  if (live.empty()) {
    is_done_ = true;
    return;
  }
  live_ = std::move(live);
  scores_ = std::move(scores);
  is_done_ = !can_improve();
}

std::vector<Hypothesis> BeamSearch::best() const {
  return finished_;
}

}  // namespace msplora
