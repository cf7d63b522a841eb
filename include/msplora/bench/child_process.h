#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace msplora {

/// What a program printed and used.
struct ChildResult {
  int exit_code = 0;   // 128 + signal when one ended it
  std::string output;  // standard output; standard error goes where ours goes
  int64_t peak_memory_bytes = 0;
};

/// Runs a program (found in PATH) and waits for it. Throws Error{kIo} when it cannot be started.
ChildResult run_child(const std::vector<std::string>& arguments);

}  // namespace msplora
