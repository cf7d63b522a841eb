#include "msplora/core/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <string_view>

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

}  // namespace

void set_log_level(LogLevel level) {
  logger().set_level(to_spdlog(level));
}

void log(LogLevel level, std::string_view message) {
  const char* word = level == LogLevel::kDebug     ? "debug: "
                     : level == LogLevel::kWarning ? "warning: "
                     : level == LogLevel::kError   ? "error: "
                                                   : "";
  logger().log(to_spdlog(level), "{}{}", word, printable(message));
}

}  // namespace msplora
