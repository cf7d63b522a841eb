#pragma once

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace msplora {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

/// Sets what is shown; kInfo and above to begin with.
void set_log_level(LogLevel level);

enum class LogFormat { kText, kJson };

/// kJson: every line on standard error, those of Progress too, is an object with `time`, `level` and
/// `message`.
void set_log_format(LogFormat format);
LogFormat log_format();

/// Now, as "2026-11-26T22:08:26.123Z".
std::string utc_time();
/// Now, here, as "22:08:26".
std::string clock_time();

/// What a line looks like in the format that is set, without its end.
std::string log_line(LogLevel level, std::string_view message);

/// The warnings of this process so far, in order, each once (the first hundred): for the summary of a run.
std::vector<std::string> logged_warnings();

/// Writes `text` as it is, at once. What cannot be written (a terminal that was closed, a full disk) is left
/// out: no work ends because nobody can look at it.
void show(std::FILE* stream, std::string_view text) noexcept;

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
