#include "msplora/core/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>

#include "msplora/core/log.h"

namespace msplora {
namespace {

constexpr int kBarWidth = 24;
constexpr double kRedrawSeconds = 0.1;

bool can_redraw(std::FILE* stream) {
  const char* terminal = std::getenv("TERM");
  if (log_format() == LogFormat::kJson) return false;
  return isatty(fileno(stream)) == 1 && terminal != nullptr && std::string(terminal) != "dumb";
}

size_t terminal_columns(std::FILE* stream) {
  winsize size{};
  if (ioctl(fileno(stream), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

}  // namespace

std::string format_duration(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(std::max(0.0, seconds)));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string format_count(double count) {
  if (count < 1e4) return fmt::format("{:.0f}", count);
  if (count < 1e6) return fmt::format("{:.1f}k", count / 1e3);
  if (count < 1e9) return fmt::format("{:.2f}M", count / 1e6);
  return fmt::format("{:.2f}G", count / 1e9);
}

Progress::Progress(std::string label, int64_t total, std::FILE* stream)
    : Progress(std::move(label), total, stream, can_redraw(stream)) {}

Progress::Progress(std::string label, int64_t total, std::FILE* stream, bool is_terminal)
    : label_(std::move(label)), total_(total), stream_(stream), is_terminal_(is_terminal) {}

Progress::~Progress() {
  finish();
}

void Progress::start_at(int64_t done) {
  start_ = done_ = done;
  watch_.restart();
}

void Progress::update(int64_t done, const std::string& detail) {
  done_ = done;
  if (!is_terminal_) return;
  detail_ = detail;
  const double now = watch_.seconds();
  if (drawn_ && now - last_draw_ < kRedrawSeconds && done < total_) return;
  last_draw_ = now;
  draw();
}

void Progress::line(const std::string& text) {
  erase();
  show(stream_, log_line(LogLevel::kInfo, text) + "\n");
}

void Progress::finish() {
  erase();
}

void Progress::draw() {
  const double share = total_ > 0 ? std::clamp(static_cast<double>(done_) / total_, 0.0, 1.0) : 0.0;
  const int filled = static_cast<int>(share * kBarWidth);
  const double elapsed = watch_.seconds();
  const int64_t done_here = done_ - start_;
  std::string left = "?";
  if (done_here > 0) left = format_duration(elapsed / done_here * std::max<int64_t>(0, total_ - done_));
  std::string text =
      fmt::format("{} [{:#<{}}{:.<{}}] {}/{}", label_, "", filled, "", kBarWidth - filled, done_, total_);
  if (!detail_.empty()) text += "  " + detail_;
  text += "  left " + left;
  const size_t columns = terminal_columns(stream_);
  if (text.size() >= columns) text.resize(columns - 1);  // a wrapped line could not be erased
  show(stream_, "\r" + text + "\x1b[K");
  drawn_ = true;
}

void Progress::erase() {
  if (!drawn_) return;
  show(stream_, "\r\x1b[K");
  drawn_ = false;
}

}  // namespace msplora
