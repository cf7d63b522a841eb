#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "msplora/core/random.h"
#include "msplora/generation/beam_search.h"
#include "msplora/generation/scores.h"
#include "msplora/generation/stop_strings.h"

namespace msplora {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::string problems_of(const GenerationOptions& options) {
  ErrorList errors;
  check_generation(options, "generation.", errors);
  std::string text;
  for (const Error& error : errors.problems()) text += std::string(error.what()) + "\n";
  return text;
}

TEST(Generation, OptionsThatContradictEachOtherAreTold) {
  EXPECT_EQ(problems_of({}), "");
  GenerationOptions options;
  options.top_p = 0.9;
  options.min_new_tokens = 200;
  options.stop = {""};
  options.eos_token_id = {-1};
  EXPECT_THAT(problems_of(options), HasSubstr("generation.do_sample"));
  EXPECT_THAT(problems_of(options), HasSubstr("generation.min_new_tokens"));
  EXPECT_THAT(problems_of(options), HasSubstr("generation.stop"));
  EXPECT_THAT(problems_of(options), HasSubstr("generation.eos_token_id"));
  options = {};
  options.do_sample = true;
  options.num_beams = 2;
  EXPECT_EQ(
      problems_of(options),
      "generation.num_beams: 2 beams and do_sample exclude each other: beams are not drawn (num_beams: 1 "
      "draws; beams go without do_sample)\n");
  options.do_sample = false;
  options.temperature = 0.5;
  options.top_k = 3;
  EXPECT_EQ(
      problems_of(options),
      "generation.num_beams: 2 beams and temperature 0.5, top_k 3 exclude each other: beams are not drawn "
      "(num_beams: 1 draws; beams go without temperature 0.5, top_k 3)\n");
  options.num_beams = 1;
  EXPECT_THAT(problems_of(options),
              HasSubstr("do_sample: temperature 0.5, top_k 3 acts only where tokens are drawn"));
}

TEST(Generation, NothingToGoOnWithIsAnError) {
  EXPECT_THROW(likeliest(std::vector<double>{-kInfinity, -kInfinity}), Error);
  EXPECT_THROW(likeliest(std::vector<double>{0.0, std::nan("")}), Error);
  EXPECT_THROW(likeliest(std::vector<double>{}), Error);
  EXPECT_THROW(sampling_probabilities({}, std::vector<double>{-kInfinity}), Error);
}

TEST(Generation, OneTokenAlwaysStays) {
  const std::vector<double> scores = {0.3, 1.0, 1.0, -2.0};
  GenerationOptions options;
  options.top_p = 0.0;
  const std::vector<double> one = sampling_probabilities(options, scores);
  EXPECT_EQ(std::count(one.begin(), one.end(), 0.0), 3);
  options = {};
  options.typical_p = 0.0;
  const std::vector<double> typical = sampling_probabilities(options, scores);
  EXPECT_LT(std::count(typical.begin(), typical.end(), 0.0), 4);
  options = {};
  options.top_k = 1;  // both of the likeliest: none is more likely than the other
  EXPECT_THAT(sampling_probabilities(options, scores), ElementsAre(0.0, 0.5, 0.5, 0.0));
  EXPECT_EQ(likeliest(scores), 1);
}

// Whole sorts, of which the library needs none.
std::vector<size_t> kept_by_sorting(const std::vector<double>& scores, size_t k, double p) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] < scores[b]; });
  const double border = scores[order[order.size() - k]];
  std::erase_if(order, [&](size_t i) { return scores[i] < border; });
  double all = 0.0, sum = 0.0;
  for (const size_t i : order) all += std::exp(scores[i]);
  size_t dropped = 0;
  while (dropped + 1 < order.size() && (sum += std::exp(scores[order[dropped]]) / all) <= 1.0 - p) ++dropped;
  std::vector<size_t> kept(order.begin() + static_cast<std::ptrdiff_t>(dropped), order.end());
  std::sort(kept.begin(), kept.end());
  return kept;
}

TEST(Generation, LargeVocabulariesAreCutAsByASort) {
  RandomStream random(5, "scores");
  std::vector<double> scores(3000);
  for (double& score : scores)
    score = std::round(400.0 * random.uniform() * random.uniform()) / 30.0;  // some are equal
  for (const size_t k : {1, 2, 70, 1500, 2999, 3000}) {
    for (const double p : {0.0, 0.1, 0.5, 0.9, 0.99, 0.999999}) {
      GenerationOptions options;
      options.top_k = static_cast<int64_t>(k);
      options.top_p = p;
      const std::vector<double> probabilities = sampling_probabilities(options, scores);
      std::vector<size_t> kept;
      for (size_t i = 0; i < scores.size(); ++i) {
        if (probabilities[i] > 0) kept.push_back(i);
      }
      EXPECT_EQ(kept, kept_by_sorting(scores, k, p)) << "top_k " << k << ", top_p " << p;
    }
  }
}

