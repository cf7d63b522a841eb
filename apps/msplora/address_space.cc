// Under a limit on address space (ulimit -v) too small for the libraries of the program, it would never reach
// main(): OpenBLAS asks for its buffers for ever, or libtorch's constructors end in std::terminate. This
// looks first.
#include <climits>  // defines __GLIBC__ where there is one

#if defined(__linux__) && defined(__GLIBC__)
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

// The sanitizers are not ready yet when this runs, and they need far more room themselves.
#define MSPLORA_RUNS_FIRST __attribute__((no_sanitize("address", "undefined")))

namespace {

// What constructors and the start of main() take on top of the libraries themselves: with 293 MiB they end in
// bad_alloc on Debian 12, with 341 the program starts.
constexpr unsigned long kStartBytes = 320UL << 20;

MSPLORA_RUNS_FIRST unsigned long mapped_bytes() {
  char text[64];
  const int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  const ssize_t size = read(file, text, sizeof(text));
  close(file);
  unsigned long pages = 0;
  for (ssize_t i = 0; i < size && text[i] >= '0' && text[i] <= '9'; ++i) {
    pages = pages * 10 + static_cast<unsigned long>(text[i] - '0');
  }
  return pages * static_cast<unsigned long>(sysconf(_SC_PAGESIZE));
}

MSPLORA_RUNS_FIRST void say(const char* text) {
  unsigned long size = 0;
  while (text[size] != '\0') ++size;
  if (write(STDERR_FILENO, text, size) < 0) return;
}

MSPLORA_RUNS_FIRST void say_megabytes(unsigned long bytes) {
  char digits[24];
  char* begin = digits + sizeof(digits) - 1;
  *begin = '\0';
  for (unsigned long rest = bytes >> 20; rest > 0 || *begin == '\0'; rest /= 10) {
    *--begin = static_cast<char>('0' + rest % 10);
  }
  say(begin);
  say(" MiB");
}

MSPLORA_RUNS_FIRST void check_address_space(int, char**, char**) {
  rlimit limit{};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  const unsigned long mapped = mapped_bytes();
  if (mapped == 0 || mapped + kStartBytes <= limit.rlim_cur) return;
  say("msplora: error: memory: the limit on address space (ulimit -v) is ");
  say_megabytes(limit.rlim_cur);
  say(", and the libraries of the program alone need ");
  say_megabytes(mapped + kStartBytes);
  say("; raise it, or limit the memory of the control group instead\n");
  _exit(1);
}

__attribute__((section(".preinit_array"), used)) void (*first)(int, char**, char**) = &check_address_space;

}  // namespace
#endif
