#include "msplora/data/encode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "error_text.h"
#include "msplora/core/file.h"
#include "msplora/data/batching.h"
#include "msplora/data/mlm.h"
#include "msplora/tokenizers/trainer.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// Ids: [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, the 5, cat 6, ##s 7, sat 8, a 9, dog 10.
std::shared_ptr<const Tokenizer> small_tokenizer(const TemporaryDirectory& dir) {
  dir.write("tok/vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\n##s\nsat\na\ndog\n");
  return Tokenizer::load(dir.path() / "tok");
}

Dataset make_data(std::vector<Example> examples, bool has_labels = true) {
  for (size_t i = 0; i < examples.size(); ++i) examples[i].line = static_cast<int64_t>(i) + 1;
  return Dataset("data.tsv", std::move(examples), has_labels);
}

TEST(EncodeDataset, SinglesPairsAndLabels) {
  TemporaryDirectory dir;
  const auto tokenizer = small_tokenizer(dir);
  const LabelMap labels = LabelMap::from_list({"no", "yes"});
  const Dataset data =
      make_data({{"The cats sat", "", false, "yes", "", 0}, {"the dog", "a cat", true, "no", "", 0}});
  const EncodedDataset encoded = encode_dataset(data, LabelKind::kClass, &labels, *tokenizer, 0);
  ASSERT_EQ(encoded.examples.size(), 2u);
  EXPECT_THAT(encoded.examples[0].ids, ElementsAre(2, 5, 6, 7, 8, 3));
  EXPECT_THAT(encoded.examples[0].type_ids, IsEmpty());
  EXPECT_EQ(encoded.examples[0].label, 1);
  EXPECT_THAT(encoded.examples[1].ids, ElementsAre(2, 5, 10, 3, 9, 6, 3));
  EXPECT_THAT(encoded.examples[1].type_ids, ElementsAre(0, 0, 0, 0, 1, 1, 1));
  EXPECT_EQ(encoded.examples[1].label, 0);
  EXPECT_EQ(encoded.summary.tokens, 13);
  EXPECT_EQ(encoded.summary.shortest, 6);
  EXPECT_EQ(encoded.summary.longest, 7);
  EXPECT_EQ(encoded.summary.mean(), 6.5);
  EXPECT_EQ(encoded.summary.truncated_examples, 0);
  EXPECT_EQ(encoded.summary.text().find("truncated"), std::string::npos);
}

TEST(EncodeDataset, TheShareOfUnknownTokensIsSaid) {
  TemporaryDirectory dir;
  const auto tokenizer = small_tokenizer(dir);
  const auto note = [&](const std::string& text) {
    const Dataset data = make_data({{text, "", false, "1", "", 0}, {"the cat", "a dog", true, "1", "", 0}});
    return encode_dataset(data, LabelKind::kNumber, nullptr, *tokenizer, 0).summary;
  };
  // 4 + 4 tokens without [CLS] and [SEP], 3 of them unknown.
  EXPECT_EQ(note("bird the fish bird").unknown.note(), "37.5 % of the tokens are [UNK]");
  EXPECT_THAT(note("bird the fish bird").text(), HasSubstr("; 37.5 % of the tokens are [UNK]"));
  EXPECT_EQ(note("bird the fish bird").unknown.of, 8);
  EXPECT_EQ(note("the cat").unknown.note(), "");
}

TEST(EncodeDataset, TruncationIsCounted) {
  TemporaryDirectory dir;
  const auto tokenizer = small_tokenizer(dir);
  const Dataset data =
      make_data({{"the cat sat the cat sat", "", false, "1.5", "", 0}, {"a dog", "", false, "-2", "", 0}});
  const EncodedDataset encoded = encode_dataset(data, LabelKind::kNumber, nullptr, *tokenizer, 5);
  EXPECT_THAT(encoded.examples[0].ids, ElementsAre(2, 5, 6, 8, 3));
  EXPECT_EQ(encoded.examples[0].target, 1.5);
  EXPECT_EQ(encoded.examples[1].target, -2.0);
  EXPECT_EQ(encoded.summary.truncated_examples, 1);
  EXPECT_EQ(encoded.summary.dropped_tokens, 3);
  EXPECT_THAT(encoded.summary.text(), HasSubstr("1 examples (50.0%) were truncated, 3 tokens dropped"));
}

