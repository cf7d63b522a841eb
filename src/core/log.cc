#include "msplora/core/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "msplora/core/dump_json.h"
#include "msplora/core/error.h"

namespace msplora {
namespace {

spdlog::logger& logger() {
  // Its own logger, not spdlog's default one: a program that links the library may use that differently.
  static const auto instance = [] {
    auto made =
        std::make_shared<spdlog::logger>("msplora", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%v");
    made->flush_on(spdlog::level::trace);
    return made;
  }();
  return *instance;
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
    case LogLevel::kOff:
      break;
  }
  return spdlog::level::off;
}

const char* word_of(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
    default:
      return "info";
  }
}

std::atomic<LogFormat> chosen_format{LogFormat::kText};
thread_local constinit const WarningCollector* innermost_collector = nullptr;

void collect(std::string_view message) {
  if (innermost_collector != nullptr) innermost_collector->add(message);
}

struct SinkPlace {
  std::recursive_mutex mutex;  // a sink may log, and set another
  std::shared_ptr<const LogSink> sink;
  bool is_running = false;
};

SinkPlace& sink_place() {
  static auto& place = *new SinkPlace;  // never destroyed: what is destroyed late may log
  return place;
}

/// Whether there is a sink and it took the message.
bool give_to_sink(LogLevel level, std::string_view message) {
  SinkPlace& place = sink_place();
  const std::lock_guard lock(place.mutex);
  if (!place.sink || place.is_running) return false;
  const std::shared_ptr<const LogSink> sink = place.sink;
  bool is_taken = true;
  place.is_running = true;
  try {
    (*sink)(level, message);
  } catch (...) {
    is_taken = false;
  }
  place.is_running = false;
  return is_taken;
}

}  // namespace

void set_log_format(LogFormat format) {
  chosen_format = format;
}

LogFormat log_format() {
  return chosen_format;
}

std::string utc_time() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto since = now.time_since_epoch();
  const int64_t milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(since).count() % 1000;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
  return fmt::format("{}.{:03}Z", text, milliseconds);
}

std::string clock_time() {
  const std::time_t seconds = std::time(nullptr);
  std::tm parts{};
  localtime_r(&seconds, &parts);
  char text[16];
  std::strftime(text, sizeof(text), "%H:%M:%S", &parts);
  return text;
}

std::string log_line(LogLevel level, std::string_view message) {
  const char* word = word_of(level);
  if (log_format() == LogFormat::kText) {
    return level == LogLevel::kInfo ? printable(message) : fmt::format("{}: {}", word, printable(message));
  }
  const nlohmann::ordered_json line = {
      {"time", utc_time()}, {"level", word}, {"message", std::string(message)}};
  return dump_json(line);
}

WarningCollector::WarningCollector(std::vector<std::string>& to)
    : to_(to), outer_(std::exchange(innermost_collector, this)) {}

WarningCollector::~WarningCollector() {
  innermost_collector = outer_;
}

void WarningCollector::add(std::string_view message) const {
  constexpr size_t kMost = 100;
  if (to_.size() < kMost && std::find(to_.begin(), to_.end(), message) == to_.end())
    to_.emplace_back(message);
  if (outer_ != nullptr) outer_->add(message);
}

void set_log_sink(LogSink sink) {
  auto next = sink ? std::make_shared<const LogSink>(std::move(sink)) : nullptr;
  SinkPlace& place = sink_place();
  const std::lock_guard lock(place.mutex);
  place.sink.swap(next);
}

void set_log_level(LogLevel level) {
  logger().set_level(to_spdlog(level));
}

void show(std::FILE* stream, std::string_view text) noexcept {
  std::fwrite(text.data(), 1, text.size(), stream);
  std::fflush(stream);
  std::clearerr(stream);
}

void log(LogLevel level, std::string_view message) {
  if (level == LogLevel::kWarning) collect(message);
  if (!logger().should_log(to_spdlog(level)) || give_to_sink(level, message)) return;
  logger().log(to_spdlog(level), "{}", log_line(level, message));
}

void log_warning_once(const std::string& message) {
  static std::mutex mutex;
  static std::set<std::string> said;
  bool is_new = false;
  {
    const std::lock_guard lock(mutex);
    is_new = said.insert(message).second;
  }
  if (is_new) return log_warning(message);
  collect(message);
}

}  // namespace msplora
