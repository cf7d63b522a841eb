#pragma once

#include <stop_token>

namespace msplora {

/// Makes SIGINT, SIGTERM and (unless it is ignored, as under nohup) SIGHUP ask for a stop instead of ending
/// the process. A second signal ends it at once, for when stopping takes too long. Programs call this; the
/// library alone never touches signals.
void install_interrupt_handler();

/// Whether a stop was asked for: of the process, or of what this thread does (StopScope). Long work looks at
/// it between steps, saves its state and throws Error{kInterrupted}.
bool interrupt_requested() noexcept;

/// The signal that asked first; 0 when none did.
int interrupt_signal() noexcept;

/// Asks for a stop of all that the process does, e.g. from another thread.
void request_interrupt() noexcept;

/// Forgets a request (tests, programs that go on).
void clear_interrupt() noexcept;

/// Stops one piece of work among several in a process: while this lives, interrupt_requested() on the thread
/// that made it is also true once a stop of `stop` was requested. Scopes nest; those around it count too.
/// Made and destroyed as a local variable is.
///
///     std::stop_source button;
///     std::thread worker([&] {
///       const msplora::StopScope scope(button.get_token());
///       tokenizer.encode_batch(texts);  // throws Error{kInterrupted} after button.request_stop()
///     });
class StopScope {
 public:
  explicit StopScope(std::stop_token stop);
  /// For a thread that works for another one, which waits for it: what stops `caller`, the other thread's
  /// current(), stops it too.
  explicit StopScope(const StopScope* caller);
  ~StopScope();
  StopScope(const StopScope&) = delete;
  StopScope& operator=(const StopScope&) = delete;

  /// The innermost one of this thread, or null.
  static const StopScope* current() noexcept;

  /// Of this one or of one around it.
  bool stop_requested() const noexcept;

 private:
  std::stop_token stop_;
  const StopScope* outer_;   // that counts, too
  const StopScope* before_;  // current() again when this is gone
};

}  // namespace msplora
