#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "msplora/generation/options.h"

namespace msplora {

/// What the options make of the scores of the next token (logits, or a beam's log-probabilities), in place.
/// `ids` is the text so far, of which the first `prompt_length` tokens were given. In this order:
/// sequence_bias, repetition_penalty (s < 0 ? s p : s / p, of every token of the text), frequency and
/// presence penalties (of tokens made), no_repeat_ngram_size, bad_words_ids, min_new_tokens. Forbidden tokens
/// get -infinity.
void apply_rules(const GenerationOptions& options, std::span<const int32_t> ids, size_t prompt_length,
                 std::span<double> scores);

/// Whether apply_rules changes scores behind so many tokens that were made.
bool has_rules(const GenerationOptions& options, size_t made);

/// The token with the highest score, the first of several. Throws Error{kNumerics} when no token may follow.
int32_t likeliest(std::span<const double> scores);

/// Probabilities to draw from: softmax of what temperature, top_k, top_p, min_p and typical_p leave, in this
/// order, each looking at what those before it left; at least one token stays. Throws Error{kNumerics} when
/// no token may follow.
std::vector<double> sampling_probabilities(const GenerationOptions& options, std::span<const double> scores);

/// The first token, in the order of ids, up to which the probabilities sum to more than u in [0, 1).
int32_t draw(std::span<const double> probabilities, double u);

/// The token that the options take: after apply_rules the likeliest, or with do_sample the one that u in
/// [0, 1) draws. Throws Error{kNumerics} when no token may follow, or the scores are not numbers.
int32_t next_token(const GenerationOptions& options, std::span<const int32_t> ids, size_t prompt_length,
                   std::span<const float> scores, double u);

/// log(softmax(scores)[token]).
double log_probability(std::span<const float> scores, int32_t token);

/// log(softmax(scores)), in place.
void log_softmax(std::span<double> scores);

}  // namespace msplora
