#pragma once

#include <cstdio>
#include <functional>
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

using LogSink = std::function<void(LogLevel, std::string_view message)>;

/// Where lines go from now on, for programs that embed the library; an empty function: to standard error
/// again. The sink gets what the level lets through, as it was said: no word in front, no JSON, control
/// characters of foreign names and texts included. It is called by whatever thread logs, one call at a time,
/// and must not wait for a thread that may log. When this returns, no call of the sink before is running (but
/// for one that calls this). What a sink throws goes no further; that line, and what is logged inside of a
/// sink, is written on standard error.
void set_log_sink(LogSink sink);

/// While it lives, the warnings that its thread logs are added to `to`, in order, each once, whatever level
/// is shown, up to a hundred: for the summary of a run. Where several live, to all of them.
class WarningCollector {
 public:
  explicit WarningCollector(std::vector<std::string>& to);
  ~WarningCollector();
  WarningCollector(const WarningCollector&) = delete;
  WarningCollector& operator=(const WarningCollector&) = delete;

  /// Adds to this one and those around it.
  void add(std::string_view message) const;

 private:
  std::vector<std::string>& to_;
  const WarningCollector* outer_;
};

/// Writes `text` as it is, at once. What cannot be written (a terminal that was closed, a full disk) is left
/// out: no work ends because nobody can look at it.
void show(std::FILE* stream, std::string_view text) noexcept;

/// One line on standard error: information as it is, the rest with a word in front ("warning: ..."). Or what
/// set_log_sink() says. Safe to call from several threads.
void log(LogLevel level, std::string_view message);

inline void log_info(std::string_view message) {
  log(LogLevel::kInfo, message);
}
inline void log_warning(std::string_view message) {
  log(LogLevel::kWarning, message);
}
/// Shown once in a process; every collector gets it.
void log_warning_once(const std::string& message);

}  // namespace msplora
