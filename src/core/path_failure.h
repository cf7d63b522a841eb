#pragma once

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>

#include "msplora/core/error.h"

namespace msplora::detail {

/// Throws Error{kIo}: "cannot `action`" and what the system says of the errno `code`.
[[noreturn]] inline void fail_at(const std::filesystem::path& path, const std::string& action, int code) {
  std::string hint;
  if (code == ENOSPC || code == EDQUOT) hint = "the disk is full; nothing was replaced";
  if (code == EACCES || code == EPERM) hint = "check the permissions of the file and its directory";
  throw Error(ErrorCode::kIo, path.string(), "cannot " + action + ": " + std::strerror(code), hint);
}

}  // namespace msplora::detail
