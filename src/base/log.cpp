#include "base/log.h"

#include <fmt/chrono.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/log_format.h"
#include "base/log_name.h"
#include "base/log_ring.h"

namespace shoal {
namespace {

constexpr std::string_view kUnnamed = "shoal";
thread_local std::string thread_name{kUnnamed};
thread_local std::string_view thread_request;
constexpr char kTextPattern[] = "%Y-%m-%d %H:%M:%S.%e %^%L%$ %v";
bool writes_json = false;  // Set before there are other threads.

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
    made->set_pattern(kTextPattern);
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *logger;
}

/// As the logger stamps its lines.
int64_t UnixMilliseconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

LogRing& Ring() {
  static LogRing ring;
  return ring;
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

/// "node/rank" as its two; without a rank the name as it is.
ProcessName SplitName(std::string_view name) {
  const size_t slash = name.rfind('/');
  int rank = -1;
  if (slash != std::string_view::npos) {
    const std::string_view digits = name.substr(slash + 1);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), rank);
    if (error == std::errc() && end == digits.data() + digits.size())
      return {std::string(name.substr(0, slash)), rank};
  }
  return {std::string(name), -1};
}

LogFields CurrentFields(LogLevel level) {
  LogFields fields{.level = level, .request = std::string(thread_request)};
  const ProcessName& own = OwnName();
  const ProcessName here = SplitName(thread_name);
  if (own.node.empty()) {
    fields.node = here.node;
    fields.rank = here.rank;
    return fields;
  }
  fields.node = own.node;
  fields.rank = own.rank;
  if (here.node == own.node) {
    if (fields.rank < 0) fields.rank = here.rank;
  } else if (here.node != kUnnamed) {
    fields.thread = thread_name;
  }
  return fields;
}

}  // namespace

bool SetLogFormat(std::string_view name) {
  if (name != "text" && name != "json") return false;
  writes_json = name == "json";
  Logger().set_pattern(writes_json ? "%v" : kTextPattern);
  return true;
}

bool LogWritesJson() { return writes_json; }

LogRequest::LogRequest(std::string_view id) : before_(std::exchange(thread_request, id)) {}
LogRequest::~LogRequest() { thread_request = before_; }

std::string LogLineJson(int64_t unix_ms, const LogFields& fields, std::string_view message) {
  nlohmann::ordered_json line;
  line["time"] = fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(unix_ms / 1000), unix_ms % 1000);
  line["level"] = Name(fields.level);
  line["node"] = fields.node;
  if (fields.rank >= 0) line["rank"] = fields.rank;
  if (!fields.thread.empty()) line["thread"] = fields.thread;
  if (!fields.request.empty()) line["request"] = fields.request;
  line["message"] = message;
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

bool SetLogLevel(std::string_view name) {
  LogLevel level = LogLevel::kInfo;
  if (!ParseLogLevel(name, level)) return false;
  Logger().set_level(ToSpdlog(level));
  return true;
}

std::vector<LoggedLine> RecentLog(const LogQuery& query) { return Ring().read(query); }

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
  if (writes_json) Logger().log(ToSpdlog(level), LogLineJson(UnixMilliseconds(), CurrentFields(level), text));
  // Each line names its node, also those of a text of several.
  const std::string name = CurrentLogName();
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    if (end > begin || text.empty()) {
      const std::string line = fmt::format("[{}] {}", name, text.substr(begin, end - begin));
      if (LogEnabled(level)) Ring().add(level, line, UnixMilliseconds());
      if (!writes_json) Logger().log(ToSpdlog(level), line);
    }
    begin = end + 1;
  }
}

}  // namespace shoal