TEST(EncodeDataset, UnlabelledDataAndWrongLabels) {
  TemporaryDirectory dir;
  const auto tokenizer = small_tokenizer(dir);
  const LabelMap labels = LabelMap::from_list({"no", "yes"});
  const Dataset unlabelled = make_data({{"", "", false, "", "", 0}}, false);
  const EncodedDataset encoded = encode_dataset(unlabelled, LabelKind::kClass, nullptr, *tokenizer, 8);
  EXPECT_THAT(encoded.examples[0].ids, ElementsAre(2, 3));
  EXPECT_EQ(encoded.examples[0].label, kIgnoredLabel);
  const Dataset wrong = make_data({{"a", "", false, "yes", "", 0}, {"a", "", false, "yess", "", 0}});
  EXPECT_THAT(
      error_text(ErrorCode::kData, [&] { encode_dataset(wrong, LabelKind::kClass, &labels, *tokenizer, 8); }),
      AllOf(HasSubstr("data.tsv:2"), HasSubstr("`yess`"), HasSubstr("did you mean `yes`?")));
  EXPECT_THROW(encode_dataset(wrong, LabelKind::kNumber, nullptr, *tokenizer, 8), Error);
  EXPECT_THROW(encode_dataset(wrong, LabelKind::kClass, nullptr, *tokenizer, 8), Error);
}

TEST(MlmVocabulary, IsReadOffTheTokenizer) {
  TemporaryDirectory dir;
  const MlmVocabulary vocabulary = MlmVocabulary::from_tokenizer(*small_tokenizer(dir));
  EXPECT_EQ(vocabulary.mask_id, 4);
  EXPECT_EQ(vocabulary.vocab_size(), 11);
  EXPECT_THAT(vocabulary.special, ElementsAre(1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0));
  EXPECT_THAT(vocabulary.continuation, ElementsAre(0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0));
  EXPECT_THAT(vocabulary.prefix, ElementsAre(2));
  EXPECT_THAT(vocabulary.suffix, ElementsAre(3));
}

TEST(TextFrame, DocumentsEndInTheEndToken) {
  TemporaryDirectory dir;
  const auto tokenizer = small_tokenizer(dir);
  EXPECT_THAT(TextFrame::of(*tokenizer).suffix, ElementsAre(3));
  EXPECT_THAT(error_text(ErrorCode::kConfig, [&] { TextFrame::of_documents(*tokenizer); }),
              HasSubstr("end token"));
  const auto text = dir.write("text.txt", "some words and some more words");
  BytePairTrainerOptions options;
  options.vocab_size = 265;
  train_byte_pair(options, {text}, dir.path() / "bpe");
  const TextFrame frame = TextFrame::of_documents(*Tokenizer::load(dir.path() / "bpe"));
  EXPECT_TRUE(frame.around_lines);
  EXPECT_THAT(frame.prefix, ElementsAre(0));
  EXPECT_THAT(frame.suffix, ElementsAre(0));
  EXPECT_EQ(frame.vocab_size(), 265);
}

