#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

namespace msplora {

/// A fresh directory named after the running test and process (builds may be tested side by side), removed at
/// the end.
class TemporaryDirectory {
 public:
  explicit TemporaryDirectory(const std::string& suffix = "") {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    std::string name = std::string("msplora-") + info->test_suite_name() + "-" + info->name() + suffix + "-" +
                       std::to_string(::getpid());
    for (char& c : name) {
      if (c == '/') c = '-';
    }
    path_ = std::filesystem::path(::testing::TempDir()) / name;
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace msplora