TEST(Generation, TheLikeliestIsFoundWhereverItStands) {
  for (size_t place = 0; place < 21; ++place) {
    std::vector<float> scores(21, -1.0f);
    scores[place] = 0.5f;
    scores.push_back(0.5f);  // the first of several
    EXPECT_EQ(next_token({}, std::vector<int32_t>{1}, 1, scores, 0.0), static_cast<int32_t>(place));
    scores[place] = std::nanf("");
    EXPECT_THROW(next_token({}, std::vector<int32_t>{1}, 1, scores, 0.0), Error);
  }
}

TEST(Generation, DrawsFollowTheProbabilities) {
  const std::vector<double> probabilities = {0.0, 0.25, 0.0, 0.75, 0.0};
  EXPECT_EQ(draw(probabilities, 0.0), 1);
  EXPECT_EQ(draw(probabilities, 0.2499), 1);
  EXPECT_EQ(draw(probabilities, 0.25), 3);
  EXPECT_EQ(draw(probabilities, std::nextafter(1.0, 0.0)), 3);
  EXPECT_EQ(draw(std::vector<double>{0.5, 0.4999999, 0.0}, 0.99999999), 1);  // a sum rounded to less than one
}

/// What is shown of a text that comes in pieces, and whether it was ended.
std::string shown(std::vector<std::string> stops, const std::vector<std::string>& pieces,
                  std::vector<std::string>* steps = nullptr) {
  StopStrings strings(std::move(stops));
  std::string text;
  for (const std::string& piece : pieces) {
    const std::string now = strings.take(piece);
    if (steps != nullptr) steps->push_back(now);
    text += now;
  }
  return text + (strings.has_stopped() ? "" : strings.rest() + "|");
}

TEST(StopStrings, EndATextWhereTheyBegin) {
  std::vector<std::string> steps;
  EXPECT_EQ(shown({"\n\nQ", "###"}, {"42.", "\n", "\n", "Q: next", "more"}, &steps), "42.");
  EXPECT_THAT(steps, ElementsAre("42.", "", "", "", ""));
  EXPECT_EQ(shown({"abd", "abcabd"}, {"abc", "abc", "ab", "d"}), "abc");
  EXPECT_EQ(shown({"abcX", "bc"}, {"ab", "c"}), "a");
  EXPECT_EQ(shown({"stop"}, {"s", "t", "o", "ne st"}), "stone st|");
  EXPECT_EQ(shown({"aab"}, {"a", "a", "a", "b"}), "a");
  EXPECT_EQ(shown({"x"}, {"x"}), "");
  EXPECT_EQ(shown({""}, {"all", " of it"}), "all of it|");
  EXPECT_EQ(shown({}, {"all"}), "all|");
}

// However a text is cut, as much of it is shown.
TEST(StopStrings, PiecesDoNotMatter) {
  const std::string text = "one two\ntwo three\n\ntwo";
  for (const std::vector<std::string>& stops :
       {std::vector<std::string>{"\ntwo three"}, {"two\nt", "e\n\n"}, {"\n\n\n"}}) {
    const std::string whole = shown(stops, {text});
    for (size_t step = 1; step < 5; ++step) {
      std::vector<std::string> pieces;
      for (size_t at = 0; at < text.size(); at += step) pieces.push_back(text.substr(at, step));
      EXPECT_EQ(shown(stops, pieces), whole) << step;
    }
  }
}

/// A model of four tokens whose scores depend on the length and the last token alone.
std::vector<double> scores_after(const std::vector<int32_t>& text) {
  RandomStream random(text.size(), std::to_string(text.back()));
  return {random.normal(), random.normal(), random.normal(), random.normal() - 1.0};
}

double log_probability(const std::vector<int32_t>& text, size_t prompt) {
  double sum = 0.0;
  for (size_t at = prompt; at < text.size(); ++at) {
    std::vector<double> scores = scores_after({text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at)});
    log_softmax(scores);
    sum += scores[static_cast<size_t>(text[at])];
  }
  return sum;
}

// With as many beams as there are texts nothing is missed: the best of all is found.
TEST(Generation, ManyBeamsFindTheBestOfAll) {
  GenerationOptions options;
  options.max_new_tokens = 4;
  options.num_beams = 256;
  BeamSearch search(options, {2});
  while (!search.is_done()) {
    std::vector<std::vector<double>> logits;
    for (const std::vector<int32_t>& text : search.live()) logits.push_back(scores_after(text));
    search.advance(logits);
  }
  double best = -kInfinity;
  for (int code = 0; code < 256; ++code) {
    const std::vector<int32_t> text = {2, code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6};
    best = std::max(best, log_probability(text, 1) / 4);
  }
  EXPECT_NEAR(search.best().front().score, best, 1e-12);
  EXPECT_EQ(search.best().size(), 256);
}

}  // namespace
}  // namespace msplora
