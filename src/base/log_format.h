// How lines of the log are written: for people, or one JSON object each for programs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/log.h"

namespace shoal {

/// "text" (the default) or "json", for the whole process. Returns false for other names. Call it before there are other
/// threads.
bool SetLogFormat(std::string_view name);
bool LogWritesJson();

/// Names the request that the calling thread works for, on the lines of JSON that it logs meanwhile; they nest.
class LogRequest {
 public:
  /// `id` must outlive it.
  explicit LogRequest(std::string_view id);
  ~LogRequest();
  LogRequest(const LogRequest&) = delete;
  LogRequest& operator=(const LogRequest&) = delete;

 private:
  const std::string_view before_;
};

/// What a line of JSON says beside its text. Empty texts, and a rank below 0, are left out of it.
struct LogFields {
  LogLevel level = LogLevel::kInfo;
  std::string node;
  int rank = -1;
  std::string thread;  ///< The part of the process, where it has a name of its own.
  std::string request;
};

/// {"time": "2026-12-01T10:00:00.123Z", "level", "node", "rank", "thread", "request", "message"} on one line, without its
/// end. unix_ms: since the Unix epoch. What is not UTF-8 gets U+FFFD.
std::string LogLineJson(int64_t unix_ms, const LogFields& fields, std::string_view message);

}  // namespace shoal
