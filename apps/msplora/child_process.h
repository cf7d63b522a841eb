#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace msplora {

/// How a child process ended.
struct ProgramExit {
  int exit_code = 0;
  int signal = 0;  // that ended it, or 0
};

/// Runs this program again with other arguments and waits. What the child prints goes to the end of `log`.
///
/// An interrupt is passed on once, so that the child can save its state; when this process dies, so does the
/// child. Throws Error{kIo} when the child cannot be started.
ProgramExit run_program(const std::vector<std::string>& arguments, const std::filesystem::path& log);

}  // namespace msplora
