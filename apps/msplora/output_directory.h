#pragma once

#include <filesystem>

#include "msplora/core/file.h"
#include "msplora/core/paths.h"

namespace msplora {

/// A directory that a command writes. Made at once, so that a wrong place is said before anything is loaded,
/// and taken away again with all that is in it where the command fails, unless it was there before.
class OutputDirectory {
 public:
  /// Throws as prepare_output_directory().
  OutputDirectory(std::filesystem::path path, bool overwrite)
      : path_(std::move(path)), is_new_(!path_exists(path_)) {
    prepare_output_directory(path_, overwrite);
  }
  ~OutputDirectory() {
    std::error_code ignored;
    if (is_new_) std::filesystem::remove_all(path_, ignored);
  }
  OutputDirectory(const OutputDirectory&) = delete;
  OutputDirectory& operator=(const OutputDirectory&) = delete;

  /// All was written.
  void keep() { is_new_ = false; }

 private:
  std::filesystem::path path_;
  bool is_new_;
};

}  // namespace msplora
