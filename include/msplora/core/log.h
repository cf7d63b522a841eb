#pragma once

#include <string_view>

namespace msplora {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

/// Sets what is shown; kInfo and above to begin with.
void set_log_level(LogLevel level);

/// One line on standard error: information as it is, the rest with a word in front ("warning: ..."). Safe to
/// call from several threads.
void log(LogLevel level, std::string_view message);

inline void log_info(std::string_view message) {
  log(LogLevel::kInfo, message);
}
inline void log_warning(std::string_view message) {
  log(LogLevel::kWarning, message);
}

}  // namespace msplora
