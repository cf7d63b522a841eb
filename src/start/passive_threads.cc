// Makes the threads of OpenMP sleep when they have waited for some microseconds. By default libgomp's spin
// for about a millisecond, and beside another busy process the spinning ones hold the processors that the
// working ones need.
//
// libgomp reads GOMP_SPINCOUNT once, in its constructor: before main() and before any constructor of a
// program. What runs earlier is the program's .preinit_array. The environment that constructors see is the
// vector of pointers that the kernel left on the stack, and there is no room in it for one more, so the place
// of a variable that no library reads is borrowed until the constructors are through. A program whose
// environment has none of those is started again, with the variable in it.
#include <climits>  // defines __GLIBC__ where there is one

#if defined(__linux__) && defined(__GLIBC__)
#include <sys/auxv.h>
#include <unistd.h>

#define MSPLORA_BORROWS_ENVIRONMENT
#endif

// What links this file in: cmake asks the linker for the name (-u).
extern "C" {
extern const char msplora_passive_threads[];
const char msplora_passive_threads[] = "GOMP_SPINCOUNT=1000";
}

#ifdef MSPLORA_BORROWS_ENVIRONMENT
// The sanitizers are not ready yet when this runs.
#define MSPLORA_RUNS_FIRST __attribute__((no_sanitize("address", "undefined")))

namespace {

char* const kSetting = const_cast<char*>(msplora_passive_threads);
char* borrowed = nullptr;  // the variable whose place holds kSetting

MSPLORA_RUNS_FIRST bool names(const char* variable, const char* name) {
  while (*name != '\0' && *variable == *name) {
    ++variable;
    ++name;
  }
  return *name == '\0' && *variable == '=';
}

// The user's choice stands, in whichever form libgomp or LLVM's libomp take it.
MSPLORA_RUNS_FIRST bool is_choice(const char* variable) {
  return names(variable, "OMP_WAIT_POLICY") || names(variable, "GOMP_SPINCOUNT") ||
         names(variable, "KMP_BLOCKTIME") || names(variable, "KMP_LIBRARY");
}

MSPLORA_RUNS_FIRST bool may_be_borrowed(const char* variable) {
  return names(variable, "_") || names(variable, "OLDPWD") || names(variable, "SHLVL") ||
         names(variable, "PWD") || names(variable, "HOSTNAME") || names(variable, "LOGNAME") ||
         names(variable, "MAIL") || names(variable, "INVOCATION_ID");
}

MSPLORA_RUNS_FIRST void start_again(char** arguments, char** environment, int count) {
  // A program that was given to ld.so by hand: /proc/self/exe is ld.so.
  if (getauxval(AT_BASE) == 0) return;
  char** extended =
      static_cast<char**>(__builtin_alloca(sizeof(char*) * (static_cast<unsigned long>(count) + 2)));
  extended[0] = kSetting;
  for (int i = 0; i <= count; ++i) extended[i + 1] = environment[i];
  execve("/proc/self/exe", arguments, extended);  // where it cannot be, threads spin as before
}

MSPLORA_RUNS_FIRST void ask_for_passive_threads(int, char** arguments, char** environment) {
  char** place = nullptr;
  int count = 0;
  for (; environment[count] != nullptr; ++count) {
    if (is_choice(environment[count])) return;
    if (place == nullptr && may_be_borrowed(environment[count])) place = &environment[count];
  }
  if (place == nullptr) return start_again(arguments, environment, count);
  borrowed = *place;
  *place = kSetting;
}

// The first constructor of the program; those of its libraries have run. Children get the environment as it
// was.
__attribute__((constructor(101))) void give_back() {
  for (char** place = environ; borrowed != nullptr && place != nullptr && *place != nullptr; ++place) {
    if (*place == kSetting) *place = borrowed;
  }
  borrowed = nullptr;
}

__attribute__((section(".preinit_array"), used)) void (*first)(int, char**,
                                                               char**) = &ask_for_passive_threads;

}  // namespace
#endif
