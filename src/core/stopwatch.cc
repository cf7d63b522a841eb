#include "msplora/core/stopwatch.h"

#include <ctime>

namespace msplora {
namespace {

double read_clock(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

void Stopwatch::restart() {
  began_ = read_clock(CLOCK_MONOTONIC);
  cpu_began_ = read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

double Stopwatch::seconds() const {
  return read_clock(CLOCK_MONOTONIC) - began_;
}

double Stopwatch::cpu_seconds() const {
  return read_clock(CLOCK_PROCESS_CPUTIME_ID) - cpu_began_;
}

}  // namespace msplora
