#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "msplora/generation/options.h"

namespace msplora {

/// A finished text of a beam search.
struct Hypothesis {
  std::vector<int32_t> tokens;  // made, the end token included
  double score = 0.0;           // sum of log-probabilities / tokens ^ length_penalty
};

/// Beam search over one prompt: says which texts to go on with, takes the scores of their next tokens, and
/// knows when no better text can come. As in Hugging Face's library: the log-probabilities of each live beam
/// go through apply_rules and are added to the beam's score; of the best max(2, 1 + end tokens) num_beams
/// candidates, those among the first num_beams that end are finished, and the best of the others live on.
class BeamSearch {
 public:
  BeamSearch(const GenerationOptions& options, std::vector<int32_t> prompt);

  /// Texts whose next token is wanted, prompt included. One at first, then num_beams.
  const std::vector<std::vector<int32_t>>& live() const { return live_; }
  /// After `advance`: from which of the live texts before it each one came (a cache follows).
  const std::vector<size_t>& parents() const { return parents_; }
  bool is_done() const { return is_done_; }

  /// `logits` holds a row for each live text.
  void advance(const std::vector<std::vector<double>>& logits);

  /// The finished texts, best first.
  std::vector<Hypothesis> best() const;

 private:
  struct Candidate {
    size_t parent;
    int32_t token;
    double score;  // sum of log-probabilities
  };
  std::vector<Candidate> candidates_of(const std::vector<std::vector<double>>& logits) const;
  void finish(const Candidate& candidate);
  bool can_improve() const;
  double normalised(double score, int64_t tokens) const;
  int64_t made() const { return static_cast<int64_t>(live_.front().size() - prompt_length_); }

  GenerationOptions options_;
  size_t prompt_length_;
  std::vector<std::vector<int32_t>> live_;
  std::vector<double> scores_;
  std::vector<size_t> parents_;
  std::vector<Hypothesis> finished_;
  bool is_done_ = false;
};

}  // namespace msplora
