
#include "golden_cases.h"
#include "io/test_files.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <filesystem>
#include <string>
#include <vector>
#include "msplora/io/safetensors.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

using io_test::error_of;
using io_test::write_bytes;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string index_of(const std::string& weight_map) {
  return R"({"metadata":{"total_size":12},"weight_map":{)" + weight_map + "}}";
}

std::string checkpoint_refusal(const TemporaryDirectory& directory, ErrorCode code) {
  return error_of(code, [&] { Checkpoint::open(directory.path()); });
}

constexpr const char* kIndex = "model.safetensors.index.json";

TEST(Checkpoint, ReadsOneFile) {
  TemporaryDirectory directory;
  write_safetensors(directory / "model.safetensors",
                    {{"b", at::ones({2})}, {"a", at::zeros({3}, at::kHalf)}});
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  EXPECT_THAT(checkpoint.names(), ElementsAre("a", "b"));
  EXPECT_TRUE(checkpoint.contains("a"));
  EXPECT_FALSE(checkpoint.contains("c"));
  EXPECT_EQ(checkpoint.info("a").dtype, at::kHalf);
  EXPECT_TRUE(at::equal(checkpoint.tensor("b"), at::ones({2})));
  EXPECT_THAT(error_of(ErrorCode::kFormat, [&] { checkpoint.tensor("c"); }), HasSubstr("no such tensor"));
}

TEST(Checkpoint, ReadsShards) {
  TemporaryDirectory directory;
  write_safetensors(directory / "model-00001-of-00002.safetensors", {{"a", at::full({2}, 1.0)}});
  write_safetensors(directory / "model-00002-of-00002.safetensors",
                    {{"b", at::full({1}, 2.0)}, {"unlisted", at::ones({1})}});
  write_bytes(directory / kIndex,
              index_of(R"("b":"model-00002-of-00002.safetensors","a":"model-00001-of-00002.safetensors")"));
  Checkpoint checkpoint = Checkpoint::open(directory.path());
  EXPECT_THAT(checkpoint.names(), ElementsAre("a", "b"));
  EXPECT_TRUE(at::equal(checkpoint.tensor("a"), at::full({2}, 1.0)));
  EXPECT_TRUE(at::equal(checkpoint.tensor("b"), at::full({1}, 2.0)));
}

TEST(Checkpoint, ListsAllMissingShardsTogether) {
  TemporaryDirectory directory;
  write_safetensors(directory / "s2", {{"b", at::ones({1})}});
  write_bytes(directory / kIndex, index_of(R"("a":"s1","b":"s2","c":"s3","d":"s3")"));
  EXPECT_THAT(checkpoint_refusal(directory, ErrorCode::kIo),
              AllOf(HasSubstr("shards are missing: s1, s3"), HasSubstr(kIndex)));
}

TEST(Checkpoint, RefusesAnIndexThatClaimsTooMuch) {
  TemporaryDirectory directory;
  write_safetensors(directory / "s1", {{"a", at::ones({1})}});
  write_bytes(directory / kIndex, index_of(R"("a":"s1","b":"s1","c":"s1")"));
  EXPECT_THAT(checkpoint_refusal(directory, ErrorCode::kFormat),
              AllOf(HasSubstr("`b` in s1"), HasSubstr("`c` in s1")));
}

TEST(Checkpoint, RefusesShardsElsewhere) {
  TemporaryDirectory directory;
  for (const char* shard : {"../s", "/etc/passwd", "a/b", "..", ".", "", R"(a\\b)", R"(s\u0000)"}) {
    write_bytes(directory / kIndex, index_of(std::string(R"("w":")") + shard + "\""));
    EXPECT_THAT(checkpoint_refusal(directory, ErrorCode::kFormat),
                AllOf(HasSubstr("`w`"), HasSubstr("same directory")))
        << shard;
  }
}

TEST(Checkpoint, RefusesDamagedIndexes) {
  TemporaryDirectory directory;
  for (const char* text : {"", "{", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{}})",
                           R"({"weight_map":{"a":1}})", R"({"weight_map":{"a":"s","a":"s"}})"}) {
    write_bytes(directory / kIndex, text);
    EXPECT_THAT(checkpoint_refusal(directory, ErrorCode::kFormat), HasSubstr(kIndex)) << text;
  }
}

TEST(Checkpoint, SaysWhatToDoWithoutSafetensors) {
  TemporaryDirectory directory;
  EXPECT_THAT(checkpoint_refusal(directory, ErrorCode::kIo), HasSubstr("found nothing"));
  write_bytes(directory / "vocab.txt", "");
  EXPECT_THAT(checkpoint_refusal(directory, ErrorCode::kIo), HasSubstr("found vocab.txt"));
  write_bytes(directory / "adapter_model.safetensors", "");
  EXPECT_THAT(checkpoint_refusal(directory, ErrorCode::kIo), HasSubstr("this is an adapter"));
  write_bytes(directory / "pytorch_model.bin", "");
  EXPECT_THAT(checkpoint_refusal(directory, ErrorCode::kIo),
              AllOf(HasSubstr("pytorch_model.bin"), HasSubstr("safe_serialization=True")));
  EXPECT_THAT(error_of(ErrorCode::kIo, [&] { Checkpoint::open(directory / "absent"); }),
              HasSubstr("does not exist"));
  EXPECT_THAT(error_of(ErrorCode::kIo, [&] { Checkpoint::open(directory / "vocab.txt"); }),
              HasSubstr("found a file"));
}

TEST(GoldenParityCheckpoints, AreReadWhole) {
  const std::filesystem::path root = golden_group("parity");
  if (root.empty()) GTEST_SKIP() << "no parity cases";
  int found = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (entry.path().extension() != ".safetensors") continue;
    EXPECT_FALSE(SafetensorsFile::open(entry.path())->tensors().empty()) << entry.path();
    if (entry.path().filename() != "model.safetensors") continue;
    const Checkpoint checkpoint = Checkpoint::open(entry.path().parent_path());
    for (const std::string& name : checkpoint.names()) {
      EXPECT_TRUE(at::isfinite(checkpoint.tensor(name)).all().item<bool>()) << name;
    }
    ++found;
  }
  EXPECT_GT(found, 0);
}

}  // namespace
}  // namespace msplora
