#include "child_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "msplora/core/error.h"
#include "msplora/core/interrupt.h"
#include "msplora/core/paths.h"

namespace msplora {
namespace {

/// Between fork and exec only calls that are safe in a copy of a process with threads.
[[noreturn]] void become(const char* program, char* const* arguments, int log, pid_t parent) {
  setpgid(0, 0);  // Ctrl-C reaches the parent alone, which passes it on
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // it died before the call above
  const int nothing = open("/dev/null", O_RDONLY);
  dup2(nothing, STDIN_FILENO);
  dup2(log, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  execv(program, arguments);
  _exit(127);
}

ProgramExit wait_for(pid_t child) {
  bool passed_on = false;
  int status = 0;
  for (;;) {
    const pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended < 0 && errno != EINTR) {
      throw Error(ErrorCode::kIo, "waitpid", std::strerror(errno));
    }
    if (ended == child) break;
    if (interrupt_requested() && !passed_on) {
      kill(child, SIGINT);
      passed_on = true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  if (WIFSIGNALED(status)) return {0, WTERMSIG(status)};
  return {WEXITSTATUS(status), 0};
}

}  // namespace

ProgramExit run_program(const std::vector<std::string>& arguments, const std::filesystem::path& log) {
  const std::string program = path_of_program().string();
  std::vector<std::string> all = {program};
  all.insert(all.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& argument : all) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  const int file = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file < 0)
    throw Error(ErrorCode::kIo, log.string(), std::string("cannot open: ") + std::strerror(errno));
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child == 0) become(program.c_str(), pointers.data(), file, parent);
  const int problem = errno;
  close(file);
  if (child < 0) {
    throw Error(ErrorCode::kIo, program, std::string("cannot start a process: ") + std::strerror(problem));
  }
  return wait_for(child);
}

}  // namespace msplora
