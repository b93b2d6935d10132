// Logging to stderr, for people: "2026-11-21 10:00:00.123 I [node-b/1] loaded layers [3, 5) ...".
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

namespace shoal {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

/// Drops lines below the level `name`: "debug", "info", "warning" or "error". Returns false for other names.
bool SetLogLevel(std::string_view name);

/// Sets the name in brackets on every line that this thread logs: "node_name/rank"; no rank if it is < 0.
void SetThreadLogName(std::string_view node_name, int rank);
/// Exchanges it, brackets' content as a whole: for a thread that does the work of several by turns.
void SwapThreadLogName(std::string& name);

void LogLine(LogLevel level, std::string_view text);
bool LogEnabled(LogLevel level);

template <typename... Args>
void Log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  if (LogEnabled(level)) LogLine(level, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void LogInfo(fmt::format_string<Args...> format, Args&&... args) {
  Log(LogLevel::kInfo, format, std::forward<Args>(args)...);
}
template <typename... Args>
void LogDebug(fmt::format_string<Args...> format, Args&&... args) {
  Log(LogLevel::kDebug, format, std::forward<Args>(args)...);
}
template <typename... Args>
void LogWarning(fmt::format_string<Args...> format, Args&&... args) {
  Log(LogLevel::kWarning, format, std::forward<Args>(args)...);
}
template <typename... Args>
void LogError(fmt::format_string<Args...> format, Args&&... args) {
  Log(LogLevel::kError, format, std::forward<Args>(args)...);
}

}  // namespace shoal
