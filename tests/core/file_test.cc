#include "msplora/core/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "error_text.h"
#include "msplora/core/paths.h"
#include "temporary_directory.h"

namespace msplora {
namespace {

namespace fs = std::filesystem;

ErrorCode code_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.code();
  }
  return ErrorCode::kUsage;
}

std::string problem_with(const fs::path& output, const fs::path& input) {
  try {
    refuse_input_as_output(output, {input}, "output.dir");
  } catch (const Error& error) {
    EXPECT_EQ(error.where(), "output.dir");
    return error.message();
  }
  return "";
}

TEST(RequireFile, TakesFilesAlone) {
  const TemporaryDirectory dir;
  require_file(dir.write("file", "text"));
  require_file(dir.path() / "absent");
  fs::create_symlink(dir.path() / "file", dir.path() / "link");
  require_file(dir.path() / "link");
  ASSERT_EQ(::mkfifo((dir.path() / "pipe").c_str(), 0600), 0);
  for (const auto& [path, kind] : {std::pair(dir.path() / "pipe", "a pipe"),
                                   {dir.path(), "a directory"},
                                   {fs::path("/dev/null"), "a device"}}) {
    EXPECT_THAT(error_text(ErrorCode::kIo, [&] { require_file(path); }),
                testing::HasSubstr(path.string() + ": expected a file, found " + kind));
    // Nobody writes to the pipe: what opened it would wait.
    EXPECT_THAT(error_text(ErrorCode::kIo, [&] { MappedFile::open(path); }), testing::HasSubstr(kind));
  }
}

TEST(FilledDirectory, HasSomethingInIt) {
  const TemporaryDirectory dir;
  EXPECT_FALSE(is_filled_directory(dir.path()));
  EXPECT_FALSE(is_filled_directory(dir.path() / "absent"));
  const fs::path file = dir.write("file", "text");
  EXPECT_TRUE(is_filled_directory(dir.path()));
  EXPECT_FALSE(is_filled_directory(file));
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

TEST(Paths, NamesThatAreTooLongEndAsOurErrors) {
  const fs::path long_name = std::string(300, 'a');
  EXPECT_FALSE(path_exists(long_name));
  EXPECT_FALSE(directory_exists(long_name));
  EXPECT_TRUE(entries_of(long_name).empty());
  for (const auto& body : std::vector<std::function<void()>>{
           [&] { read_file(long_name); }, [&] { write_file_atomically(long_name, "x"); },
           [&] { make_directories(long_name); }, [&] { size_of_file(long_name); },
           [&] { rename_path(long_name, "b"); }, [&] { prepare_output_directory(long_name, true); }}) {
    EXPECT_EQ(code_of(body), ErrorCode::kIo);
  }
}

TEST(Paths, RemovesWhatIsThere) {
  TemporaryDirectory dir;
  const fs::path tree = dir.path() / "a" / "b";
  make_directories(tree);
  write_file_atomically(tree / "z", "1");
  write_file_atomically(tree / "c", "12");
  EXPECT_EQ(entries_of(tree), (std::vector<fs::path>{tree / "c", tree / "z"}));
  EXPECT_EQ(size_of_file(tree / "c"), 2u);
  remove_path(dir.path() / "a");
  EXPECT_FALSE(path_exists(tree));
  remove_path(dir.path() / "a");
}

}  // namespace
}  // namespace msplora
