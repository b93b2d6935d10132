#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

namespace shoal {
namespace {

thread_local std::string thread_name = "shoal";

spdlog::logger& Logger() {
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto made =
        std::make_shared<spdlog::logger>("shoal", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern("%Y-%m-%d %H:%M:%S.%e %^%L%$ %v");
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *logger;
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

}  // namespace

bool SetLogLevel(std::string_view name) {
  for (LogLevel level : {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError}) {
    static constexpr std::string_view kNames[] = {"debug", "info", "warning", "error"};
    if (name == kNames[static_cast<int>(level)]) {
      Logger().set_level(ToSpdlog(level));
      return true;
    }
  }
  return false;
}

void SetThreadLogName(std::string_view node_name, int rank) {
  thread_name = rank < 0 ? std::string(node_name) : fmt::format("{}/{}", node_name, rank);
}

void SwapThreadLogName(std::string& name) { thread_name.swap(name); }

bool LogEnabled(LogLevel level) { return Logger().should_log(ToSpdlog(level)); }

void LogLine(LogLevel level, std::string_view text) {
  Logger().log(ToSpdlog(level), fmt::format("[{}] {}", thread_name, text));
}

}  // namespace shoal
