#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/options.h"

namespace msplora {

/// Scores of a token after which a text must not, or should rather, go on: `bias` is added to the score of
/// the last of `ids` where the text ends with the others.
struct SequenceBias {
  std::vector<int32_t> ids;
  double bias = 0.0;
};

/// How a language model's text goes on. Names and meanings are those of Hugging Face's GenerationConfig;
/// frequency_penalty is that of the OpenAI API, and presence_penalty too.
struct GenerationOptions {
  int64_t max_new_tokens = 128;
  int64_t min_new_tokens = 0;
  bool do_sample = false;
  double temperature = 1.0;
  int64_t top_k = 0;
  double top_p = 1.0;
  double min_p = 0.0;
  double typical_p = 1.0;
  double repetition_penalty = 1.0;
  double frequency_penalty = 0.0;
  double presence_penalty = 0.0;
  int64_t no_repeat_ngram_size = 0;
  int64_t num_beams = 1;
  double length_penalty = 1.0;
  std::string early_stopping = "false";
  std::vector<int64_t> eos_token_id;
  std::vector<std::string> stop;
  int64_t seed = 42;

  std::vector<std::vector<int32_t>> bad_words_ids;
  std::vector<SequenceBias> sequence_bias;

  /// Options that only act where tokens are drawn.
  static constexpr const char* kFilters[] = {"temperature", "top_k", "top_p", "min_p", "typical_p"};
  /// Whether one of them is set.
  bool has_filters() const;
  void leave_out_filters();

  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("max_new_tokens", max_new_tokens, "Tokens that are made at most", at_least(1));
    visitor("min_new_tokens", min_new_tokens, "Tokens before the text may end", at_least(0));
    visitor("do_sample", do_sample, "Draw tokens instead of taking the likeliest");
    visitor("temperature", temperature, "Divides the scores before a token is drawn", above(0));
    visitor("top_k", top_k, "Draw among so many of the likeliest; 0: all", at_least(0));
    visitor("top_p", top_p, "Draw among the likeliest that have this probability together", between(0, 1));
    visitor("min_p", min_p, "Leave out what is less likely than this share of the likeliest", between(0, 1));
    visitor("typical_p", typical_p, "Draw among the most typical that have this probability together",
            between(0, 1));
    visitor("repetition_penalty", repetition_penalty, "Divides the scores of tokens that are there already",
            above(0));
    visitor("frequency_penalty", frequency_penalty, "Taken off the score of a token each time it was made");
    visitor("presence_penalty", presence_penalty, "Taken off the score of a token that was made");
    visitor("no_repeat_ngram_size", no_repeat_ngram_size, "No run of so many tokens comes twice; 0: any may",
            at_least(0));
    visitor("num_beams", num_beams, "Texts that are followed at a time", at_least(1));
    visitor("length_penalty", length_penalty, "Power of the length that a beam's score is divided by");
    visitor("early_stopping", early_stopping, "When beams end: with the first num_beams texts, or not",
            one_of({"true", "false", "never"}));
    visitor("eos_token_id", eos_token_id, "Tokens that end the text; empty: those of the model");
    visitor("stop", stop, "Strings that end the text and are left out of it");
    visitor("seed", seed, "Of the draws", at_least(0));
  }
};

/// Adds what contradicts itself, under `place` ("generation.").
void check_generation(const GenerationOptions& options, const std::string& place, ErrorList& errors);

}  // namespace msplora
