#include "msplora/data/mlm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "msplora/core/file.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int32_t kPad = 0, kCls = 1, kSep = 2, kMask = 3, kUnk = 4, kFirst = 5;

// Ids from 100 continue words.
MlmVocabulary make_vocabulary(size_t size = 200) {
  MlmVocabulary vocabulary;
  vocabulary.mask_id = kMask;
  vocabulary.special.assign(size, 0);
  vocabulary.continuation.assign(size, 0);
  for (const int32_t id : {kPad, kCls, kSep, kMask, kUnk}) vocabulary.special[static_cast<size_t>(id)] = 1;
  for (size_t id = 100; id < size; ++id) vocabulary.continuation[id] = 1;
  vocabulary.prefix = {kCls};
  vocabulary.suffix = {kSep};
  return vocabulary;
}

std::vector<int32_t> sequence(const TextCorpus& corpus, size_t index) {
  return corpus.sequence(index);
}

TEST(TextCorpus, KeepsLinesAndSplitsLongOnesEvenly) {
  TextCorpus corpus(make_vocabulary());
  std::vector<int32_t> line(13);
  std::iota(line.begin(), line.end(), kFirst);
  corpus.add_line(std::vector<int32_t>{7, 8}, 8);
  corpus.add_line(line, 8);                              // 13 tokens in pieces of at most 6
  corpus.add_line(std::vector<int32_t>{kUnk, kUnk}, 8);  // nothing to predict
  corpus.add_line({}, 8);
  EXPECT_THAT(corpus.lengths(), ElementsAre(4, 6, 6, 7));
  EXPECT_THAT(sequence(corpus, 0), ElementsAre(kCls, 7, 8, kSep));
  EXPECT_THAT(sequence(corpus, 1), ElementsAre(kCls, 5, 6, 7, 8, kSep));
  EXPECT_THAT(sequence(corpus, 3), ElementsAre(kCls, 13, 14, 15, 16, 17, kSep));
  EXPECT_EQ(corpus.summary().lines, 4);
  EXPECT_EQ(corpus.summary().sequences, 4);
  EXPECT_EQ(corpus.summary().tokens, 23);
  EXPECT_EQ(corpus.summary().split_lines, 1);
  EXPECT_EQ(corpus.summary().unusable_lines, 2);
  EXPECT_THROW(corpus.add_line(std::vector<int32_t>{200}, 8), Error);
  EXPECT_THROW(corpus.add_line(std::vector<int32_t>{-1}, 8), Error);
  EXPECT_THROW(corpus.add_line(std::vector<int32_t>{7}, 2), Error);
  EXPECT_THROW(sequence(corpus, 4), Error);
}

TEST(TextCorpus, FramesWholeLinesForModelsThatContinueText) {
  TextFrame frame = make_vocabulary();
  frame.around_lines = true;
  TextCorpus corpus(frame);
  std::vector<int32_t> line(10);
  std::iota(line.begin(), line.end(), kFirst);
  corpus.add_line(line, 5);  // 12 tokens with the frame: three pieces
  corpus.add_line(std::vector<int32_t>{7}, 5);
  corpus.add_line({}, 5);
  EXPECT_THAT(corpus.lengths(), ElementsAre(4, 4, 4, 3));
  EXPECT_THAT(sequence(corpus, 0), ElementsAre(kCls, 5, 6, 7));
  EXPECT_THAT(sequence(corpus, 1), ElementsAre(8, 9, 10, 11));
  EXPECT_THAT(sequence(corpus, 2), ElementsAre(12, 13, 14, kSep));
  EXPECT_THAT(sequence(corpus, 3), ElementsAre(kCls, 7, kSep));
  EXPECT_EQ(corpus.summary().tokens, 15);
  EXPECT_EQ(corpus.summary().unusable_lines, 1);
}

