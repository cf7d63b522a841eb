#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "msplora/core/stopwatch.h"

namespace msplora {

/// "0:42", "3:07", "2:05:09".
std::string format_duration(double seconds);

/// "912", "13.4k", "2.05M".
std::string format_count(double count);

/// The progress of one long piece of work: a bar that redraws itself in place on a terminal, and nothing but
/// the lines given to line() elsewhere, so that logs stay readable.
class Progress {
 public:
  /// `total` is the count that update() reaches. Writes to `stream` (not owned), normally stderr.
  Progress(std::string label, int64_t total, std::FILE* stream = stderr);
  /// The same with the choice made by the caller.
  Progress(std::string label, int64_t total, std::FILE* stream, bool is_terminal);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Work that was done before this process began (a resumed run): not counted for the time left.
  void start_at(int64_t done);

  /// Redraws the bar when the last drawing is old enough. `detail` stands behind the count, e.g. "loss 0.31".
  void update(int64_t done, const std::string& detail = {});

  /// Prints a whole line, above the bar on a terminal.
  void line(const std::string& text);

  /// Removes the bar. Called by the destructor.
  void finish();

  bool is_terminal() const { return is_terminal_; }

 private:
  void draw();
  void erase();

  std::string label_;
  int64_t total_;
  std::FILE* stream_;
  bool is_terminal_;
  int64_t start_ = 0;
  int64_t done_ = 0;
  std::string detail_;
  bool drawn_ = false;
  Stopwatch watch_;
  double last_draw_ = 0.0;  // seconds of the watch
};

}  // namespace msplora
