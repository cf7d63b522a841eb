#pragma once

namespace msplora {

/// Makes SIGINT, SIGTERM and (unless it is ignored, as under nohup) SIGHUP ask for a stop instead of ending
/// the process. A second signal ends it at once, for when stopping takes too long. Programs call this; the
/// library alone never touches signals.
void install_interrupt_handler();

/// Whether a stop was asked for. Long work looks at it between steps, saves its state and throws
/// Error{kInterrupted}.
bool interrupt_requested() noexcept;

/// The signal that asked first; 0 when none did.
int interrupt_signal() noexcept;

/// Asks for a stop from code, e.g. from another thread.
void request_interrupt() noexcept;

/// Forgets a request (tests, programs that go on).
void clear_interrupt() noexcept;

}  // namespace msplora
