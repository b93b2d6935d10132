#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>

#include "base/log_name.h"

namespace shoal {
namespace {

constexpr std::string_view kUnnamed = "shoal";
thread_local std::string thread_name{kUnnamed};

struct ProcessName {
  std::string node;
  int rank = -1;
};
ProcessName& OwnName() {
  static ProcessName name;
  return name;
}

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

void SetProcessLogName(std::string_view node_name, int rank) { OwnName() = {std::string(node_name), rank}; }

bool HasProcessLogName() { return !OwnName().node.empty(); }

std::string CurrentLogName() { return LogNameOf(OwnName().node, OwnName().rank, thread_name); }

std::string LogNameOf(std::string_view process, int rank, std::string_view thread) {
  if (process.empty()) return std::string(thread);
  const std::string_view node = thread.substr(0, thread.rfind('/'));
  if (node == process && rank < 0) return std::string(thread);
  std::string name = rank < 0 ? std::string(process) : fmt::format("{}/{}", process, rank);
  if (node != process && thread != kUnnamed) name += fmt::format(" {}", thread);
  return name;
}

bool LogEnabled(LogLevel level) { return Logger().should_log(ToSpdlog(level)); }

void LogLine(LogLevel level, std::string_view text) {
  // Each line names its node, also those of a text of several.
  const std::string name = CurrentLogName();
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (end > begin || text.empty()) {
      Logger().log(ToSpdlog(level), fmt::format("[{}] {}", name, text.substr(begin, end - begin)));
    }
    begin = end + 1;
  }
}

}  // namespace shoal
