#include "msplora/core/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "temporary_directory.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

std::string problem_with(const fs::path& output, const fs::path& input) {
  try {
    refuse_input_as_output(output, {input}, "output.dir");
  } catch (const Error& error) {
    EXPECT_EQ(error.where(), "output.dir");
    return error.message();
  }
  return "";
}

TEST(RefuseInputAsOutput, FindsWhatWouldBeWrittenOver) {
  TemporaryDirectory dir;
  const fs::path root = dir.path(), model = root / "runs" / "first" / "model";
  fs::create_directories(model / "inner");
  fs::create_directories(root / "elsewhere");
  write_file_atomically(model / "config.json", "{}");
  fs::create_directory_symlink(model, root / "link");
  fs::create_directory_symlink(root / "runs", root / "to-runs");

  EXPECT_THAT(problem_with(model, model), testing::HasSubstr("is read by this command too"));
  EXPECT_THAT(problem_with(root / "link", model), testing::HasSubstr("is the same as"));
  EXPECT_THAT(problem_with(model / "config.json", model), testing::HasSubstr("is read by this command too"));
  EXPECT_THAT(problem_with(root / "link" / "config.json", model), testing::HasSubstr("is the same as"));
  EXPECT_THAT(problem_with(root / "runs", model), testing::HasSubstr("lies in"));
  EXPECT_THAT(problem_with(root / "to-runs", model), testing::HasSubstr("lies in"));
  EXPECT_THAT(problem_with(root / "runs", root / "link"), testing::HasSubstr("lies in"));
  EXPECT_THAT(problem_with(root / "runs", model / "config.json"), testing::HasSubstr("lies in"));

  EXPECT_EQ(problem_with(model / "inner", model), "");
  EXPECT_EQ(problem_with(model / "new", model), "");
  EXPECT_EQ(problem_with(root / "elsewhere", model), "");
  EXPECT_EQ(problem_with(root / "run", model), "");  // no part of a name
  EXPECT_EQ(problem_with(root / "runs", ""), "");
  EXPECT_EQ(problem_with("", model), "");
}

}  // namespace
}  // namespace msplora
