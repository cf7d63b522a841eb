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
#include <string>
#include <string_view>
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
std::mutex warnings_mutex;
std::vector<std::string> warnings;

void remember(std::string_view message) {
  constexpr size_t kMost = 100;
  const std::lock_guard lock(warnings_mutex);
  if (warnings.size() < kMost && std::find(warnings.begin(), warnings.end(), message) == warnings.end()) {
    warnings.emplace_back(message);
  }
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

std::vector<std::string> logged_warnings() {
  const std::lock_guard lock(warnings_mutex);
  return warnings;
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
  if (level == LogLevel::kWarning) remember(message);
  logger().log(to_spdlog(level), "{}", log_line(level, message));
}

}  // namespace msplora