TEST(TextCorpus, CacheGivesTheSameAndRefusesDamage) {
  TemporaryDirectory dir;
  for (const size_t vocabulary : {size_t{200}, size_t{70000}}) {  // two and four bytes an id
    TextCorpus corpus(make_vocabulary(vocabulary));
    const auto last = static_cast<int32_t>(vocabulary) - 1;
    corpus.add_line(std::vector<int32_t>{7, last, 9}, 16);
    corpus.add_line(std::vector<int32_t>{10}, 16);
    const auto file = dir.path() / ("cache" + std::to_string(vocabulary));
    corpus.save(file, 42);

    TextCorpus again(make_vocabulary(vocabulary));
    ASSERT_TRUE(again.load(file, 42));
    EXPECT_EQ(again.lengths(), corpus.lengths());
    EXPECT_THAT(sequence(again, 0), ElementsAre(kCls, 7, last, 9, kSep));
    EXPECT_EQ(again.summary().text(), corpus.summary().text());

    const std::string content = read_file(file);
    TextCorpus fresh(make_vocabulary(vocabulary));
    EXPECT_FALSE(fresh.load(dir.path() / "none", 42));
    EXPECT_TRUE(fresh.notes().empty());
    EXPECT_FALSE(fresh.load(file, 43));
    EXPECT_THAT(fresh.notes().back(), HasSubstr("other text"));
    for (size_t length = 0; length < content.size(); ++length) {
      EXPECT_FALSE(fresh.load(dir.write("cut", content.substr(0, length)), 42));
    }
    for (size_t position = 0; position < content.size(); ++position) {
      std::string damaged = content;
      damaged[position] = static_cast<char>(damaged[position] ^ 0x10);
      EXPECT_FALSE(fresh.load(dir.write("damaged", damaged), 42)) << "byte " << position;
    }
    EXPECT_EQ(fresh.size(), 0u);
  }
}

// The first token's label is a token of the text as it was, drawn anew in each epoch; the words' labels are
// those that they would have without it, apart from the numbers drawn.
TEST(MaskTokens, TheFirstTokenPredictsATokenOfItsText) {
  const MlmVocabulary vocabulary = make_vocabulary();
  MaskOptions options;
  options.first_token = true;
  std::set<int64_t> seen;
  for (uint64_t epoch = 0; epoch < 60; ++epoch) {
    std::vector<int64_t> ids = {kCls, kFirst, kFirst + 1, kFirst + 2, kSep}, labels(ids.size());
    mask_tokens(ids, labels, vocabulary, options, epoch, 3);
    EXPECT_EQ(ids.front(), kCls);
    EXPECT_GE(labels.front(), kFirst);
    EXPECT_LE(labels.front(), kFirst + 2);
    EXPECT_EQ(labels.back(), kIgnoredLabel);
    seen.insert(labels.front());
  }
  EXPECT_EQ(seen.size(), 3u);
  // A sequence without a special token in front has no such label.
  std::vector<int64_t> bare = {kFirst, kFirst + 1}, labels(2);
  options.probability = 1e-9;
  mask_tokens(bare, labels, vocabulary, options, 0, 0);
  EXPECT_EQ(std::count(labels.begin(), labels.end(), kIgnoredLabel), 1);
}

