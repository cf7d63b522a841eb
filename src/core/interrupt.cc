#include "msplora/core/interrupt.h"

#include <atomic>
#include <csignal>
#include <utility>

namespace msplora {
namespace {

std::atomic<bool> requested{false};
std::atomic<int> received{0};
thread_local constinit const StopScope* innermost_scope = nullptr;
static_assert(std::atomic<bool>::is_always_lock_free, "signal handlers may only touch lock-free atomics");

extern "C" void handle_signal(int signal) {
  int none = 0;
  received.compare_exchange_strong(none, signal);
  if (requested.exchange(true)) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
}

}  // namespace

void install_interrupt_handler() {
  struct sigaction action = {};
  action.sa_handler = handle_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;  // reads and writes in progress go on
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  // nohup has it ignored, and that stands.
  struct sigaction before = {};
  if (sigaction(SIGHUP, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) {
    sigaction(SIGHUP, &action, nullptr);
  }
}

bool interrupt_requested() noexcept {
  return requested.load(std::memory_order_relaxed) ||
         (innermost_scope != nullptr && innermost_scope->stop_requested());
}
int interrupt_signal() noexcept {
  return received.load(std::memory_order_relaxed);
}
void request_interrupt() noexcept {
  requested = true;
}
void clear_interrupt() noexcept {
  requested = false;
  received = 0;
}

StopScope::StopScope(std::stop_token stop)
    : stop_(std::move(stop)), outer_(innermost_scope), before_(std::exchange(innermost_scope, this)) {}

StopScope::StopScope(const StopScope* caller)
    : outer_(caller), before_(std::exchange(innermost_scope, this)) {}

StopScope::~StopScope() {
  innermost_scope = before_;
}

const StopScope* StopScope::current() noexcept {
  return innermost_scope;
}

bool StopScope::stop_requested() const noexcept {
  for (const StopScope* scope = this; scope != nullptr; scope = scope->outer_)
    if (scope->stop_.stop_requested()) return true;
  return false;
}

}  // namespace msplora