TEST(TextCorpus, BuildsFromFilesAndKeepsACache) {
  TemporaryDirectory dir;
  const auto tokenizer = small_tokenizer(dir);
  const std::vector<std::filesystem::path> files = {dir.write("a.txt", "the cats sat\r\n\n  \na dog\n"),
                                                    dir.write("b.txt", "zzz\nthe the the the the cat")};
  TextCorpusOptions options;
  options.max_length = 6;
  const TextCorpus plain = TextCorpus::build(files, *tokenizer, TextFrame::of(*tokenizer), options);
  EXPECT_THAT(plain.lengths(), ElementsAre(6, 4, 5, 5));
  EXPECT_EQ(plain.summary().lines, 4);
  EXPECT_EQ(plain.summary().unusable_lines, 1);
  EXPECT_EQ(plain.summary().split_lines, 1);
  EXPECT_THAT(plain.sequence(0), ElementsAre(2, 5, 6, 7, 8, 3));

  options.cache_dir = dir.path() / "cache";
  EXPECT_THAT(TextCorpus::build(files, *tokenizer, TextFrame::of(*tokenizer), options).notes(), IsEmpty());
  const TextCorpus cached = TextCorpus::build(files, *tokenizer, TextFrame::of(*tokenizer), options);
  EXPECT_THAT(cached.notes(), ElementsAre(HasSubstr("comes from")));
  EXPECT_EQ(cached.lengths(), plain.lengths());
  EXPECT_EQ(cached.summary().text(), plain.summary().text());
  options.max_length = 5;  // another key
  EXPECT_THAT(TextCorpus::build(files, *tokenizer, TextFrame::of(*tokenizer), options).notes(), IsEmpty());
  dir.write("a.txt", "the cats sat\na cat\n");  // other text
  EXPECT_THAT(TextCorpus::build(files, *tokenizer, TextFrame::of(*tokenizer), options).notes(), IsEmpty());

  options.cache_dir = dir.write("file", "");  // not a directory: the run goes on
  EXPECT_THAT(TextCorpus::build(files, *tokenizer, TextFrame::of(*tokenizer), options).notes(),
              Contains(HasSubstr("was not kept")));
}

TEST(TextCorpus, RefusesFilesWithoutText) {
  TemporaryDirectory dir;
  const auto tokenizer = small_tokenizer(dir);
  EXPECT_THROW(TextCorpus::build({}, *tokenizer, TextFrame::of(*tokenizer), {}), Error);
  EXPECT_THROW(TextCorpus::build({dir.write("a.txt", "\n zzz\n")}, *tokenizer, TextFrame::of(*tokenizer), {}),
               Error);
  EXPECT_THROW(TextCorpus::build({dir.path() / "none.txt"}, *tokenizer, TextFrame::of(*tokenizer), {}),
               Error);
  EXPECT_THAT(error_text(ErrorCode::kData,
                         [&] {
                           TextCorpus::build({dir.write("b.txt", "fine\n\xFF\n")}, *tokenizer,
                                             TextFrame::of(*tokenizer), {});
                         }),
              HasSubstr("b.txt:2"));
}

// The whole way from a file to batches on published data.
TEST(RealData, Sst2FromFileToBatches) {
  const char* root = std::getenv("MSPLORA_DATA");
  if (root == nullptr) GTEST_SKIP() << "MSPLORA_DATA is not set";
  TemporaryDirectory dir;
  const auto tokenizer = small_tokenizer(dir);
  DataConfig config;
  config.train = (std::filesystem::path(root) / "sst2" / "train.tsv").string();
  config.text = "0";
  config.label = "1";
  const TaskData data = load_task_data(config, LabelKind::kClass, 1);
  const LabelMap labels = LabelMap::from_data(data.train);
  const EncodedDataset encoded = encode_dataset(data.train, LabelKind::kClass, &labels, *tokenizer, 64);
  BatchOptions options;
  options.token_budget = 2048;
  const BatchPlan plan(lengths_of(all_of(encoded.examples)), options);
  EXPECT_EQ(plan.tokens(), static_cast<uint64_t>(encoded.summary.tokens));
  const BatchList batches = plan.epoch(0);
  size_t sequences = 0, positive = 0;
  for (size_t i = 0; i < batches.size(); ++i) {
    size_t tokens = 0;
    for (const uint32_t index : batches[i]) {
      tokens += encoded.examples[index].ids.size();
      positive += static_cast<size_t>(encoded.examples[index].label);
    }
    EXPECT_LE(tokens, 2048u);
    sequences += batches[i].size();
  }
  EXPECT_EQ(sequences, 6920u);
  EXPECT_EQ(positive, 3610u);
}

}  // namespace
}  // namespace msplora