TEST(MaskTokens, SharesAreThoseOfBert) {
  const MlmVocabulary vocabulary = make_vocabulary();
  MaskOptions options;
  options.seed = 9;
  int64_t tokens = 0, chosen = 0, masked = 0, kept = 0, replaced = 0;
  for (uint64_t example = 0; example < 2000; ++example) {
    std::vector<int64_t> ids(102), labels(102);
    ids.front() = kCls;
    ids.back() = kSep;
    for (size_t i = 1; i < 101; ++i) ids[i] = kFirst + static_cast<int64_t>((i * 7 + example) % 190);
    const std::vector<int64_t> original = ids;
    mask_tokens(ids, labels, vocabulary, options, 0, example);
    EXPECT_EQ(labels.front(), kIgnoredLabel);
    EXPECT_EQ(labels.back(), kIgnoredLabel);
    for (size_t i = 1; i < 101; ++i) {
      ++tokens;
      if (labels[i] == kIgnoredLabel) {
        EXPECT_EQ(ids[i], original[i]);
        continue;
      }
      ++chosen;
      EXPECT_EQ(labels[i], original[i]);
      masked += ids[i] == kMask;
      kept += ids[i] == original[i];
      if (ids[i] != kMask && ids[i] != original[i]) {
        ++replaced;
        EXPECT_EQ(vocabulary.special[static_cast<size_t>(ids[i])], 0);
      }
    }
  }
  // Five standard deviations of the binomial shares.
  const double n = static_cast<double>(chosen);
  EXPECT_NEAR(n / static_cast<double>(tokens), 0.15,
              5 * std::sqrt(0.15 * 0.85 / static_cast<double>(tokens)));
  EXPECT_NEAR(static_cast<double>(masked) / n, 0.8, 5 * std::sqrt(0.16 / n));
  EXPECT_NEAR(static_cast<double>(kept) / n, 0.1 + 0.1 / 195, 5 * std::sqrt(0.09 / n));
  EXPECT_NEAR(static_cast<double>(replaced) / n, 0.1 - 0.1 / 195, 5 * std::sqrt(0.09 / n));
}

TEST(MaskTokens, AtLeastOneAndNeverSpecial) {
  const MlmVocabulary vocabulary = make_vocabulary();
  MaskOptions options;
  options.probability = 1e-9;
  std::vector<int> hits(4);
  for (uint64_t example = 0; example < 200; ++example) {
    std::vector<int64_t> ids = {kCls, 10, kUnk, 20, kSep}, labels(5);
    mask_tokens(ids, labels, vocabulary, options, 1, example);
    EXPECT_EQ(std::count(labels.begin(), labels.end(), kIgnoredLabel), 4);
    hits[1] += labels[1] == 10;
    hits[3] += labels[3] == 20;
  }
  EXPECT_EQ(hits[1] + hits[3], 200);
  EXPECT_GT(hits[1], 60);
  EXPECT_GT(hits[3], 60);
  std::vector<int64_t> ids = {kCls, kSep}, labels(2);
  EXPECT_THROW(mask_tokens(ids, labels, vocabulary, options, 0, 0), Error);
}

TEST(MaskTokens, WholeWordsAreChosenTogether) {
  const MlmVocabulary vocabulary = make_vocabulary();
  MaskOptions options;
  options.whole_word = true;
  options.probability = 0.3;
  bool differ = false;
  for (uint64_t example = 0; example < 300; ++example) {
    // Words: [10 100 101] [11] [12 102]; a piece behind a special token begins a word of its own: [103].
    std::vector<int64_t> ids = {kCls, 10, 100, 101, 11, 12, 102, kUnk, 103, kSep}, labels(10);
    mask_tokens(ids, labels, vocabulary, options, 0, example);
    const auto chosen = [&labels](size_t i) { return labels[i] != kIgnoredLabel; };
    EXPECT_EQ(chosen(1), chosen(2));
    EXPECT_EQ(chosen(1), chosen(3));
    EXPECT_EQ(chosen(5), chosen(6));
    EXPECT_FALSE(chosen(7));
    differ = differ || (chosen(6) != chosen(8) && chosen(4) != chosen(5));
  }
  EXPECT_TRUE(differ);
}

TEST(TextCorpus, IsExamplesWithSpecialTokens) {
  TextCorpus corpus(make_vocabulary());
  corpus.add_line(std::vector<int32_t>{kFirst, kFirst + 1}, 64);
  corpus.add_line(std::vector<int32_t>{kFirst + 2}, 64);
  const Examples examples = all_of(corpus);
  ASSERT_EQ(examples.size, 2u);
  EXPECT_EQ(examples.length(0), 4u);
  EXPECT_THAT(examples.get(1).ids, ElementsAre(kCls, kFirst + 2, kSep));
  EXPECT_EQ(examples.name(1), "sequence 2 of the text");
  EXPECT_THROW(examples.get(2), Error);
}

}  // namespace
}  // namespace msplora
